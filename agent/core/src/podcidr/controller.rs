//! What becomes of each Node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use thiserror::Error;

use super::node::CidrNode;
use super::pool::Pool;
use super::selector::Selector;
use super::taint::{Taint, TaintPattern};
use crate::subnet::Subnet;

/// What is to be changed of a Node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Decision {
    /// Its `podCIDRs`, one of each family at most, the family of the first range first.
    pub cidrs: Option<Vec<Subnet>>,
    /// Its taints, those that are to go left out.
    pub taints: Option<Vec<Taint>>,
    /// What somebody has to look at.
    pub trouble: Option<Trouble>,
}

/// What a controller cannot mend.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Trouble {
    /// No prefix is left.
    #[error(
        "no pod CIDR is left for node {node:?}: every prefix of {ranges} is held; add a range to --cluster-cidr"
    )]
    Exhausted {
        /// The Node.
        node: String,
        /// The ranges of the family.
        ranges: String,
    },
    /// Two Nodes hold addresses of one another.
    #[error(
        "node {node:?} has the pod CIDR {cidr}, and another node has addresses of it; delete one of the two Nodes and have its kubelet register it again"
    )]
    Twice {
        /// The Node that was seen later.
        node: String,
        /// What it has.
        cidr: Subnet,
    },
}

/// All that is known of the Nodes. First every Node that there is has to be seen, then decided on.
#[derive(Debug)]
pub struct Controller {
    pools: Vec<Pool>,
    selector: Selector,
    unwanted: Vec<TaintPattern>,
    rest: Duration,
    listed: bool,
    /// What each Node holds, or was promised.
    held: BTreeMap<String, Held>,
}

#[derive(Debug, Default)]
struct Held {
    uid: String,
    cidrs: Vec<Subnet>,
    /// Whether the Node does not have it yet, as far as is known.
    promised: bool,
}

impl Controller {
    /// Nobody has anything. What a Node leaves rests for `rest`.
    pub fn new(
        pools: Vec<Pool>,
        selector: Selector,
        unwanted: Vec<TaintPattern>,
        rest: Duration,
    ) -> Self {
        Self {
            pools,
            selector,
            unwanted,
            rest,
            listed: false,
            held: BTreeMap::new(),
        }
    }

    /// The ranges.
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// Takes notice of what a Node holds, whoever gave it.
    pub fn see(&mut self, node: &CidrNode, now: Duration) {
        if let Some(held) = self.held.get_mut(&node.name)
            && held.uid == node.uid
        {
            // No Node loses what it has: what says so is from before it had it.
            if !node.has_cidr {
                return;
            }
            if held.cidrs == node.cidrs {
                held.promised = false;
                return;
            }
        }
        // Another one of the same name, or somebody else was quicker.
        self.release(&node.name, Some(now.saturating_add(self.rest)));
        if node.has_cidr {
            self.hold(node, node.cidrs.clone(), false);
        }
    }

    /// Every Node that there is was seen: the first time it says where to begin, for of what was
    /// given back before nobody here knows.
    pub fn listed(&mut self) {
        if !std::mem::replace(&mut self.listed, true) {
            self.pools.iter_mut().for_each(Pool::begin_behind);
        }
    }

    /// What is to be done about a Node that was seen.
    pub fn decide(&mut self, node: &CidrNode, now: Duration) -> Decision {
        self.see(node, now);
        let mut decision = Decision {
            trouble: self.twice(node),
            ..Decision::default()
        };
        if !self.selector.matches(&node.labels) {
            return decision;
        }
        let keeps = |taint: &&Taint| !self.unwanted.iter().any(|it| it.matches(taint));
        let kept: Vec<_> = node.taints.iter().filter(keeps).cloned().collect();
        if kept.len() < node.taints.len() {
            decision.taints = Some(kept);
        }
        let settled = self.held.get(&node.name).is_some_and(|held| !held.promised);
        if !node.has_cidr && !settled {
            match self.promise(node, now) {
                Ok(cidrs) => decision.cidrs = Some(cidrs),
                Err(trouble) => decision.trouble = Some(trouble),
            }
        }
        decision
    }

    /// The Node is no more: what it held rests.
    pub fn gone(&mut self, node: &CidrNode, now: Duration) {
        // What it had when it went counts.
        self.see(node, now);
        if self
            .held
            .get(&node.name)
            .is_some_and(|held| held.uid == node.uid)
        {
            self.release(&node.name, Some(now.saturating_add(self.rest)));
        }
    }

