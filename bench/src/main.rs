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
use serde::Serialize;
use serde::de::DeserializeOwned;
use twill_bench::args::Args;
use twill_bench::programs::{self, ProgramsReport};
use twill_bench::report::{Report, html, terminal};
use twill_bench::{alone, crosscheck, growth, guard, rounds};
use twill_testbed::signals;
use twill_testbed::wait::check_interrupt;

/// Rounds of `--check-load`.
const CHECK_ROUNDS: u32 = 10;
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
    if let Some(path) = &args.from {
        return tell(args, &read(path)?);
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("the bench makes network namespaces and loads BPF programs: run it as root");
    }
    signals::watch()?;
    // Held until the end.
    let _alone = alone::claim()?;
    if args.check_load {
        let checked = crosscheck::run(args.rounds.unwrap_or(CHECK_ROUNDS))?;
        println!("{}", crosscheck::text(&checked));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(remark) = args.remark() {
        eprintln!("bench: {remark}");
    }
    if args.programs {
        return programs(args);
    }
    if args.growth {
        let report = growth::run(&args.growth_plan()?)?;
        println!("{}", growth::text(&report));
        write_json(args, &report)?;
        return Ok(code(report.is_complete()));
    }
    if args.guard {
        let report = guard::run(&args.guard_plan()?)?;
        println!("{}", guard::text(&report));
        write_json(args, &report)?;
        return Ok(code(report.is_complete()));
    }
    if !args.converge.is_empty() {
        let report = growth::converge(
            &args.converge,
            args.rounds.unwrap_or(1),
            &args.etcd,
            args.programs()?.as_ref(),
        )?;
        println!("{}", growth::converge_text(&report));
        write_json(args, &report)?;
        let measured = report.convergence.iter().all(|one| one.problem.is_none());
        return Ok(code(measured));
    }
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    let report = rounds::run(&args.plan(), args.programs()?.as_ref(), command)?;
    tell(args, &report)
}

/// Tables, JSON and HTML of a run.
fn tell(args: &Args, report: &Report) -> Result<ExitCode> {
    println!("{}", terminal::text(report));
    write_json(args, report)?;
    if let Some(path) = &args.html {
        write(path, &html::text(report)?)?;
    }
    Ok(code(report.problems.is_empty()))
}

fn programs(args: &Args) -> Result<ExitCode> {
    let stored: Option<ProgramsReport> = args.compare.as_deref().map(read).transpose()?;
    let report = programs::run(&args.programs_plan()?)?;
    println!("{}", programs::text(&report));
    if let Some(stored) = stored {
        println!("\n{}", programs::beside_stored(&report, &stored));
    }
    write_json(args, &report)?;
    let measured = report.branches.iter().all(|cost| cost.problem.is_none());
    Ok(code(measured))
}

fn code(as_meant: bool) -> ExitCode {
    if as_meant {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is no such report of this version", path.display()))
}

fn write_json(args: &Args, report: &impl Serialize) -> Result<()> {
    let Some(path) = &args.json else {
        return Ok(());
    };
    let text = serde_json::to_string_pretty(report).context("write JSON")?;
    write(path, &(text + "\n"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
