//! What came of each tier, as a table, and the sum in the last line.

use std::time::Duration;

use anyhow::Result;

use super::crew::Done;
use super::libtest::Count;
use super::tier::Tier;
use crate::console;

/// What came of one tier.
#[derive(Debug)]
pub(super) struct Outcome {
    tier: Tier,
    count: Count,
    /// Why it failed, where counts do not say it.
    trouble: Option<String>,
    /// What its name does not say.
    remark: Option<String>,
    time: Duration,
}

impl Outcome {
    pub(super) fn new(
        tier: Tier,
        result: Result<Count>,
        remark: Option<String>,
        time: Duration,
    ) -> Self {
        let (count, trouble) = match result {
            Ok(count) => (count, trouble(count)),
            Err(error) => (Count::default(), Some(format!("{error:#}"))),
        };
        Self {
            tier,
            count,
            trouble,
            remark,
            time,
        }
    }

    /// A tier whose tests ran beside those of others: its time is theirs, added up.
    pub(super) fn of_tests(
        tier: Tier,
        built: Result<()>,
        done: &Done,
        unsteady: &[(Tier, String)],
    ) -> Self {
        let ended = || done.ended.iter().filter(|one| one.job.tier == tier);
        let mut sum = Count::default();
        ended().for_each(|one| sum += one.count);
        let names: Vec<&str> = unsteady
            .iter()
            .filter(|one| one.0 == tier)
            .map(|one| one.1.as_str())
            .collect();
        let unsteady = (!names.is_empty())
            .then(|| format!("UNSTEADY, passed when run again: {}", names.join(", ")));
        let failed: Vec<&str> = ended()
            .filter(|one| !one.good())
            .map(|one| one.job.name.as_str())
            .collect();
        let failed = (!failed.is_empty()).then(|| format!("failed: {}", failed.join(", ")));
        let remarks: Vec<String> = failed.into_iter().chain(unsteady).collect();
        let remark = (!remarks.is_empty()).then(|| remarks.join("; "));
        let time = ended().map(|one| one.time).sum();
        let mut outcome = Self::new(tier, built.map(|()| sum), remark, time);
        let left_out = done.left_out.iter().filter(|job| job.tier == tier).count();
        if left_out > 0 {
            outcome.trouble = Some(format!("{left_out} tests not run: one before them failed"));
        }
        outcome
    }

    /// A tier that was asked for and not run, because one before it failed.
    pub(super) fn left_out(tier: Tier) -> Self {
        let trouble = Some("not run: a tier before it failed".to_owned());
        Self {
            tier,
            count: Count::default(),
            trouble,
            remark: None,
            time: Duration::ZERO,
        }
    }

    pub(super) fn good(&self) -> bool {
        self.failed() == 0
    }

    /// Failed tests; at least one for any other trouble, so that a sum of zero is a promise.
    fn failed(&self) -> u64 {
        let Count {
            passed: _,
            failed,
            ignored,
            broken,
        } = self.count;
        let failed = failed + ignored + broken;
        if self.trouble.is_some() {
            failed.max(1)
        } else {
            failed
        }
    }
}

/// What is wrong apart from failed tests.
fn trouble(count: Count) -> Option<String> {
    let Count {
        passed,
        failed,
        ignored,
        broken,
    } = count;
    if broken > 0 {
        Some(format!(
            "{broken} test binaries ended without a good result"
        ))
    } else if ignored > 0 {
        Some(format!(
            "{ignored} tests are marked ignored: every test must run"
        ))
    } else if passed + failed == 0 {
        Some("no test was run".to_owned())
    } else {
        None
    }
}

/// The table, how long it all took, then `N passed, N failed`.
pub(super) fn lines(outcomes: &[Outcome], all: Duration) -> Vec<String> {
    let mut lines = vec![String::new(), row("tier", "passed", "failed", "time", "")];
    for outcome in outcomes {
        let Outcome {
            tier,
            count,
            trouble,
            remark,
            time,
        } = outcome;
        let remarks: Vec<&str> = [trouble, remark]
            .into_iter()
            .filter_map(Option::as_deref)
            .collect();
        let line = row(
            &tier.to_string(),
            &count.passed.to_string(),
            &outcome.failed().to_string(),
            &console::duration(*time),
            &remarks.join("; "),
        );
        lines.push(console::judged(outcome.good(), &line));
    }
    let passed: u64 = outcomes.iter().map(|outcome| outcome.count.passed).sum();
    let failed: u64 = outcomes.iter().map(Outcome::failed).sum();
    lines.push(String::new());
    lines.push(format!(
        "all of it, side by side: {}",
        console::duration(all)
    ));
    lines.push(format!("{passed} passed, {failed} failed"));
    lines
}

fn row(tier: &str, passed: &str, failed: &str, time: &str, remark: &str) -> String {
    let row = format!("{tier:<13}{passed:>8}{failed:>8}{time:>14}  {remark}");
    row.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn outcome(count: Count) -> Outcome {
        Outcome::new(Tier::Netns, Ok(count), None, Duration::from_secs(2))
    }

    fn last(outcomes: &[Outcome]) -> String {
        lines(outcomes, Duration::ZERO).pop().unwrap()
    }

    #[test]
    fn only_run_and_passed_tests_are_good() {
        let good = Count {
            passed: 3,
            ..Count::default()
        };
        assert!(outcome(good).good());
        for bad in [
            Count { failed: 1, ..good },
            Count { ignored: 1, ..good },
            Count { broken: 1, ..good },
            Count::default(),
        ] {
            assert!(!outcome(bad).good(), "{bad:?}");
        }
    }

    #[test]
    fn the_last_line_is_the_sum() {
        let good = Count {
            passed: 3,
            ..Count::default()
        };
        assert_eq!(last(&[outcome(good), outcome(good)]), "6 passed, 0 failed");
        let bad = Count {
            failed: 2,
            ignored: 1,
            ..good
        };
        assert_eq!(last(&[outcome(good), outcome(bad)]), "6 passed, 3 failed");
    }

    #[test]
    fn what_did_not_run_is_never_zero_failures() {
        let unbuilt = Outcome::new(
            Tier::E2e,
            Err(anyhow!("no compiler").context("build")),
            None,
            Duration::ZERO,
        );
        assert_eq!(last(&[outcome(Count::default())]), "0 passed, 1 failed");
        let text = lines(&[unbuilt, Outcome::left_out(Tier::E2e)], Duration::ZERO).join("\n");
        assert!(text.contains("build: no compiler"), "{text}");
        assert!(text.ends_with("0 passed, 2 failed"), "{text}");
    }

    #[test]
    fn a_part_is_not_taken_for_the_whole() {
        let error = Err(anyhow!("no kernel"));
        let remark = Some("a part of `kernels`".to_owned());
        let brief = Outcome::new(Tier::KernelsBrief, error, remark, Duration::ZERO);
        let row = &lines(&[brief], Duration::ZERO)[2];
        assert!(row.starts_with("kernels-brief"), "{row}");
        assert!(row.contains("  no kernel; a part of `kernels`"), "{row}");
    }

    #[test]
    fn the_table_has_a_row_for_each_tier() {
        let count = Count {
            passed: 3,
            ..Count::default()
        };
        let lines = lines(&[outcome(count)], Duration::from_secs(90));
        assert_eq!(lines[1], "tier           passed  failed          time");
        assert_eq!(lines[2], "netns               3       0         2.0 s");
    }
}
