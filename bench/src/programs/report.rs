//! What the programs cost, as data.

use serde::{Deserialize, Serialize};

use super::verifier::Verified;
use super::{Branch, Plan, Row, Scene};
use crate::machine::Machine;
use crate::stats::{Interval, median};

/// A run of `--programs`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ProgramsReport {
    /// [`crate::report::SCHEMA`].
    pub schema: u32,
    /// What it ran on.
    pub machine: Machine,
    /// The objects, the one that it is about first.
    pub objects: Vec<String>,
    /// Rounds that count.
    pub rounds: u32,
    /// Runs of each branch in each round.
    pub runs: u64,
    /// What the verifier says.
    pub verifier: Vec<Verified>,
    /// What each branch costs.
    pub branches: Vec<BranchCost>,
    /// Each branch in every scene beside the first one.
    pub growth: Vec<Comparison>,
    /// Each branch of the first object beside the second one.
    pub change: Vec<Comparison>,
}

/// What a branch costs in one scene.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct BranchCost {
    /// The object.
    pub object: String,
    /// What the maps held.
    pub scene: Scene,
    /// The branch.
    pub branch: Branch,
    /// Nanoseconds a packet, more than [`Branch::Nothing`]: the median of the rounds, and its
    /// interval; none if it could not be measured.
    pub cost_ns: Option<Interval>,
    /// Every round's.
    pub rounds_ns: Vec<f64>,
    /// Why there is no figure.
    pub problem: Option<String>,
}

/// The same branch twice: nanoseconds more, round by round.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Comparison {
    /// The branch.
    pub branch: Branch,
    /// What is compared.
    pub what: String,
    /// With what.
    pub with: String,
    /// Nanoseconds there.
    pub before_ns: f64,
    /// Nanoseconds more; the interval includes 0 where no difference was shown.
    pub more_ns: Interval,
    /// `more_ns.median` as a part of `before_ns`.
    pub more_share: f64,
}

pub(super) fn cost(plan: &Plan, row: Row) -> BranchCost {
    let Row {
        object,
        scene,
        branch,
        costs_ns,
        problem,
    } = row;
    BranchCost {
        object: plan
            .objects
            .get(object)
            .map_or_else(String::new, |object| object.name.clone()),
        scene,
        branch,
        cost_ns: Interval::of(&costs_ns).filter(|_| problem.is_none()),
        rounds_ns: costs_ns,
        problem,
    }
}

/// Every scene beside the first, object by object.
pub(super) fn growth(costs: &[BranchCost]) -> Vec<Comparison> {
    let Some(first) = costs.first().map(|cost| cost.scene) else {
        return Vec::new();
    };
    let grown = costs.iter().filter(|cost| cost.scene != first);
    let pairs = grown.filter_map(|cost| {
        let same = |other: &&BranchCost| {
            other.object == cost.object && other.branch == cost.branch && other.scene == first
        };
        let before = costs.iter().find(same)?;
        comparison(cost, before, cost.scene.to_string(), first.to_string())
    });
    pairs.collect()
}

/// The first object beside the second, in the first scene.
pub(super) fn change(costs: &[BranchCost]) -> Vec<Comparison> {
    let Some(first) = costs.first() else {
        return Vec::new();
    };
    let now = costs
        .iter()
        .filter(|cost| cost.object == first.object && cost.scene == first.scene);
    let pairs = now.filter_map(|cost| {
        let other = |other: &&BranchCost| {
            other.object != cost.object && other.branch == cost.branch && other.scene == cost.scene
        };
        let before = costs.iter().find(other)?;
        comparison(cost, before, cost.object.clone(), before.object.clone())
    });
    pairs.collect()
}

fn comparison(
    now: &BranchCost,
    before: &BranchCost,
    what: String,
    with: String,
) -> Option<Comparison> {
    now.cost_ns.and(before.cost_ns)?;
    let rounds = now.rounds_ns.iter().zip(&before.rounds_ns);
    let more: Vec<f64> = rounds.map(|(now, before)| now - before).collect();
    let (before_ns, more_ns) = (median(&before.rounds_ns)?, Interval::of(&more)?);
    Some(Comparison {
        branch: now.branch,
        what,
        with,
        before_ns,
        more_ns,
        more_share: more_ns.median / before_ns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(object: &str, leases: u32, rounds_ns: &[f64]) -> BranchCost {
        BranchCost {
            object: object.to_owned(),
            scene: Scene { leases, permits: 0 },
            branch: Branch::ToOverlayFast,
            cost_ns: Interval::of(rounds_ns),
            rounds_ns: rounds_ns.to_vec(),
            problem: None,
        }
    }

    #[test]
    fn growth_is_told_round_by_round() {
        let costs = [
            cost("new", 2, &[100.0, 110.0, 120.0, 100.0, 105.0, 110.0]),
            cost("new", 1000, &[103.0, 113.0, 123.0, 103.0, 108.0, 113.0]),
        ];
        let found = growth(&costs);
        let [grown] = found.as_slice() else {
            panic!("{found:?}");
        };
        // The rounds differ by more than the scenes do, and yet it is seen.
        assert!((grown.more_ns.low - 3.0).abs() < 1e-9, "{grown:?}");
        assert!((grown.more_share - 3.0 / 107.5).abs() < 1e-9, "{grown:?}");
        assert!(change(&costs).is_empty());
    }

    #[test]
    fn a_change_is_the_first_object_beside_the_second() {
        let costs = [
            cost("new", 2, &[90.0, 91.0, 89.0, 90.0, 92.0, 90.0]),
            cost("old", 2, &[100.0, 101.0, 100.0, 99.0, 100.0, 102.0]),
        ];
        let found = change(&costs);
        let [change] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!((change.what.as_str(), change.with.as_str()), ("new", "old"));
        assert!(change.more_ns.high < 0.0, "{change:?}");
        assert!(growth(&costs).is_empty());
    }

    #[test]
    fn what_could_not_be_measured_is_compared_with_nothing() {
        let mut broken = cost("new", 1000, &[1.0; 6]);
        broken.cost_ns = None;
        assert!(growth(&[cost("new", 2, &[1.0; 6]), broken]).is_empty());
    }
}
