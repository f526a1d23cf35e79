//! A second try for tests with real time in them.
//!
//! They hold real servers and real networks to seconds, on machines that others share: now and
//! then one fails by a pause of the machine's. Such a test is run once more, by itself, and where it
//! passes then it is told as unsteady. Few may be, or the run has failed.

use anyhow::Result;

use super::libtest::Count;

/// How many tests of a whole run get a second try.
pub(super) const MOST: usize = 2;

/// What came of a tier, second tries included.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Tried {
    pub(super) count: Count,
    /// Tests that passed at the second try only.
    pub(super) unsteady: Vec<String>,
}

impl From<Count> for Tried {
    fn from(count: Count) -> Self {
        Self {
            count,
            unsteady: Vec::new(),
        }
    }
}

impl Tried {
    /// What a person has to know beside the counts.
    pub(super) fn remark(&self) -> Option<String> {
        let unsteady = self.unsteady.join(", ");
        (!unsteady.is_empty()).then(|| format!("UNSTEADY, passed when run again: {unsteady}"))
    }
}

/// Lets `again` run what failed once more, where no more than `most` did.
pub(super) fn judge(
    (count, failed): (Count, Vec<String>),
    most: usize,
    again: impl FnOnce(&[String]) -> Result<(Count, Vec<String>)>,
) -> Result<Tried> {
    let first = Tried::from(count);
    let all_named = u64::try_from(failed.len()).is_ok_and(|named| named == count.failed);
    if failed.is_empty() || failed.len() > most || !all_named || count.broken > 0 {
        return Ok(first);
    }
    let (second, still) = again(&failed)?;
    if second.broken > 0 || second.passed + second.failed != count.failed {
        return Ok(first);
    }
    let steady = |name: &String| !still.contains(name);
    Ok(Tried {
        count: Count {
            passed: count.passed + second.passed,
            failed: second.failed,
            ..count
        },
        unsteady: failed.into_iter().filter(steady).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(passed: u64, failed: u64, broken: u64) -> Count {
        Count {
            passed,
            failed,
            broken,
            ..Count::default()
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn what_passes_when_run_again_is_told() {
        let first = (count(7, 2, 0), names(&["a", "b"]));
        let tried = judge(first, MOST, |failed| {
            assert_eq!(failed, names(&["a", "b"]));
            Ok((count(1, 1, 0), names(&["b"])))
        });
        let expected = Tried {
            count: count(8, 1, 0),
            unsteady: names(&["a"]),
        };
        assert_eq!(tried.unwrap(), expected);
    }

    #[test]
    fn many_failures_a_dead_binary_and_nameless_ones_stay_failures() {
        for (first, failed, most) in [
            (count(7, 3, 0), names(&["a", "b", "c"]), MOST),
            (count(7, 1, 0), names(&["a"]), 0),
            (count(7, 1, 1), names(&["a"]), MOST),
            (count(7, 2, 0), names(&["a"]), MOST),
            (count(7, 0, 0), names(&[]), MOST),
        ] {
            let tried = judge((first, failed), most, |_| panic!("run again"));
            assert_eq!(tried.unwrap(), Tried::from(first));
        }
    }

    #[test]
    fn a_second_try_that_did_not_run_changes_nothing() {
        for second in [count(0, 0, 0), count(0, 0, 1), count(2, 0, 0)] {
            let first = (count(7, 1, 0), names(&["a"]));
            let tried = judge(first, MOST, |_| Ok((second, Vec::new())));
            assert_eq!(tried.unwrap().count, count(7, 1, 0));
        }
    }
}
