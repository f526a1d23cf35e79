//! `cargo xtask demo`: prepares, builds, and hands over to the demo program.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};

use crate::build::Profile;
use crate::setup::Purpose;
use crate::{build, console, interrupt, places, privilege, process, setup};

/// What `demo` takes.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave everything running at the end, and say how to enter it
    #[arg(long)]
    keep: bool,
    /// Print the result as JSON, for scripts
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    profile: Profile,
}

/// The command; its exit code is the demo's.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let Args {
        keep,
        json,
        profile,
    } = args;
    privilege::require_root("the demo")?;
    let toolchain = setup::ensure(Purpose::Machine)?;
    privilege::require_kernel("the demo")?;
    let built = build::build(&toolchain, profile)?;
    let demo = build::binary("twill-testbed", "twill-demo", profile)?;

    console::step("run the demo");
    let mut command = Command::new(demo);
    command
        .args(keep.then_some("--keep"))
        .args(json.then_some("--json"))
        .current_dir(places::root())
        .stdin(Stdio::null());
    built.describe(&mut command);
    let line = process::line(&command);
    let status = interrupt::wait_for(&mut command).context(line)?;
    Ok(interrupt::code(status))
}
