//! One row for all runs of one kind.

use super::Convergence;
use crate::stats::median;

/// Of each agent with each number of leases the medians of what its runs measured, in the order
/// of the first ones, and how many runs they are of.
pub(super) fn medians(all: &[Convergence]) -> Vec<(Convergence, usize)> {
    let mut rows: Vec<(Convergence, usize)> = Vec::new();
    for one in all {
        let same = |other: &Convergence| other.agent == one.agent && other.leases == one.leases;
        if rows.iter().any(|(row, _)| same(row)) {
            continue;
        }
        let runs: Vec<_> = all
            .iter()
            .filter(|run| same(run) && run.problem.is_none())
            .collect();
        let of = |figure: fn(&Convergence) -> Option<f64>| {
            let figures: Vec<_> = runs.iter().filter_map(|run| figure(run)).collect();
            median(&figures)
        };
        let mut memory: Vec<_> = runs
            .iter()
            .filter_map(|run| run.memory_peak_bytes)
            .collect();
        memory.sort_unstable();
        let row = Convergence {
            agent: one.agent.clone(),
            leases: one.leases,
            start_s: of(|run| run.start_s),
            mapped_s: of(|run| run.mapped_s),
            change_s: of(|run| run.change_s),
            cpu_s: of(|run| run.cpu_s),
            memory_peak_bytes: memory.get(memory.len() / 2).copied(),
            problem: None,
        };
        rows.push((row, runs.len()));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_went_wrong_count_for_nothing() {
        let run = |agent: &str, start: f64, problem: Option<&str>| Convergence {
            agent: agent.to_owned(),
            leases: 5,
            start_s: Some(start),
            mapped_s: None,
            change_s: None,
            cpu_s: None,
            memory_peak_bytes: Some(7),
            problem: problem.map(str::to_owned),
        };
        let rows = medians(&[
            run("a", 1.0, None),
            run("b", 9.0, Some("it fell")),
            run("a", 2.0, None),
            run("a", 8.0, Some("it fell")),
            run("a", 4.0, None),
        ]);
        let of = |n: usize| (&*rows[n].0.agent, rows[n].0.start_s, rows[n].1);
        assert_eq!(of(0), ("a", Some(2.0), 3));
        assert_eq!(of(1), ("b", None, 0));
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].0.memory_peak_bytes, Some(7));
    }
}
