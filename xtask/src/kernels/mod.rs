//! `cargo xtask test kernels`: the programs and the tiers on every kernel, in QEMU; and
//! `kernels-brief`, a part of it.

mod binaries;
mod cpio;
mod extent;
mod figures;
mod guest;
mod kernel;
#[path = "../../../tests/guest/src/message.rs"]
mod message;
mod packages;
mod pair;
mod part;
#[path = "../../../tests/guest/src/plan.rs"]
mod plan;
mod programs;
mod qemu;
mod report;
mod store;
mod table;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::console;
use crate::test::libtest::Count;
pub(crate) use extent::Extent;
use guest::Guest;
use kernel::{KERNELS, Kernel};
use part::{PARTS, Role};
use qemu::Boot;
use report::{Outcome, Report};
use store::Stored;

/// Guests at a time.
const AT_A_TIME: usize = 2;
/// How long a guest may take; several times what it takes on two idle cores.
const TIME: Duration = Duration::from_mins(25);

/// What the tier takes.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Choice {
    /// Only these kernels, by series, such as 6.12 (tiers `kernels`, `kernels-brief`)
    #[arg(long = "kernel", value_name = "SERIES")]
    kernels: Vec<String>,
    /// Only these parts, such as `pair` (tier `kernels`)
    #[arg(long = "part", value_name = "PART")]
    parts: Vec<String>,
}

impl Choice {
    /// What is to be said of a run of this extent beside its name, where that may promise too
    /// much.
    pub(crate) fn remark(&self, extent: Extent) -> Option<String> {
        let asked =
            |series: &&str| self.kernels.is_empty() || self.kernels.iter().any(|one| one == series);
        let series = KERNELS.iter().map(|kernel| kernel.series);
        extent.remark(&series.filter(asked).collect::<Vec<_>>())
    }
}

/// What came of one guest.
struct Run {
    kernel: Stored,
    role: Role,
    report: Report,
}

/// Fetches every kernel that is not here yet, and gives the folder where they are.
pub(crate) fn provide() -> Result<PathBuf> {
    let every: Vec<&Kernel> = KERNELS.iter().collect();
    store::provide(&every)?;
    store::folder()
}

/// Runs as much of the tier as `extent` says, on the kernels that were asked for.
pub(crate) fn run(extent: Extent, choice: &Choice, libtest: &[String]) -> Result<Count> {
    let kernels = chosen("kernel", &choice.kernels, &KERNELS, |kernel| kernel.series)?;
    let parts = chosen("part", &choice.parts, &PARTS, |part| part.name)?;
    ensure!(
        extent == Extent::Whole || choice.parts.is_empty(),
        "--part is for `cargo xtask test kernels`; the short run has its own parts"
    );
    let stored = store::provide(&kernels)?;
    let guest = guest::build(extent, extent.parts(parts))?;
    let mut runs = boot_all(&guest, stored, libtest)?;
    let mut count = Count::default();
    for Run {
        kernel,
        role,
        report,
    } in &mut runs
    {
        // What a person names may leave a part without tests; nothing else may.
        if libtest.is_empty() {
            report.require_proof();
        }
        show(&role.name(kernel.kernel), report);
        if *role == Role::Alone {
            for difference in figures::compare(kernel.kernel.series, report)? {
                console::note(&format!("verifier: {difference}"));
            }
        }
        count += report.count();
    }
    for Run { kernel, report, .. } in &runs {
        for line in &report.measured {
            console::result(&format!("{}: {line}", kernel.kernel.series));
        }
    }
    let alone: Vec<_> = runs.iter().filter(|run| run.role == Role::Alone).collect();
    let columns: Vec<_> = alone
        .iter()
        .map(|run| (run.kernel.kernel.series, &run.report))
        .collect();
    if columns.is_empty() {
        return Ok(count);
    }
    let table = table::table(&columns);
    console::result(&table);
    // Some of the kernels say nothing about the rest of the table, and what fails is told already
    // and not kept.
    if columns.len() == KERNELS.len() && count.is_good() {
        table::keep(&table)?;
    }
    Ok(count)
}

/// Boots all guests; what came of each, in order. Two at a time: first those that are alone, and
/// then pairs.
fn boot_all(guest: &Guest, kernels: Vec<Stored>, libtest: &[String]) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    let pairs: Vec<Stored> = kernels
        .iter()
        .filter(|kernel| kernel.kernel.pair && guest.has_work(Role::Side(pair::SIDES[0])))
        .cloned()
        .collect();
    if guest.has_work(Role::Alone) {
        runs = boot_alone(guest, kernels, libtest)?;
    }
    for kernel in pairs {
        let sides = pair::run(|role| boot(guest, kernel.clone(), role, libtest));
        runs.extend(sides.with_context(|| format!("two guests of {}", kernel.kernel.series))?);
    }
    Ok(runs)
}

