//! `cargo xtask test`: the tiers, one after the other, and what came of them.

pub(crate) mod libtest;
mod summary;
mod table;
mod tier;

use std::io::stdout;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::build::{Artifacts, Built, Profile};
use crate::setup::Purpose;
use crate::{build, console, kernels, places, privilege, process, setup};
use libtest::Count;
use summary::Outcome;
use tier::{Runs, Target, Tier};

/// What `test` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The tiers to run, all but `kernels` when none is named
    #[arg(value_name = "TIER", value_enum)]
    tiers: Vec<Tier>,
    #[command(flatten)]
    profile: Profile,
    #[command(flatten)]
    kernels: kernels::Choice,
    /// Leave out the tiers after one that failed
    #[arg(long)]
    fail_fast: bool,
    /// Let what is otherwise compressed take its real time: the tier continuity leaves a node
    /// without its daemon for ten minutes
    #[arg(long)]
    long: bool,
    /// Arguments for every test binary, such as part of a test's name, or --nocapture
    #[arg(last = true)]
    libtest: Vec<String>,
}

/// The command. The last line printed is `N passed, N failed`.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let tiers = tier::in_order(&args.tiers);
    let Some(tier) = tiers.iter().find(|tier| tier.privileged()) else {
        return Ok(report(&run_tiers(&tiers, None, args)));
    };
    let task = format!("the tier {tier}");
    privilege::require_root(&task)?;
    let purpose = if tiers.iter().any(|tier| tier.boots_kernels()) {
        Purpose::Kernels
    } else {
        Purpose::Machine
    };
    let toolchain = setup::ensure(purpose)?;
    privilege::require_kernel(&task)?;
    // First, for what is built next takes its place.
    let next = tiers
        .contains(&Tier::Continuity)
        .then(|| build::build_next(&toolchain, args.profile))
        .transpose()?;
    let beside_flanneld = tiers.iter().any(|tier| tier.beside_flanneld());
    let built = Built {
        next,
        flanneld: beside_flanneld
            .then(|| had(setup::flanneld::provide()))
            .flatten(),
        docker: tiers
            .contains(&Tier::Flanneld)
            .then(|| had(setup::docker::provide()))
            .flatten(),
        ..build::build(&toolchain, args.profile)?
    };
    Ok(report(&run_tiers(&tiers, Some(&built), args)))
}

/// What could be had; without it the tests that need it fail, and the others do not.
fn had(provided: Result<PathBuf>) -> Option<PathBuf> {
    provided.inspect_err(console::error).ok()
}

fn run_tiers(tiers: &[Tier], built: Option<&Built>, args: &Args) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for &tier in tiers {
        let stop = args.fail_fast && outcomes.iter().any(|outcome: &Outcome| !outcome.good());
        let outcome = if stop {
            Outcome::left_out(tier)
        } else {
            run_tier(tier, built, args)
        };
        outcomes.push(outcome);
    }
    outcomes
}

fn run_tier(tier: Tier, built: Option<&Built>, args: &Args) -> Outcome {
    console::step(&format!("tier {tier}: {}", tier.proves()));
    let begin = Instant::now();
    let result = match tier.runs() {
        Runs::Workspace => workspace(args),
        Runs::Kernels(extent) => kernels::run(extent, &args.kernels, &args.libtest),
        Runs::Target(target) => built
            .context("the binaries were not built")
            .and_then(|built| target_of_tests(target, built, args)),
    };
    let remark = match tier.runs() {
        Runs::Kernels(extent) => args.kernels.remark(extent),
        Runs::Workspace | Runs::Target(_) => None,
    };
    Outcome::new(tier, result, remark, begin.elapsed())
}

/// Unit and documentation tests of every package that is built for the host.
fn workspace(args: &Args) -> Result<Count> {
    let everything = [
        "--workspace",
        "--exclude",
        "twill-programs",
        "--no-fail-fast",
    ];
    let mut count = Count::default();
    for kind in [["--lib", "--bins"].as_slice(), &["--doc"]] {
        let mut command = process::cargo();
        command
            .arg("test")
            .args(everything)
            .args(kind)
            .arg("--")
            .args(&args.libtest);
        count += libtest::run(&mut command, &mut stdout())?;
    }
    Ok(count)
}

/// One test binary, run as cargo would run it.
fn target_of_tests(target: Target, built: &Built, args: &Args) -> Result<Count> {
    let binary = Artifacts::of_tests(target.package, target.name)?;
    let mut command = Command::new(binary);
    command
        .current_dir(places::root().join(target.folder))
        .args(&args.libtest)
        .env("TWILL_TIERS", "1")
        .env("REQUIRE_PRIVILEGED", "1");
    if args.long {
        command.env("TWILL_LONG", "1");
    }
    built.describe(&mut command);
    let table = table::begin(target)?;
    command.env(table::VARIABLE, &table);
    let count = libtest::run(&mut command, &mut stdout())?;
    for line in table::lines(&table)? {
        console::result(&line);
    }
    Ok(count)
}

fn report(outcomes: &[Outcome]) -> ExitCode {
    for line in summary::lines(outcomes) {
        console::result(&line);
    }
    if outcomes.iter().all(Outcome::good) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
