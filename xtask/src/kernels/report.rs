//! What a guest says, read line by line.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::message::Message;
use crate::test::libtest::{Count, Reader};

/// Programs that kernels before a version reject, and the one that the agent takes there: before
/// 5.18 XDP takes no programs for packets in fragments (`f45d5b6ce2e8`).
const STAND_INS: [(&str, &str, (u32, u32)); 1] = [("guard", "guard_whole", (5, 18))];

/// What came of a test binary.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// Its tests.
    Ran(Count),
    /// It did not run: the kernel lacks what it is about.
    LeftOut(String),
}

/// Everything that one guest said.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// What `uname -r` said.
    pub(super) release: Option<String>,
    /// The verifier's answers: processed instructions, where it counted and took the program;
    /// else the end of its log.
    pub(super) programs: BTreeMap<String, Result<Option<u32>, String>>,
    /// What was tried, in order, with the reason where it is missing.
    pub(super) features: Vec<(String, Option<String>)>,
    /// What came of the test binaries that ended, in order.
    pub(super) tiers: Vec<(String, Outcome)>,
    /// What tests measured, one line for each figure.
    pub(super) measured: Vec<String>,
    /// Everything that went wrong otherwise.
    pub(super) troubles: Vec<String>,
    running: Option<(String, Reader)>,
    ended: bool,
}

impl Report {
    /// Takes in one line, and gives what a person may want to see of it.
    pub(super) fn read(&mut self, line: &str) -> Result<Option<String>> {
        let message = serde_json::from_str(line.trim())
            .with_context(|| format!("the guest said {line:?}"))?;
        let shown = match message {
            Message::Kernel { release } => {
                let text = format!("{release} is up");
                self.release = Some(release);
                Some(text)
            }
            Message::Program {
                name,
                instructions,
                rejected,
            } => {
                let text = match &rejected {
                    None => format!("program {name}: loaded"),
                    Some(log) => format!("program {name}: rejected\n{log}"),
                };
                self.programs
                    .insert(name, rejected.map_or(Ok(instructions), Err));
                Some(text)
            }
            Message::Feature { name, missing } => {
                let text = missing
                    .as_ref()
                    .map(|why| format!("missing: {name}: {why}"));
                self.features.push((name, missing));
                text
            }
            Message::TierBegin { tier } => {
                let text = format!("tier {tier}");
                self.running = Some((tier, Reader::default()));
                Some(text)
            }
            Message::Output { line } => {
                if let Some((_, reader)) = &mut self.running {
                    reader.read(&line);
                }
                Some(line)
            }
            Message::TierEnd { tier, success } => {
                if let Some((begun, reader)) =
                    self.running.take().filter(|(begun, _)| *begun == tier)
                {
                    self.tiers
                        .push((begun, Outcome::Ran(reader.finish(success))));
                } else {
                    self.troubles
                        .push(format!("the tier {tier} ended without having begun"));
                }
                None
            }
            Message::Measured { line } => {
                self.measured.push(line.replace('\t', ": "));
                None
            }
            Message::LeftOut { tier, why } => {
                let text = format!("tier {tier}: left out, {why}");
                self.tiers.push((tier, Outcome::LeftOut(why)));
                Some(text)
            }
            Message::Trouble { text } => {
                self.troubles.push(text.clone());
                Some(text)
            }
            Message::End {} => {
                self.ended = true;
                None
            }
        };
        Ok(shown)
    }

    /// Closes the report on the kernel `release`: what has not ended was cut off, for the reason
    /// `why`, and the end of its console says more.
    pub(super) fn finish(&mut self, release: &str, why: &str, console: impl FnOnce() -> String) {
        if self.release.as_deref().is_some_and(|up| up != release) {
            self.troubles
                .push(format!("another kernel than {release} came up"));
        }
        if let Some((tier, reader)) = self.running.take() {
            self.tiers.push((tier, Outcome::Ran(reader.finish(false))));
        }
        if !self.ended {
            let console = console();
            self.troubles
                .push(format!("{why}; the end of its console:\n{console}"));
        }
    }

    /// Holds it against the guest that it loaded no program, or that a test binary had no test
    /// to run.
    pub(super) fn require_proof(&mut self) {
        if self.programs.is_empty() {
            self.troubles.push("no program was loaded".to_owned());
        }
        for (tier, outcome) in &self.tiers {
            if *outcome == Outcome::Ran(Count::default()) {
                self.troubles.push(format!("{tier}: no test was run"));
            }
        }
    }

    /// Tests that passed, everything that failed; a program is a test as well.
    pub(super) fn count(&self) -> Count {
        let mut sum = Count::default();
        for (name, answer) in &self.programs {
            match answer {
                Ok(_) => sum.passed += 1,
                // The table says which of the two it is.
                Err(_) if self.is_stood_in_for(name) => {}
                Err(_) => sum.failed += 1,
            }
        }
        for (_, outcome) in &self.tiers {
            if let Outcome::Ran(count) = outcome {
                sum += *count;
            }
        }
        sum.broken += self.troubles.len() as u64;
        sum
    }
}

