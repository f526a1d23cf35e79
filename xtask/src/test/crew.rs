//! Runs tests side by side, as many as there is room for, and tells what came of each.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::job::{Ended, Job, Running};
use super::room::{Needs, Room};
use crate::console;

/// How often the running tests are looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// What came of jobs.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) ended: Vec<Ended>,
    /// Those that were not started, because one before them failed.
    pub(super) left_out: Vec<Job>,
}

/// How jobs are run.
pub(super) struct Crew<'a> {
    pub(super) room: Room,
    /// Where each leaves what it said.
    pub(super) logs: &'a Path,
    /// Start none after one that failed.
    pub(super) fail_fast: bool,
    /// Show what those said that passed, too.
    pub(super) shown: bool,
    /// The process that runs a job.
    pub(super) command: &'a dyn Fn(&Job) -> Result<Command>,
}

impl Crew<'_> {
    /// Runs them all; `jobs` come in the order in which they should start.
    pub(super) fn run(&self, jobs: Vec<Job>) -> Result<Done> {
        fs::create_dir_all(self.logs).with_context(|| format!("make {}", self.logs.display()))?;
        let all = jobs.len();
        let mut waiting = VecDeque::from(jobs);
        let mut running: Vec<Running> = Vec::new();
        let mut done = Done::default();
        loop {
            let needs: Vec<Needs> = running.iter().map(|one| one.job.needs).collect();
            let next = self.room.next(waiting.iter().map(|job| &job.needs), &needs);
            if let Some(job) = next.and_then(|index| waiting.remove(index)) {
                running.push(self.start(job)?);
                continue;
            }
            if running.is_empty() {
                return Ok(done);
            }
            sleep(INTERVAL);
            for index in (0..running.len()).rev() {
                let Some(verdict) = running[index].poll()? else {
                    continue;
                };
                let ended = running.swap_remove(index).end(verdict)?;
                self.tell(&ended, done.ended.len() + 1, all);
                if self.fail_fast && !ended.good() {
                    done.left_out.extend(waiting.drain(..));
                }
                done.ended.push(ended);
            }
        }
    }

    fn start(&self, job: Job) -> Result<Running> {
        let mut command = (self.command)(&job)?;
        let log = self.log(&job);
        Running::start(job, &mut command, log)
    }

    fn log(&self, job: &Job) -> PathBuf {
        let name = job.name.replace("::", ".");
        self.logs.join(format!("{}.{name}.log", job.tier))
    }

    /// One line, and all that a failed test said.
    fn tell(&self, ended: &Ended, number: usize, all: usize) {
        let Ended {
            job, time, output, ..
        } = ended;
        let verdict = if ended.good() { "ok" } else { "FAILED" };
        let line = format!(
            "[{number:>4}/{all}] {:>8}  {}::{} {verdict}",
            console::duration(*time),
            job.tier,
            job.name
        );
        console::result(&console::judged(ended.good(), &line));
        if self.shown || !ended.good() {
            console::result(output);
            console::result(&format!("--- {}::{} {verdict}", job.tier, job.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tier::Tier;
    use super::*;

    fn job(name: &str, needs: Needs) -> Job {
        Job {
            tier: Tier::Netns,
            name: name.to_owned(),
            needs,
            deadline: Duration::from_secs(30),
        }
    }

    fn run(fail_fast: bool, jobs: Vec<Job>, script: impl Fn(&Job) -> String) -> Done {
        let logs = std::env::temp_dir().join(format!("xtask-crew-{}", std::process::id()));
        let logs = logs.join(std::thread::current().name().unwrap().replace("::", "."));
        let command = |job: &Job| {
            let said = "test result: ok. 1 passed; 0 failed; 0 ignored";
            let script = format!("{}; echo '{said}'", script(job));
            let mut command = Command::new("sh");
            command.args(["-c", &script]);
            Ok(command)
        };
        let crew = Crew {
            room: Room::of(1),
            logs: &logs,
            fail_fast,
            shown: false,
            command: &command,
        };
        let done = crew.run(jobs).unwrap();
        fs::remove_dir_all(logs).unwrap();
        done
    }

    fn names(done: &Done) -> Vec<&str> {
        done.ended.iter().map(|one| one.job.name.as_str()).collect()
    }

    #[test]
    fn two_meet_only_where_they_run_side_by_side() {
        // Each waits for the other's word.
        let folder = std::env::temp_dir().join(format!("xtask-meet-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let at = folder.display().to_string();
        let jobs = vec![job("a", Needs::units(1)), job("b", Needs::units(1))];
        let done = run(false, jobs, |job| {
            let other = if job.name == "a" { "b" } else { "a" };
            format!(
                "touch {at}/{}; until test -e {at}/{other}; do sleep 0.01; done",
                job.name
            )
        });
        assert!(done.ended.iter().all(Ended::good), "{done:?}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn jobs_start_in_their_order() {
        let jobs = vec![
            job("alone", Needs::ALONE),
            job("a", Needs::units(3)),
            job("b", Needs::units(3)),
        ];
        // Nothing runs at first, so the first starts whatever it needs; order decides.
        let done = run(false, jobs, |_| "true".to_owned());
        assert_eq!(names(&done), ["alone", "a", "b"]);
    }

    #[test]
    fn after_a_failure_the_others_are_left_out_where_that_is_wanted() {
        let jobs = || vec![job("bad", Needs::ALONE), job("good", Needs::ALONE)];
        let script = |job: &Job| match job.name.as_str() {
            "bad" => "exit 1".to_owned(),
            _ => "true".to_owned(),
        };
        let done = run(true, jobs(), script);
        assert_eq!((names(&done), done.left_out.len()), (vec!["bad"], 1));
        let done = run(false, jobs(), script);
        assert_eq!(
            (names(&done), done.left_out.len()),
            (vec!["bad", "good"], 0)
        );
        assert!(!done.ended[0].good() && done.ended[1].good());
    }
}
