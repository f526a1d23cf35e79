//! `twill-bench`: `cargo xtask bench` builds what it needs and runs it.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the report goes to people"
)]

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser as _;
use twill_bench::args::Args;
use twill_bench::report::{Report, html, terminal};
use twill_bench::{alone, rounds};
use twill_testbed::signals;
use twill_testbed::wait::check_interrupt;

/// Exit code after a signal, as a shell would give for SIGINT.
const INTERRUPTED: u8 = 128 + 2;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(code) => code,
        Err(_) if check_interrupt().is_err() => {
            eprintln!("bench: interrupted; everything is removed");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    let report = match &args.from {
        Some(path) => read(path)?,
        None => measure(args)?,
    };
    println!("{}", terminal::text(&report));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report).context("write JSON")?;
        write(path, &(text + "\n"))?;
    }
    if let Some(path) = &args.html {
        write(path, &html::text(&report)?)?;
    }
    Ok(if report.problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn measure(args: &Args) -> Result<Report> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the bench makes network namespaces and loads BPF programs: run it as root");
    }
    signals::watch()?;
    // Held until the end.
    let _alone = alone::claim()?;
    if let Some(remark) = args.remark() {
        eprintln!("bench: {remark}");
    }
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    rounds::run(&args.plan(), args.programs()?.as_ref(), command)
}

fn read(path: &Path) -> Result<Report> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is no report of this version", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