    /// Every Node that is not among these is no more.
    pub fn only(&mut self, names: &BTreeSet<String>, now: Duration) {
        let others = self.held.keys().filter(|name| !names.contains(*name));
        for name in others.cloned().collect::<Vec<_>>() {
            self.release(&name, Some(now.saturating_add(self.rest)));
        }
    }

    /// The API server has refused what was promised: nobody ever had it.
    pub fn refused(&mut self, name: &str) {
        if self.held.get(name).is_some_and(|held| held.promised) {
            self.release(name, None);
        }
    }

    fn release(&mut self, name: &str, until: Option<Duration>) {
        let Some(held) = self.held.remove(name) else {
            return;
        };
        for cidr in held.cidrs {
            for pool in &mut self.pools {
                pool.release(cidr, until);
            }
        }
    }

    fn hold(&mut self, node: &CidrNode, cidrs: Vec<Subnet>, promised: bool) {
        for cidr in &cidrs {
            for pool in &mut self.pools {
                pool.hold(*cidr);
            }
        }
        let held = Held {
            uid: node.uid.clone(),
            cidrs,
            promised,
        };
        self.held.insert(node.name.clone(), held);
    }

    /// One prefix of each family; asked again, the same.
    fn promise(&mut self, node: &CidrNode, now: Duration) -> Result<Vec<Subnet>, Trouble> {
        if let Some(held) = self.held.get(&node.name) {
            return Ok(held.cidrs.clone());
        }
        let mut families: Vec<bool> = Vec::new();
        for pool in &self.pools {
            if !families.contains(&pool.is_ipv4()) {
                families.push(pool.is_ipv4());
            }
        }
        let mut cidrs = Vec::new();
        for family in families {
            let of_family = |pool: &&mut Pool| pool.is_ipv4() == family;
            let picked = self
                .pools
                .iter_mut()
                .filter(of_family)
                .find_map(|pool| pool.pick(now));
            cidrs.push(picked.ok_or_else(|| {
                let ranges = self.pools.iter().filter(|pool| pool.is_ipv4() == family);
                let ranges: Vec<_> = ranges.map(|pool| pool.range().to_string()).collect();
                Trouble::Exhausted {
                    node: node.name.clone(),
                    ranges: ranges.join(", "),
                }
            })?);
        }
        self.hold(node, cidrs.clone(), true);
        Ok(cidrs)
    }

