//! The tiers that are test targets: each test a process of its own, many at a time.

use std::path::PathBuf;
use std::process::Command;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result};

use super::crew::{Crew, Done};
use super::job::{self, Ended, Job};
use super::room::Room;
use super::summary::Outcome;
use super::tier::{Target, Tier};
use super::words::Words;
use super::{Args, second_try, table, words};
use crate::build::{Artifacts, Built};
use crate::{console, places};

/// A tier's binary and its tests.
struct Binary {
    tier: Tier,
    target: Target,
    file: PathBuf,
    /// Where its tests write what they measured.
    table: PathBuf,
    names: Vec<String>,
}

/// Builds them all, runs their tests, and gives what came of each tier. Of tests that fail, few
/// are run again.
pub(super) fn run(tiers: &[(Tier, Target)], built: &Built, args: &Args) -> Result<Vec<Outcome>> {
    console::step("build the tests");
    let binaries: Vec<(Tier, Result<Binary>)> = tiers
        .iter()
        .map(|&(tier, target)| (tier, Binary::build(tier, target, args)))
        .collect();
    let sorted = words::sort(&args.libtest);
    let good = || {
        binaries
            .iter()
            .filter_map(|(_, binary)| binary.as_ref().ok())
    };
    for binary in good() {
        let Binary { tier, names, .. } = binary;
        console::step(&format!(
            "tier {tier}: {} tests, {}",
            names.len(),
            tier.proves()
        ));
    }
    let command = |job: &Job| {
        let binary = good().find(|binary| binary.tier == job.tier);
        let binary = binary.with_context(|| format!("the tier {} was not built", job.tier))?;
        Ok(binary.command(job, &sorted, built, args))
    };
    let processors = available_parallelism().map_or(1, usize::from);
    let room = Room::of(processors);
    let logs = places::root().join("target/tests");
    let crew = Crew {
        room: sorted.most.map_or(room, |most| room.limited(most)),
        logs: &logs,
        fail_fast: args.fail_fast,
        shown: sorted.shown,
        command: &command,
    };
    let mut done = crew.run(in_turn(good().flat_map(|binary| binary.jobs(args.long()))))?;
    let most = if args.strict || args.fail_fast {
        0
    } else {
        second_try::MOST
    };
    let unsteady = try_again(&crew, &mut done, most)?;
    for line in slowest(&done.ended) {
        console::note(&line);
    }
    for binary in good() {
        for line in table::lines(&binary.table)? {
            console::result(&line);
        }
    }
    let outcome = |(tier, binary): (Tier, Result<Binary>)| {
        let result = binary.map(|_| ());
        Outcome::of_tests(tier, result, &done, &unsteady)
    };
    Ok(binaries.into_iter().map(outcome).collect())
}

impl Binary {
    fn build(tier: Tier, target: Target, args: &Args) -> Result<Self> {
        let file = Artifacts::of_tests(target.package, target.name)?;
        Ok(Self {
            tier,
            target,
            names: job::names(&file, &args.libtest)?,
            file,
            table: table::begin(target)?,
        })
    }

    fn jobs(&self, long: bool) -> impl Iterator<Item = Job> {
        self.names.iter().map(move |name| Job {
            tier: self.tier,
            name: name.clone(),
            needs: self.tier.needs(name),
            deadline: self.tier.deadline(long),
        })
    }

    /// As cargo would run it.
    fn command(&self, job: &Job, words: &Words, built: &Built, args: &Args) -> Command {
        let mut command = Command::new(&self.file);
        command
            .current_dir(places::root().join(self.target.folder))
            .args(["--exact", &job.name])
            .args(&words.run)
            .env("TWILL_TIERS", "1")
            .env("REQUIRE_PRIVILEGED", "1")
            .env(table::VARIABLE, &self.table);
        if args.long() {
            command.env("TWILL_LONG", "1");
        }
        built.describe(&mut command);
        command
    }
}

/// In the order in which they start: those that take turns first, or they would be left over and
/// run one by one at the end; then as the tiers are, cheapest first.
fn in_turn(jobs: impl Iterator<Item = Job>) -> Vec<Job> {
    let mut jobs: Vec<Job> = jobs.collect();
    jobs.sort_by_key(|job| job.needs.turn.is_none());
    jobs
}

/// Runs what failed once more, each test by itself, where few did; the names of those that passed
/// then.
fn try_again(crew: &Crew<'_>, done: &mut Done, most: usize) -> Result<Vec<(Tier, String)>> {
    let again = second_try::worth(&done.ended, most);
    let Some(names) = second_try::list(&again) else {
        return Ok(Vec::new());
    };
    console::step(&format!("once more: {names}"));
    let second = crew.run(again)?;
    Ok(second_try::judge(&mut done.ended, second.ended))
}

/// What to look at first when a run takes too long.
fn slowest(ended: &[Ended]) -> Vec<String> {
    const SHOWN: usize = 10;
    /// With fewer tests a person sees it by the lines above.
    const MANY: usize = 30;
    if ended.len() < MANY {
        return Vec::new();
    }
    let mut ended: Vec<&Ended> = ended.iter().collect();
    ended.sort_by_key(|one| std::cmp::Reverse(one.time));
    let line = |one: &&Ended| {
        let Job { tier, name, .. } = &one.job;
        format!("{:>14}  {tier}::{name}", console::duration(one.time))
    };
    let head = std::iter::once("the slowest:".to_owned());
    head.chain(ended.iter().take(SHOWN).map(line)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::room::Needs;
    use super::*;

    #[test]
    fn what_takes_turns_starts_first() {
        let job = |name: &str, turn| Job {
            tier: Tier::Netns,
            name: name.to_owned(),
            needs: Needs {
                turn,
                ..Needs::units(1)
            },
            deadline: Duration::ZERO,
        };
        let jobs = [job("a", None), job("b", Some("load")), job("c", None)];
        let names: Vec<String> = in_turn(jobs.into_iter())
            .into_iter()
            .map(|j| j.name)
            .collect();
        assert_eq!(names, ["b", "a", "c"]);
    }
}
