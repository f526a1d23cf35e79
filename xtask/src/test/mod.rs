//! `cargo xtask test`: the tiers, one after the other, and what came of them.

pub(crate) mod libtest;
mod second_try;
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
use second_try::Tried;
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
    /// Count a test that passes only when it is run again as failed
    #[arg(long)]
    strict: bool,
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
        cni: tiers
            .contains(&Tier::E2e)
            .then(|| had(setup::cni::provide()))
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
    let mut second_tries = if args.strict { 0 } else { second_try::MOST };
    for &tier in tiers {
        let stop = args.fail_fast && outcomes.iter().any(|outcome: &Outcome| !outcome.good());
        let outcome = if stop {
            Outcome::left_out(tier)
        } else {
            run_tier(tier, built, args, &mut second_tries)
        };
        outcomes.push(outcome);
    }
    outcomes
}

fn run_tier(tier: Tier, built: Option<&Built>, args: &Args, second_tries: &mut usize) -> Outcome {
    console::step(&format!("tier {tier}: {}", tier.proves()));
    let begin = Instant::now();
    let most = if tier.takes_real_time() {
        *second_tries
    } else {
        0
    };
    let result = match tier.runs() {
        Runs::Workspace => workspace(args).map(Tried::from),
        Runs::Kernels(extent) => {
            kernels::run(extent, &args.kernels, &args.libtest).map(Tried::from)
        }
        Runs::Target(target) => built
            .context("the binaries were not built")
            .and_then(|built| target_of_tests(target, built, args, most)),
    };
    let remark = match (tier.runs(), &result) {
        (Runs::Kernels(extent), _) => args.kernels.remark(extent),
        (Runs::Workspace | Runs::Target(_), Ok(tried)) => tried.remark(),
        (Runs::Workspace | Runs::Target(_), Err(_)) => None,
    };
    if let Ok(tried) = &result {
        *second_tries = second_tries.saturating_sub(tried.unsteady.len());
    }
    Outcome::new(
        tier,
        result.map(|tried| tried.count),
        remark,
        begin.elapsed(),
    )
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

/// One test binary, run as cargo would run it; of tests that fail, up to `most` are run again.
fn target_of_tests(target: Target, built: &Built, args: &Args, most: usize) -> Result<Tried> {
    let binary = Artifacts::of_tests(target.package, target.name)?;
    let table = table::begin(target)?;
    let run = |words: &[String]| {
        let mut command = Command::new(&binary);
        command
            .current_dir(places::root().join(target.folder))
            .args(words)
            .env("TWILL_TIERS", "1")
            .env("REQUIRE_PRIVILEGED", "1")
            .env(table::VARIABLE, &table);
        if args.long {
            command.env("TWILL_LONG", "1");
        }
        built.describe(&mut command);
        libtest::run_named(&mut command, &mut stdout())
    };
    let tried = second_try::judge(run(&args.libtest)?, most, |failed| {
        console::step(&format!("once more: {}", failed.join(", ")));
        run(&[&["--exact".to_owned()], failed].concat())
    })?;
    for line in table::lines(&table)? {
        console::result(&line);
    }
    Ok(tried)
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
