//! `cargo xtask test kernels`: the programs and the tiers on every kernel, in QEMU.

mod cpio;
mod figures;
mod guest;
mod kernel;
mod packages;
mod programs;
mod qemu;
mod report;
mod store;
mod table;

use std::sync::{Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::console;
use crate::test::libtest::Count;
use guest::Guest;
use kernel::{KERNELS, Kernel};
use report::{Outcome, Report};
use store::Stored;

/// Guests at a time.
const AT_A_TIME: usize = 2;
/// How long a guest may take; several times what it takes on two idle cores.
const TIME: Duration = Duration::from_mins(15);

/// What the tier takes.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Choice {
    /// Only these kernels, by series, such as 6.12 (tier `kernels`)
    #[arg(long = "kernel", value_name = "SERIES")]
    kernels: Vec<String>,
    /// Also the agent, permits and the tier `netns` on each kernel, which takes an hour (tier
    /// `kernels`)
    #[arg(long)]
    all: bool,
}

/// Runs the tier on the kernels that were asked for.
pub(crate) fn run(choice: &Choice, libtest: &[String]) -> Result<Count> {
    let kernels = chosen(&choice.kernels)?;
    let stored = store::provide(&kernels)?;
    let guest = guest::build(choice.all)?;
    let runs = boot_all(&guest, stored, libtest)?;
    let mut count = Count::default();
    for (stored, report) in &runs {
        show(stored.kernel.series, report)?;
        count += report.count();
    }
    let table = table::table(&runs);
    console::result(&table);
    // Part of the kernels or of the tests says nothing about the rest of the table, and what fails
    // is told already and not kept.
    let whole = kernels.len() == KERNELS.len() && libtest.is_empty() && !choice.all;
    if whole && count.is_good() {
        table::keep(&table)?;
    }
    Ok(count)
}

/// Boots the kernels, some at a time; what came of each, in their order.
fn boot_all(
    guest: &Guest,
    kernels: Vec<Stored>,
    libtest: &[String],
) -> Result<Vec<(Stored, Report)>> {
    let todo = Mutex::new(kernels.into_iter());
    let worker = || -> Result<Vec<(Stored, Report)>> {
        let mut done = Vec::new();
        loop {
            let next = todo.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(kernel) = next else { return Ok(done) };
            let report = boot(guest, &kernel, libtest)
                .with_context(|| format!("the kernel {}", kernel.kernel.series))?;
            done.push((kernel, report));
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
    runs.sort_by_key(|(stored, _)| KERNELS.iter().position(|kernel| kernel == stored.kernel));
    Ok(runs)
}

fn boot(guest: &Guest, kernel: &Stored, libtest: &[String]) -> Result<Report> {
    let series = kernel.kernel.series;
    let begin = Instant::now();
    let initramfs = guest.pack(kernel, libtest)?;
    console::step(&format!(
        "boot {series}; console in {}",
        qemu::console_of(series).display()
    ));
    let report = qemu::run(kernel, &initramfs, TIME, |text| {
        for line in text.lines().filter(|line| !line.ends_with(" ... ok")) {
            console::note(&format!("{series}: {line}"));
        }
    })?;
    console::note(&format!(
        "{series}: took {}",
        console::duration(begin.elapsed())
    ));
    Ok(report)
}

/// Shows what is wrong on a kernel, and what its verifier has more to do with.
fn show(series: &str, report: &Report) -> Result<()> {
    let release = report.release.as_deref().unwrap_or("it never came up");
    console::step(&format!("{series} ({release})"));
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
    for difference in figures::compare(series, report)? {
        console::note(&format!("verifier: {difference}"));
    }
    Ok(())
}

fn chosen(asked: &[String]) -> Result<Vec<&'static Kernel>> {
    let known = |series: &String| KERNELS.iter().any(|kernel| kernel.series == *series);
    if let Some(unknown) = asked.iter().find(|series| !known(series)) {
        let all = KERNELS.map(|kernel| kernel.series).join(", ");
        bail!("no kernel {unknown:?}: there are {all}");
    }
    let wanted =
        |kernel: &&Kernel| asked.is_empty() || asked.iter().any(|asked| asked == kernel.series);
    Ok(KERNELS.iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_named_by_series() {
        let series = |asked: &[&str]| -> Result<Vec<&str>> {
            let asked: Vec<String> = asked.iter().map(|&asked| asked.to_owned()).collect();
            Ok(chosen(&asked)?.iter().map(|kernel| kernel.series).collect())
        };
        assert_eq!(series(&[]).unwrap(), ["5.10", "6.1", "6.12", "7.2"]);
        assert_eq!(series(&["7.2", "6.1"]).unwrap(), ["6.1", "7.2"]);
        let error = series(&["6.1", "6.2"]).unwrap_err().to_string();
        assert_eq!(error, "no kernel \"6.2\": there are 5.10, 6.1, 6.12, 7.2");
    }
}
