//! A second try for tests with real time in them.
//!
//! They hold real servers and real networks to seconds, on machines that others share: now and
//! then one fails by a pause of the machine's. Such a test is run once more, by itself, and where it
//! passes then it is told as unsteady. Few may be, or the run has failed.

use super::job::{Ended, Job};
use super::room::Needs;
use super::tier::Tier;

/// How many tests of a whole run get a second try.
pub(super) const MOST: usize = 2;

/// What to run again, alone: what failed, where no more than `most` did.
pub(super) fn worth(ended: &[Ended], most: usize) -> Vec<Job> {
    let failed: Vec<&Job> = ended
        .iter()
        .filter(|one| one.count.failed > 0 && one.job.tier.takes_real_time())
        .map(|one| &one.job)
        .collect();
    if failed.len() > most {
        return Vec::new();
    }
    let alone = |job: &Job| Job {
        needs: Needs::ALONE,
        ..job.clone()
    };
    failed.into_iter().map(alone).collect()
}

/// The names of `jobs`, if there are any.
pub(super) fn list(jobs: &[Job]) -> Option<String> {
    let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// Puts what passed at the second try in the place of its failure, and names it.
pub(super) fn judge(ended: &mut [Ended], second: Vec<Ended>) -> Vec<(Tier, String)> {
    let mut unsteady = Vec::new();
    for again in second.into_iter().filter(Ended::good) {
        let same =
            |one: &&mut Ended| one.job.tier == again.job.tier && one.job.name == again.job.name;
        if let Some(first) = ended.iter_mut().find(same) {
            first.count = again.count;
            unsteady.push((again.job.tier, again.job.name));
        }
    }
    unsteady
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::libtest::Count;
    use super::*;

    fn ended(tier: Tier, name: &str, good: bool) -> Ended {
        Ended {
            job: Job {
                tier,
                name: name.to_owned(),
                needs: Needs::units(1),
                deadline: Duration::ZERO,
            },
            count: Count {
                passed: u64::from(good),
                failed: u64::from(!good),
                ..Count::default()
            },
            time: Duration::ZERO,
            output: String::new(),
        }
    }

    fn names(jobs: &[Job]) -> Vec<&str> {
        jobs.iter().map(|job| job.name.as_str()).collect()
    }

    #[test]
    fn few_failures_are_run_again_alone_and_many_are_not() {
        let mut all = vec![
            ended(Tier::Netns, "a", false),
            ended(Tier::Guard, "b", true),
            ended(Tier::E2e, "c", false),
        ];
        let again = worth(&all, MOST);
        assert_eq!(names(&again), ["a", "c"]);
        assert!(again.iter().all(|job| job.needs == Needs::ALONE));
        assert_eq!(list(&again).unwrap(), "a, c");
        assert_eq!(worth(&all, 0), []);
        all.push(ended(Tier::Permits, "d", false));
        assert_eq!(worth(&all, MOST), []);
        assert_eq!(list(&[]), None);
    }

    #[test]
    fn what_has_no_real_time_in_it_has_one_try() {
        let all = [
            ended(Tier::ProgRun, "a", false),
            ended(Tier::Netns, "b", false),
        ];
        assert_eq!(names(&worth(&all, MOST)), ["b"]);
    }

    #[test]
    fn what_passes_when_run_again_is_told_and_counts() {
        let mut all = vec![
            ended(Tier::Netns, "a", false),
            ended(Tier::Guard, "a", false),
        ];
        let second = vec![
            ended(Tier::Netns, "a", true),
            ended(Tier::Guard, "a", false),
        ];
        let unsteady = judge(&mut all, second);
        assert_eq!(unsteady, [(Tier::Netns, "a".to_owned())]);
        assert!(all[0].good() && !all[1].good());
    }
}
