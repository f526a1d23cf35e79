//! One test as a process of its own: found by name, started, and ended by a deadline.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::libtest::{Count, Reader};
use super::room::Needs;
use super::tier::Tier;
use crate::process;

/// A test to run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Job {
    pub(super) tier: Tier,
    /// Its path in the binary, as libtest names it.
    pub(super) name: String,
    pub(super) needs: Needs,
    pub(super) deadline: Duration,
}

/// One that runs.
pub(super) struct Running {
    pub(super) job: Job,
    child: Child,
    begin: Instant,
    log: PathBuf,
}

/// One that ran.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) job: Job,
    pub(super) count: Count,
    pub(super) time: Duration,
    /// All that it said.
    pub(super) output: String,
}

impl Ended {
    pub(super) fn good(&self) -> bool {
        self.count.is_good()
    }
}

/// The names of the tests of a binary that `words`, a person's arguments for it, leave.
pub(super) fn names(binary: &Path, words: &[String]) -> Result<Vec<String>> {
    let mut command = Command::new(binary);
    command.args(["--list", "--format=terse"]).args(words);
    Ok(parse_names(&process::stdout(&mut command)?))
}

fn parse_names(list: &str) -> Vec<String> {
    let tests = list.lines().filter_map(|line| line.strip_suffix(": test"));
    tests.map(str::to_owned).collect()
}

impl Running {
    /// Starts `command`, which runs the test, with what it says in the file `log`.
    pub(super) fn start(job: Job, command: &mut Command, log: PathBuf) -> Result<Self> {
        let file = File::create(&log).with_context(|| format!("make {}", log.display()))?;
        let other = file.try_clone().context("share the log")?;
        let line = process::line(command);
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(other)
            .spawn()
            .with_context(|| format!("start {line}"))?;
        Ok(Self {
            job,
            child,
            begin: Instant::now(),
            log,
        })
    }

    /// Whether it ended, if need be by force: past its deadline it is killed.
    pub(super) fn poll(&mut self) -> Result<Option<Verdict>> {
        if let Some(status) = self.child.try_wait().context("wait for a test")? {
            return Ok(Some(Verdict::Exited(status.success())));
        }
        if self.begin.elapsed() < self.job.deadline {
            return Ok(None);
        }
        self.child.kill().context("kill a test")?;
        self.child.wait().context("wait for a test")?;
        Ok(Some(Verdict::Hung))
    }

    /// What came of it.
    pub(super) fn end(self, verdict: Verdict) -> Result<Ended> {
        let bytes = fs::read(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        let mut output = String::from_utf8_lossy(&bytes).into_owned();
        if verdict == Verdict::Hung {
            let seconds = self.job.deadline.as_secs();
            output = format!("{output}\nkilled: it did not end within {seconds} s\n");
        }
        Ok(Ended {
            count: count(&output, verdict),
            time: self.begin.elapsed(),
            job: self.job,
            output,
        })
    }
}

/// How a test's process ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// By itself, well or not.
    Exited(bool),
    /// Killed past its deadline.
    Hung,
}

/// The process had one test: that passed, or it failed, however the process died.
fn count(output: &str, verdict: Verdict) -> Count {
    let mut reader = Reader::default();
    output.lines().for_each(|line| reader.read(line));
    let count = reader.finish(verdict == Verdict::Exited(true));
    let ran_one = count.passed + count.failed + count.ignored == 1;
    if count.broken == 0 && ran_one {
        return count;
    }
    Count {
        failed: 1,
        ..Count::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(deadline: Duration) -> Job {
        Job {
            tier: Tier::Netns,
            name: "a::b".to_owned(),
            needs: Needs::ALONE,
            deadline,
        }
    }

    fn run(script: &str, deadline: Duration) -> Ended {
        let log = std::env::temp_dir().join(format!("xtask-job-{}", std::process::id()));
        let log = log.with_extension(deadline.as_millis().to_string());
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let mut running = Running::start(job(deadline), &mut command, log.clone()).unwrap();
        let verdict = loop {
            if let Some(verdict) = running.poll().unwrap() {
                break verdict;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let ended = running.end(verdict).unwrap();
        fs::remove_file(log).unwrap();
        ended
    }

    #[test]
    fn tests_are_found_by_name() {
        let list = "a::b: test\nc: test\nd: benchmark\n\n2 tests, 1 benchmark\n";
        assert_eq!(parse_names(list), ["a::b", "c"]);
    }

    #[test]
    fn what_hangs_is_killed_and_says_so() {
        let ended = run(
            "echo running 1 test; exec sleep 600",
            Duration::from_millis(200),
        );
        assert_eq!((ended.good(), ended.count.failed), (false, 1));
        assert!(
            ended.output.contains("running 1 test\n"),
            "{}",
            ended.output
        );
        assert!(ended.output.contains("killed: it did not end within"));
    }

    #[test]
    fn a_test_passes_only_where_it_says_so_and_its_process_ends_well() {
        let said = "running 1 test\ntest result: ok. 1 passed; 0 failed; 0 ignored\n";
        assert!(count(said, Verdict::Exited(true)).is_good());
        for (output, verdict) in [
            (said, Verdict::Exited(false)),
            (said, Verdict::Hung),
            ("running 1 test\n", Verdict::Exited(true)),
            (
                "running 0 tests\ntest result: ok. 0 passed; 0 failed; 0 ignored\n",
                Verdict::Exited(true),
            ),
            ("", Verdict::Exited(true)),
        ] {
            let count = count(output, verdict);
            assert_eq!((count.passed, count.failed), (0, 1), "{output} {verdict:?}");
        }
        let ignored = "running 1 test\ntest result: ok. 0 passed; 0 failed; 1 ignored\n";
        assert_eq!(count(ignored, Verdict::Exited(true)).ignored, 1);
    }

    #[test]
    fn a_process_is_run_and_read() {
        let said = "echo running 1 test; echo 'test result: ok. 1 passed; 0 failed; 0 ignored'";
        assert!(run(said, Duration::from_secs(30)).good());
        assert!(!run(&format!("{said}; exit 101"), Duration::from_secs(31)).good());
    }
}