fn boot_alone(guest: &Guest, kernels: Vec<Stored>, libtest: &[String]) -> Result<Vec<Run>> {
    // The newest takes longest, and is not to be what everything waits for at the end.
    let todo = Mutex::new(kernels.into_iter().rev());
    let worker = || -> Result<Vec<Run>> {
        let mut done = Vec::new();
        loop {
            let next = todo.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(kernel) = next else { return Ok(done) };
            let series = kernel.kernel.series;
            let run = boot(guest, kernel, Role::Alone, libtest);
            done.push(run.with_context(|| format!("the kernel {series}"))?);
        }
    };
    let results = thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .map(ScopedJoinHandle::join)
            .collect::<Vec<_>>()
    });
    let mut runs = Vec::new();
    for result in results {
        match result {
            Ok(done) => runs.extend(done?),
            Err(_) => bail!("a thread that looks after guests panicked"),
        }
    }
    runs.sort_by_key(|run| {
        KERNELS
            .iter()
            .position(|kernel| kernel == run.kernel.kernel)
    });
    Ok(runs)
}

fn boot(guest: &Guest, kernel: Stored, role: Role, libtest: &[String]) -> Result<Run> {
    let name = role.name(kernel.kernel);
    let begin = Instant::now();
    let initramfs = guest.pack(&kernel, role, libtest)?;
    console::step(&format!(
        "boot {name}; console in {}",
        qemu::console_of(&name).display()
    ));
    let boot = Boot {
        name: &name,
        kernel: &kernel,
        initramfs: &initramfs,
        nics: &pair::nics(role),
    };
    let report = qemu::run(&boot, TIME, |text| {
        for line in text.lines().filter(|line| !line.ends_with(" ... ok")) {
            console::note(&format!("{name}: {line}"));
        }
    })?;
    let took = console::duration(begin.elapsed());
    console::note(&format!("{name}: took {took}"));
    Ok(Run {
        kernel,
        role,
        report,
    })
}

/// Shows what is wrong in a guest.
fn show(name: &str, report: &Report) {
    let release = report.release.as_deref().unwrap_or("it never came up");
    console::step(&format!("{name} ({release})"));
    for (name, answer) in &report.programs {
        if let Err(log) = answer {
            console::note(&format!("the verifier rejects {name}:\n{log}"));
        }
    }
    for (name, outcome) in &report.tiers {
        match outcome {
            Outcome::LeftOut(why) => console::note(&format!("{name}: left out, {why}")),
            Outcome::Ran(Count {
                passed,
                failed,
                ignored,
                broken,
            }) => console::note(&format!(
                "{name}: {passed} passed, {failed} failed, {ignored} ignored, {broken} broken"
            )),
        }
    }
    for trouble in &report.troubles {
        console::note(trouble);
    }
}

/// Those of `all` whose names were asked for; all of them when none was.
fn chosen<T>(
    what: &str,
    asked: &[String],
    all: &'static [T],
    name: impl Fn(&T) -> &'static str,
) -> Result<Vec<&'static T>> {
    if let Some(unknown) = asked
        .iter()
        .find(|asked| !all.iter().any(|one| name(one) == **asked))
    {
        let names: Vec<_> = all.iter().map(name).collect();
        bail!("no {what} {unknown:?}: there are {}", names.join(", "));
    }
    let wanted = |one: &&T| asked.is_empty() || asked.iter().any(|asked| asked == name(one));
    Ok(all.iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_named_by_series() {
        let series = |asked: &[&str]| -> Result<Vec<&str>> {
            let asked: Vec<String> = asked.iter().map(|&asked| asked.to_owned()).collect();
            let kernels = chosen("kernel", &asked, &KERNELS, |kernel| kernel.series)?;
            Ok(kernels.iter().map(|kernel| kernel.series).collect())
        };
        assert_eq!(series(&[]).unwrap(), ["5.10", "6.1", "6.12", "7.2"]);
        assert_eq!(series(&["7.2", "6.1"]).unwrap(), ["6.1", "7.2"]);
        let error = series(&["6.1", "6.2"]).unwrap_err().to_string();
        assert_eq!(error, "no kernel \"6.2\": there are 5.10, 6.1, 6.12, 7.2");
    }
}