    fn twice(&self, node: &CidrNode) -> Option<Trouble> {
        let is_shared = |cidr: &&Subnet| self.pools.iter().any(|pool| pool.holders(**cidr) > 1);
        let cidr = node.cidrs.iter().find(is_shared)?;
        Some(Trouble::Twice {
            node: node.name.clone(),
            cidr: *cidr,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_secs(1000);
    const REST: Duration = Duration::from_mins(5);

    fn subnet(text: &str) -> Subnet {
        Subnet::containing(text.parse().unwrap())
    }

    fn controller(ranges: &[(&str, u8)]) -> Controller {
        let pools = ranges
            .iter()
            .map(|(range, len)| Pool::new(subnet(range), *len).unwrap());
        Controller::new(pools.collect(), Selector::default(), Vec::new(), REST)
    }

    fn node(name: &str, cidrs: &[&str]) -> CidrNode {
        CidrNode {
            name: name.to_owned(),
            cidrs: cidrs.iter().map(|it| subnet(it)).collect(),
            has_cidr: !cidrs.is_empty(),
            ..CidrNode::default()
        }
    }

    fn given(controller: &mut Controller, name: &str, now: Duration) -> Vec<String> {
        let decision = controller.decide(&node(name, &[]), now);
        let cidrs = decision.cidrs.unwrap_or_default();
        cidrs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_node_gets_one_of_each_family() {
        let mut both = controller(&[("10.0.0.0/16", 24), ("fd00::/48", 64)]);
        assert_eq!(given(&mut both, "a", NOW), ["10.0.0.0/24", "fd00::/64"]);
        assert_eq!(
            given(&mut both, "b", NOW),
            ["10.0.1.0/24", "fd00:0:0:1::/64"]
        );
        let mut six = controller(&[("fd00::/48", 64), ("10.0.0.0/16", 24)]);
        assert_eq!(given(&mut six, "a", NOW), ["fd00::/64", "10.0.0.0/24"]);
    }

    /// The patch may have been lost, or it may be on its way.
    #[test]
    fn what_was_promised_is_promised_again() {
        let mut one = controller(&[("10.0.0.0/16", 24)]);
        assert_eq!(given(&mut one, "a", NOW), given(&mut one, "a", NOW));
        assert_eq!(given(&mut one, "b", NOW), ["10.0.1.0/24"]);
        one.refused("a");
        one.see(&node("a", &["10.0.9.0/24"]), NOW);
        assert_eq!(one.pools()[0].held(), 2);
        // It has something: there is nothing to refuse any more.
        one.refused("a");
        assert_eq!(one.pools()[0].held(), 2);
    }

    /// podcidr-controller marks as taken only what Nodes have when it starts.
    #[test]
    fn a_node_that_arrives_with_a_cidr_keeps_it_for_itself() {
        let mut one = controller(&[("10.0.0.0/22", 24)]);
        one.see(&node("a", &["10.0.1.0/24"]), NOW);
        assert_eq!(given(&mut one, "b", NOW), ["10.0.0.0/24"]);
        one.see(&node("late", &["10.0.2.0/24"]), NOW);
        assert_eq!(given(&mut one, "c", NOW), ["10.0.3.0/24"]);
        let full = one.decide(&node("d", &[]), NOW);
        assert_eq!(full.cidrs, None);
        assert!(
            matches!(full.trouble, Some(Trouble::Exhausted { .. })),
            "{full:?}"
        );
    }

    #[test]
    fn a_deleted_nodes_cidr_rests() {
        let mut one = controller(&[("10.0.0.0/22", 24)]);
        given(&mut one, "a", NOW);
        one.gone(&node("a", &[]), NOW);
        assert_eq!(given(&mut one, "b", NOW), ["10.0.1.0/24"]);
        one.gone(&node("b", &[]), NOW);
        one.only(&BTreeSet::new(), NOW);
        assert_eq!(one.pools()[0].held(), 0);
        assert_eq!(given(&mut one, "c", NOW), ["10.0.2.0/24"]);
        assert_eq!(given(&mut one, "d", NOW), ["10.0.3.0/24"]);
        assert_eq!(given(&mut one, "e", NOW + REST), ["10.0.0.0/24"]);
    }

    #[test]
    fn a_node_that_registers_again_gets_another_one() {
        let mut one = controller(&[("10.0.0.0/22", 24)]);
        one.see(&node("a", &["10.0.0.0/24"]), NOW);
        let again = CidrNode {
            uid: "other".to_owned(),
            ..node("a", &[])
        };
        let cidrs = one.decide(&again, NOW).cidrs.unwrap();
        assert_eq!(cidrs, [subnet("10.0.1.0/24")]);
        // That the first one went is told later.
        one.gone(&node("a", &["10.0.0.0/24"]), NOW);
        assert_eq!(given(&mut one, "b", NOW), ["10.0.2.0/24"]);
    }

    /// A watch tells what was before a patch after the patch was answered.
    #[test]
    fn news_from_before_it_had_one_change_nothing() {
        let mut one = controller(&[("10.0.0.0/22", 24)]);
        let given = one.decide(&node("a", &[]), NOW).cidrs.unwrap();
        one.see(&node("a", &["10.0.0.0/24"]), NOW);
        assert_eq!(one.decide(&node("a", &[]), NOW), Decision::default());
        assert_eq!(one.held["a"].cidrs, given);
    }

    #[test]
    fn the_second_of_two_with_one_cidr_is_told() {
        let mut one = controller(&[("10.0.0.0/16", 24)]);
        assert_eq!(
            one.decide(&node("a", &["10.0.0.0/24"]), NOW),
            Decision::default()
        );
        let second = one.decide(&node("b", &["10.0.0.128/25"]), NOW);
        assert!(
            matches!(second.trouble, Some(Trouble::Twice { .. })),
            "{second:?}"
        );
        one.gone(&node("a", &[]), NOW);
        assert_eq!(
            one.decide(&node("b", &["10.0.0.128/25"]), NOW),
            Decision::default()
        );
    }

    #[test]
    fn taints_go_and_others_stay_on_nodes_that_are_meant() {
        let pools = vec![Pool::new(subnet("10.0.0.0/16"), 24).unwrap()];
        let selector = r#"[{"key":"type","operator":"In","values":["cvm"]}]"#
            .parse()
            .unwrap();
        let unwanted = vec!["a:NoSchedule".parse().unwrap(), "b".parse().unwrap()];
        let mut one = Controller::new(pools, selector, unwanted, REST);
        let taint = |key: &str, effect: &str| Taint {
            key: key.to_owned(),
            value: String::new(),
            effect: effect.to_owned(),
            rest: serde_json::Map::new(),
        };
        let mut it = node("n", &["10.0.0.0/24"]);
        it.taints = vec![
            taint("a", "NoSchedule"),
            taint("a", "NoExecute"),
            taint("b", "x"),
        ];
        assert_eq!(one.decide(&it, NOW), Decision::default());
        it.labels = BTreeMap::from([("type".to_owned(), "cvm".to_owned())]);
        let decision = one.decide(&it, NOW);
        assert_eq!(decision.taints, Some(vec![taint("a", "NoExecute")]));
        assert_eq!(decision.cidrs, None);
        // Not one that is not meant.
        assert_eq!(one.decide(&node("m", &[]), NOW), Decision::default());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Arrives(u8),
        Confirmed(u8),
        Refused(u8),
        Deleted(u8),
        Stale(u8),
        Listed,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..20_u8).prop_map(Step::Arrives),
            3 => (0..20_u8).prop_map(Step::Confirmed),
            1 => (0..20_u8).prop_map(Step::Refused),
            2 => (0..20_u8).prop_map(Step::Deleted),
            1 => (0..20_u8).prop_map(Step::Stale),
            1 => Just(Step::Listed),
        ];
        proptest::collection::vec(step, 0..150)
    }

    proptest! {
        /// Whatever comes in whatever order, no two Nodes that are there have one prefix, and
        /// what is free at the end is all that they have not.
        #[test]
        fn no_two_nodes_share(steps in steps()) {
            let mut one = controller(&[("10.0.0.0/20", 24), ("fd00::/59", 64)]);
            // What the API server has: since when, and what.
            let mut nodes: BTreeMap<u8, (usize, Vec<Subnet>)> = BTreeMap::new();
            let mut promised: BTreeMap<u8, Vec<Subnet>> = BTreeMap::new();
            for (second, step) in steps.into_iter().enumerate() {
                let now = Duration::from_secs(10 * second as u64);
                let named = |name: u8, (uid, cidrs): &(usize, Vec<Subnet>)| CidrNode {
                    name: name.to_string(),
                    uid: uid.to_string(),
                    cidrs: cidrs.clone(),
                    has_cidr: !cidrs.is_empty(),
                    ..CidrNode::default()
                };
                match step {
                    Step::Arrives(name) => {
                        let node = nodes.entry(name).or_insert((second, Vec::new()));
                        if let Some(new) = one.decide(&named(name, node), now).cidrs {
                            prop_assert!(node.1.is_empty());
                            promised.insert(name, new);
                        }
                    }
                    Step::Stale(name) => {
                        if let Some((uid, cidrs)) = nodes.get(&name) {
                            let before = named(name, &(*uid, Vec::new()));
                            let new = one.decide(&before, now).cidrs;
                            prop_assert!(cidrs.is_empty() || new.is_none());
                            promised.extend(new.map(|new| (name, new)));
                        }
                    }
                    Step::Confirmed(name) => {
                        if let Some(cidrs) = promised.remove(&name)
                            && let Some(node) = nodes.get_mut(&name)
                        {
                            node.1 = cidrs;
                            one.see(&named(name, node), now);
                        }
                    }
                    Step::Refused(name) => {
                        if promised.remove(&name).is_some() {
                            one.refused(&name.to_string());
                        }
                    }
                    Step::Deleted(name) => {
                        promised.remove(&name);
                        if let Some(node) = nodes.remove(&name) {
                            one.gone(&named(name, &node), now);
                        }
                    }
                    Step::Listed => {
                        let names = nodes.keys().map(ToString::to_string).collect();
                        one.only(&names, now);
                        for (name, node) in &nodes {
                            one.see(&named(*name, node), now);
                        }
                    }
                }
                let held = nodes.values().map(|(_, cidrs)| cidrs);
                let all: Vec<_> = held.chain(promised.values()).flatten().collect();
                let each: BTreeSet<_> = all.iter().collect();
                prop_assert_eq!(all.len(), each.len());
                prop_assert_eq!(2 * one.pools()[0].held() as usize, all.len());
            }
        }
    }
}
