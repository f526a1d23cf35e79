//! `cargo xtask test`: the tiers, their tests side by side, and what came of them.

mod crew;
mod job;
pub(crate) mod libtest;
mod room;
mod second_try;
mod side_by_side;
mod summary;
mod table;
mod tier;
mod words;

use std::io::stdout;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};

use crate::build::{Built, Profile};
use crate::setup::Purpose;
use crate::{build, console, image, kernels, privilege, process, setup};
use libtest::Count;
use summary::Outcome;
use tier::{Runs, Target, Tier};

/// What `test` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The tiers to run; all but `bench` and `kernels` when none is named
    #[arg(value_name = "TIER", value_enum)]
    tiers: Vec<Tier>,
    #[command(flatten)]
    profile: Profile,
    #[command(flatten)]
    kernels: kernels::Choice,
    /// Start no test after one that failed
    #[arg(long)]
    fail_fast: bool,
    /// Count a test that passes only when it is run again as failed
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    length: Length,
    /// Arguments for every test binary, such as part of a test's name, or --nocapture
    #[arg(last = true)]
    libtest: Vec<String>,
}

/// How much of the time that there is may be taken.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Length {
    /// Every tier in full: with `bench`, `kernels` and --long, which takes hours
    #[arg(long, conflicts_with = "tiers")]
    all: bool,
    /// Let what is otherwise compressed take its real time: the tier continuity leaves a node
    /// without its daemon for ten minutes
    #[arg(long)]
    long: bool,
}

impl Args {
    /// Whether what is otherwise compressed takes its real time.
    fn long(&self) -> bool {
        self.length.long || self.length.all
    }
}

/// The command. The last line printed is `N passed, N failed`.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let begin = Instant::now();
    let tiers = tier::in_order(&args.tiers, args.length.all);
    let Some(tier) = tiers.iter().find(|tier| tier.privileged()) else {
        return Ok(report(&run_tiers(&tiers, None, args)?, begin));
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
    let renders = tiers.contains(&Tier::Chart) || tiers.contains(&Tier::Kubernetes);
    let mut built = Built {
        next,
        flanneld: beside_flanneld
            .then(|| had(setup::flanneld::provide()))
            .flatten(),
        cni: (tiers.iter())
            .any(|tier| matches!(tier, Tier::E2e | Tier::Kubernetes))
            .then(|| had(setup::cni::provide()))
            .flatten(),
        kubernetes: tiers
            .contains(&Tier::Kubernetes)
            .then(|| had(setup::kubernetes::provide()))
            .flatten(),
        docker: tiers
            .contains(&Tier::Flanneld)
            .then(|| had(setup::docker::provide()))
            .flatten(),
        helm: renders.then(|| had(setup::helm::provide())).flatten(),
        flannel_charts: renders
            .then(|| had(setup::flannel_charts::provide()))
            .flatten(),
        ..build::build(&toolchain, args.profile)?
    };
    if tiers.contains(&Tier::Image) {
        built.image = had(image::make(&built, image::NAME));
    }
    Ok(report(&run_tiers(&tiers, Some(&built), args)?, begin))
}

/// What could be had; without it the tests that need it fail, and the others do not.
fn had<T>(provided: Result<T>) -> Option<T> {
    provided.inspect_err(console::error).ok()
}

fn run_tiers(tiers: &[Tier], built: Option<&Built>, args: &Args) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    // The tests of these run side by side; they come after the unit tests, and before what takes
    // the whole machine.
    let targets = targets(tiers);
    let first = |tier: Tier| targets.first().is_none_or(|(target, _)| tier < *target);
    let (before, after): (Vec<Tier>, Vec<Tier>) = tiers
        .iter()
        .filter(|tier| !matches!(tier.runs(), Runs::Target(_)))
        .partition(|tier| first(**tier));
    let stop = |outcomes: &[Outcome]| args.fail_fast && !outcomes.iter().all(Outcome::good);
    let whole = |tier: Tier, outcomes: &mut Vec<Outcome>| {
        let outcome = if stop(outcomes) {
            Outcome::left_out(tier)
        } else {
            run_whole(tier, args)
        };
        outcomes.push(outcome);
    };
    for tier in before {
        whole(tier, &mut outcomes);
    }
    if stop(&outcomes) {
        outcomes.extend(targets.iter().map(|&(tier, _)| Outcome::left_out(tier)));
    } else if !targets.is_empty() {
        let built = built.context("the binaries were not built")?;
        outcomes.extend(side_by_side::run(&targets, built, args)?);
    }
    for tier in after {
        whole(tier, &mut outcomes);
    }
    Ok(outcomes)
}

/// Those that are test targets.
fn targets(tiers: &[Tier]) -> Vec<(Tier, Target)> {
    let target = |&tier: &Tier| match tier.runs() {
        Runs::Target(target) => Some((tier, target)),
        Runs::Workspace | Runs::Kernels(_) => None,
    };
    tiers.iter().filter_map(target).collect()
}

/// A tier that is not cut into tests.
fn run_whole(tier: Tier, args: &Args) -> Outcome {
    console::step(&format!("tier {tier}: {}", tier.proves()));
    let begin = Instant::now();
    let (result, remark) = match tier.runs() {
        Runs::Workspace => (workspace(args), None),
        Runs::Kernels(extent) => {
            let result = kernels::run(extent, &args.kernels, &args.libtest);
            (result, args.kernels.remark(extent))
        }
        Runs::Target(_) => (Err(anyhow!("its tests run side by side")), None),
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

fn report(outcomes: &[Outcome], begin: Instant) -> ExitCode {
    for line in summary::lines(outcomes, begin.elapsed()) {
        console::result(&line);
    }
    if outcomes.iter().all(Outcome::good) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