impl Report {
    fn is_stood_in_for(&self, program: &str) -> bool {
        let kernel = self.release.as_deref().and_then(version);
        STAND_INS.iter().any(|(name, stand_in, since)| {
            *name == program
                && kernel.is_some_and(|kernel| kernel < *since)
                && self.programs.get(*stand_in).is_some_and(Result::is_ok)
        })
    }
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse().ok();
    Some((number()?, number()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Report {
        let mut report = Report::default();
        for line in lines {
            report.read(line).unwrap();
        }
        report.finish("6.1.0", "it died", || "Kernel panic".to_owned());
        report
    }

    const PROGRAM: &str = r#"{"kind":"program","name":"a","instructions":7,"rejected":null}"#;
    const BAD: &str =
        r#"{"kind":"program","name":"b","instructions":null,"rejected":"R1 !read_ok"}"#;
    const BEGIN: &str = r#"{"kind":"tier_begin","tier":"t"}"#;
    const RUNNING: &str = r#"{"kind":"output","line":"running 1 test"}"#;
    const RESULT: &str =
        r#"{"kind":"output","line":"test result: ok. 1 passed; 0 failed; 0 ignored"}"#;
    const TIER_END: &str = r#"{"kind":"tier_end","tier":"t","success":true}"#;
    const END: &str = r#"{"kind":"end"}"#;

    #[test]
    fn programs_and_tests_are_counted() {
        let report = read(&[PROGRAM, BEGIN, RUNNING, RESULT, TIER_END, END]);
        assert_eq!(
            report.count(),
            Count {
                passed: 2,
                ..Count::default()
            }
        );
        let report = read(&[PROGRAM, BAD, END]);
        assert_eq!(
            report.count(),
            Count {
                passed: 1,
                failed: 1,
                ..Count::default()
            }
        );
    }

    #[test]
    fn a_program_with_a_stand_in_may_be_rejected() {
        let named = |line: &str, name: &str| line.replace("\"a\"", name).replace("\"b\"", name);
        let kernel = |release| format!(r#"{{"kind":"kernel","release":"{release}"}}"#);
        let rejected = named(BAD, "\"guard\"");
        let stand_in = named(PROGRAM, "\"guard_whole\"");
        let both = named(BAD, "\"guard_whole\"");
        let failed = |lines: &[&str]| read(lines).count().failed;
        let old = &kernel("5.10.0-32-cloud-amd64");
        assert_eq!(failed(&[old, &rejected, END]), 1);
        assert_eq!(failed(&[old, &rejected, &stand_in, END]), 0);
        assert_eq!(failed(&[old, &rejected, &both, END]), 2);
        // Where the kernel could take it, its fault is one.
        for new in ["5.18.0", "6.1.0-50-cloud-amd64", "7.2.1", "what"] {
            assert_eq!(failed(&[&kernel(new), &rejected, &stand_in, END]), 1);
        }
        assert_eq!(failed(&[&rejected, &stand_in, END]), 1);
    }

    #[test]
    fn a_guest_that_dies_is_a_failure() {
        for lines in [
            &[][..],
            &[PROGRAM],
            &[PROGRAM, BEGIN, RUNNING],
            &[PROGRAM, BEGIN, RUNNING, RESULT],
        ] {
            let report = read(lines);
            assert!(report.count().broken > 0, "{lines:?}");
            let told = report.troubles.last().unwrap();
            assert_eq!(told, "it died; the end of its console:\nKernel panic");
        }
        assert_eq!(read(&[PROGRAM, BEGIN, RUNNING, END]).count().broken, 1);
    }

    #[test]
    fn a_tier_without_tests_proves_nothing() {
        let none = RESULT.replace('1', "0");
        let mut report = read(&[PROGRAM, BEGIN, RUNNING, &none, TIER_END, END]);
        assert!(report.count().is_good());
        report.require_proof();
        assert_eq!(report.count().broken, 1);
        let mut report = read(&[PROGRAM, BEGIN, RUNNING, RESULT, TIER_END, END]);
        report.require_proof();
        assert!(report.count().is_good());
    }

    #[test]
    fn a_kernel_without_programs_proves_nothing() {
        let mut report = read(&[BEGIN, RUNNING, RESULT, TIER_END, END]);
        assert!(report.count().is_good());
        report.require_proof();
        assert_eq!(report.count().broken, 1);
    }

    #[test]
    fn another_kernel_proves_nothing() {
        let kernel = |release| format!(r#"{{"kind":"kernel","release":"{release}"}}"#);
        assert_eq!(read(&[&kernel("6.1.0"), END]).count().broken, 0);
        assert_eq!(read(&[&kernel("6.1.1"), END]).count().broken, 1);
    }

    #[test]
    fn what_nobody_expects_is_an_error() {
        for line in [
            "",
            "[   0.1] Linux version",
            r#"{"kind":"other"}"#,
            r#"{"kind":"end","x":1}"#,
        ] {
            assert!(Report::default().read(line).is_err(), "{line}");
        }
        let trouble = read(&[r#"{"kind":"trouble","text":"no module"}"#, END]);
        assert_eq!(trouble.count().broken, 1);
    }
}
