//! `cargo xtask bench`: prepares, builds everything optimised, and hands over to the bench.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap::error::ErrorKind;

use crate::build::Profile;
use crate::{Cli, build, console, interrupt, privilege, process, setup};

/// What `bench` takes: the bench's own arguments.
#[derive(Clone, Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Arguments of the bench, as --quick, --json FILE or --help
    #[arg(
        value_name = "ARGUMENT",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    arguments: Vec<String>,
}

/// The command; its exit code is the bench's.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut bench = if measures(&args.arguments) {
        if let Some(why) = contradiction(&args.arguments) {
            // As the bench would say it, after minutes of building.
            let error = Cli::command().error(ErrorKind::ArgumentConflict, why);
            error.exit();
        }
        privilege::require_root("the bench")?;
        let toolchain = setup::ensure(setup::Purpose::Machine)?;
        privilege::require_kernel("the bench")?;
        console::step("build optimised binaries (the first time this takes several minutes)");
        let built = build::build(&toolchain, Profile::RELEASE)?;
        let mut bench = Command::new(binary()?);
        built.describe(&mut bench);
        if takes_flanneld(&args.arguments) {
            // Without one the kernel's device is set up as it would do it.
            match setup::flanneld::provide() {
                Ok(flanneld) => drop(bench.arg("--flanneld").arg(flanneld)),
                Err(error) => console::error(&error),
            }
        }
        bench
    } else {
        Command::new(binary()?)
    };
    // Where the caller is: files are named from there.
    bench.args(&args.arguments).stdin(Stdio::null());
    let line = process::line(&bench);
    let status = interrupt::wait_for(&mut bench).context(line)?;
    Ok(interrupt::code(status))
}

fn binary() -> Result<std::path::PathBuf> {
    build::binary("twill-bench", "twill-bench", Profile::RELEASE)
}

/// Whether these arguments ask for more than words or an old run's charts.
fn measures(arguments: &[String]) -> bool {
    let mut arguments = arguments.iter().map(String::as_str);
    !arguments.any(|argument| {
        matches!(argument, "-h" | "--help" | "-V" | "--version") || argument.starts_with("--from")
    })
}

/// What the bench would refuse of these arguments, of what people may well ask for: charts are of
/// the usual run alone.
fn contradiction(arguments: &[String]) -> Option<String> {
    let named = |flag: &str| {
        let with_value = format!("{flag}=");
        let mut arguments = arguments.iter();
        arguments.any(|argument| argument == flag || argument.starts_with(&with_value))
    };
    let others = [
        "--growth",
        "--guard",
        "--programs",
        "--converge",
        "--check-load",
    ];
    let other = others.into_iter().find(|flag| named(flag))?;
    named("--html").then(|| format!("--html cannot be used with {other}"))
}

/// Whether these arguments ask for something that a real flanneld has a part in, and name none.
fn takes_flanneld(arguments: &[String]) -> bool {
    !arguments.iter().any(|argument| {
        argument.starts_with("--flanneld")
            || matches!(argument.as_str(), "--programs" | "--check-load")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_flanneld_is_given_where_one_has_a_part() {
        assert!(takes_flanneld(&words("--quick --json run.json")));
        assert!(takes_flanneld(&words("--growth")));
        assert!(!takes_flanneld(&words("--flanneld=/opt/flanneld")));
        assert!(!takes_flanneld(&words("--quick --flanneld /opt/flanneld")));
        assert!(!takes_flanneld(&words("--programs --quick")));
    }

    #[test]
    fn what_the_bench_would_refuse_is_refused_before_it_is_built() {
        for text in ["--growth --html x.html", "--html=x.html --converge 5,6"] {
            let why = contradiction(&words(text)).unwrap();
            assert!(text.contains(why.rsplit(' ').next().unwrap()), "{why}");
        }
        assert_eq!(contradiction(&words("--growth --json x.json")), None);
        assert_eq!(contradiction(&words("--quick --html x.html")), None);
    }

    #[test]
    fn help_needs_no_root() {
        assert!(!measures(&words("--quick --help")));
        assert!(!measures(&words("--from=run.json --html run.html")));
        assert!(measures(&words("--quick --json run.json")));
        assert!(measures(&[]));
    }
}
