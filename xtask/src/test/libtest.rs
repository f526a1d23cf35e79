//! Running test binaries and reading what libtest prints about them.

use std::io::{BufRead as _, BufReader, Write};
use std::ops::AddAssign;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::process;

/// What came of test binaries.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Tests that were not run: there are none by rule, so one is a failure.
    pub(crate) ignored: u64,
    /// Binaries that ended without a summary, or badly in spite of a good one.
    pub(crate) broken: u64,
}

impl Count {
    /// Whether tests ran and nothing is wrong with any.
    pub(crate) fn is_good(&self) -> bool {
        let Self {
            passed,
            failed,
            ignored,
            broken,
        } = *self;
        passed > 0 && failed + ignored + broken == 0
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        let Self {
            passed,
            failed,
            ignored,
            broken,
        } = other;
        self.passed += passed;
        self.failed += failed;
        self.ignored += ignored;
        self.broken += broken;
    }
}

/// Runs `command`, one test binary or a `cargo test` of several, passes its output to `shown`
/// as it comes, and counts.
pub(super) fn run(command: &mut Command, shown: &mut impl Write) -> Result<Count> {
    let line = process::line(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {line}"))?;
    let output = child.stdout.take().context("the output is not piped")?;
    let mut reader = Reader::default();
    // By bytes: a test may print anything.
    let mut bytes = Vec::new();
    let mut output = BufReader::new(output);
    while output
        .read_until(b'\n', &mut bytes)
        .with_context(|| format!("read from {line}"))?
        > 0
    {
        shown.write_all(&bytes).context("show the output")?;
        reader.read(&String::from_utf8_lossy(&bytes));
        bytes.clear();
    }
    let status = child.wait().with_context(|| format!("wait for {line}"))?;
    Ok(reader.finish(status.success()))
}

/// Reads libtest's output line by line.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    count: Count,
    /// A binary said `running N tests` and has not summed up yet.
    running: bool,
}

impl Reader {
    pub(crate) fn read(&mut self, line: &str) {
        let line = line.trim_end();
        if is_begin(line) {
            self.count.broken += u64::from(self.running);
            self.running = true;
        } else if let Some(count) = parse_summary(line) {
            self.running = false;
            self.count += count;
        }
    }

    /// The sum, once the process ended.
    pub(crate) fn finish(mut self, success: bool) -> Count {
        self.count.broken += u64::from(self.running);
        let explained = self.count.failed > 0 || self.count.broken > 0;
        if !success && !explained {
            self.count.broken += 1;
        }
        self.count
    }
}

/// Whether this is `running 3 tests` or `running 1 test`.
fn is_begin(line: &str) -> bool {
    let number = line.strip_prefix("running ").and_then(|rest| {
        rest.strip_suffix(" tests")
            .or_else(|| rest.strip_suffix(" test"))
    });
    number.is_some_and(|number| number.parse::<u64>().is_ok())
}

/// Reads `test result: ok. 3 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out; …`.
/// Without newline before it where a test printed past libtest's capture, so it may stand
/// anywhere in the line.
fn parse_summary(line: &str) -> Option<Count> {
    let (_, rest) = line.split_once("test result: ")?;
    let (verdict, numbers) = rest.split_once(". ")?;
    if !matches!(verdict, "ok" | "FAILED") {
        return None;
    }
    let number = |word: &str| -> Option<u64> {
        numbers
            .split("; ")
            .find_map(|part| part.strip_suffix(word)?.trim_end().parse().ok())
    };
    Some(Count {
        passed: number("passed")?,
        failed: number("failed")?,
        ignored: number("ignored")?,
        broken: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, success: bool) -> Count {
        let mut reader = Reader::default();
        text.lines().for_each(|line| reader.read(line));
        reader.finish(success)
    }

    const GOOD: &str = "running 2 tests\ntest a ... ok\ntest b ... ok\n\ntest result: ok. \
        2 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.00s\n";
    const BAD: &str = "running 3 tests\ntest c ... FAILED\n\ntest result: FAILED. \
        1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.20s\n";

    #[test]
    fn binaries_are_added_up() {
        let sum = Count {
            passed: 3,
            failed: 1,
            ignored: 1,
            broken: 0,
        };
        assert_eq!(read(&format!("{GOOD}\n{BAD}"), false), sum);
        assert_eq!(
            read(GOOD, true),
            Count {
                passed: 2,
                ..Count::default()
            }
        );
    }

    #[test]
    fn a_binary_that_dies_is_counted() {
        let died = "running 1 test\n";
        assert_eq!(
            read(died, false),
            Count {
                broken: 1,
                ..Count::default()
            }
        );
        let count = read(&format!("{died}{died}{GOOD}"), false);
        let expected = Count {
            passed: 2,
            broken: 2,
            ..Count::default()
        };
        assert_eq!(count, expected);
    }

    #[test]
    fn a_bad_end_is_not_hidden_by_good_counts() {
        assert_eq!(
            read(GOOD, false),
            Count {
                passed: 2,
                broken: 1,
                ..Count::default()
            }
        );
        assert_eq!(
            read("", false),
            Count {
                broken: 1,
                ..Count::default()
            }
        );
        assert_eq!(read("", true), Count::default());
    }

    #[test]
    fn what_only_looks_like_a_summary_is_not_one() {
        for line in [
            "test result: ok",
            "test result: maybe. 1 passed; 0 failed; 0 ignored",
            "test result: ok. x passed; 0 failed; 0 ignored",
            "test result: ok. 1 passed; 0 failed",
            "running out of tests",
        ] {
            assert_eq!(read(line, true), Count::default(), "{line}");
        }
    }

    #[test]
    fn real_processes_are_shown_and_counted() {
        let mut shown = Vec::new();
        let count = run(Command::new("printf").arg(GOOD), &mut shown).unwrap();
        assert_eq!(
            count,
            Count {
                passed: 2,
                ..Count::default()
            }
        );
        assert_eq!(String::from_utf8(shown).unwrap(), GOOD);
        let count = run(&mut Command::new("false"), &mut Vec::new()).unwrap();
        assert_eq!(
            count,
            Count {
                broken: 1,
                ..Count::default()
            }
        );
    }
}
