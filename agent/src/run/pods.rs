//! The pods of this node: found from the kernel, judged, and told to the programs.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;
use tracing::info;
use twill_abi::Program;
use twill_core::pods::{
    Excluded, HostLinks, OurFilters, PodVeth, Qdisc, Rules, find, with_programs,
};
use twill_core::subnet::Subnet;

use super::bpf::Bpf;
use super::failures::Failures;
use super::grace::Grace;
use crate::args::AgentArgs;
use crate::datapath::permits::VethUse;
use crate::datapath::place::Interface;
use crate::netlink::Netlink;

/// What judging pods needs to know of the node.
pub(super) struct Surroundings<'a> {
    pub(super) own_subnet: Subnet,
    /// Interface index of the uplink.
    pub(super) uplink: u32,
    pub(super) bpf: &'a Bpf,
}

/// The pods of this node.
pub(super) struct Pods {
    our_filters: OurFilters,
    excluded: Excluded,
    known: BTreeMap<u32, PodVeth>,
    grace: Grace,
    /// Veths that may get no filter now, and why.
    barred: BTreeMap<u32, String>,
    /// TCX programs of others: name by interface index.
    foreign: BTreeMap<u32, String>,
    /// Whether a look has succeeded: before, nothing of an earlier start may be taken back.
    seen: bool,
}

impl Pods {
    pub(super) fn new(args: &AgentArgs) -> Self {
        let our_filters = OurFilters {
            priority: args.tc_priority,
            handle: args.tc_handle,
            ingress: Program::FromPod.label().to_owned(),
            egress: Program::ToPod.label().to_owned(),
        };
        let excluded = Excluded {
            links: args.exclude_link.iter().cloned().collect(),
            // The table's set keeps excluded addresses slow, however their pods are wired.
            ..Excluded::default()
        };
        Self {
            our_filters,
            excluded,
            known: BTreeMap::new(),
            grace: Grace::default(),
            barred: BTreeMap::new(),
            foreign: BTreeMap::new(),
            seen: false,
        }
    }

    /// Looks at the kernel again.
    pub(super) async fn look(
        &mut self,
        netlink: &Netlink,
        around: &Surroundings<'_>,
        failures: &mut Failures,
    ) {
        let host = match netlink.host_links(around.own_subnet).await {
            Ok(host) => host,
            Err(error) => {
                failures.add("netlink", &error);
                return;
            }
        };
        let mut rules = Rules {
            own_subnet: around.own_subnet,
            uplink: Some(around.uplink),
            our_filters: self.our_filters.clone(),
            foreign_programs: BTreeMap::new(),
            excluded: self.excluded.clone(),
        };
        let links = with_programs(&host, &find(&host, &rules)).into_iter();
        let candidates: Vec<_> = links
            .map(|(ifindex, name)| Interface { name, ifindex })
            .collect();
        let seen = around.bpf.foreign_programs(&candidates);
        self.foreign = foreign(&candidates, &seen, &self.foreign);
        rules.foreign_programs.clone_from(&self.foreign);
        let found = find(&host, &rules);
        for (ifindex, pod) in &found {
            let known = self.known.get(ifindex);
            let reason = pod.never_fast.as_ref();
            if known.is_none_or(|known| known.never_fast.as_ref() != reason) {
                if let Some(reason) = reason {
                    info!(pod = pod.name, %reason, "pod is never fast");
                } else {
                    info!(pod = pod.name, wiring = ?pod.wiring, "pod may be fast");
                }
            }
        }
        self.known = found;
        self.seen = true;
        self.barred = if around.bpf.attaches_by_filter() {
            self.look_at_qdiscs(&host, Instant::now())
        } else {
            BTreeMap::new()
        };
    }

    /// The pods' veths that may not get the qdisc which a filter needs, and why: a new one would
    /// come before the CNI's, and where packets wait in another they would be lost.
    fn look_at_qdiscs(&mut self, host: &HostLinks, now: Instant) -> BTreeMap<u32, String> {
        let pods = self.known.keys();
        let qdiscs = pods.filter_map(|ifindex| Some((*ifindex, &host.links.get(ifindex)?.qdiscs)));
        let takes_filters = |qdisc: &Qdisc| matches!(qdisc, Qdisc::Ingress(_));
        let bare: Vec<_> = qdiscs
            .filter(|(_, qdiscs)| !qdiscs.iter().any(takes_filters))
            .collect();
        self.grace
            .note(&bare.iter().map(|&(ifindex, _)| ifindex).collect(), now);
        let barred = bare.into_iter().filter_map(|(ifindex, qdiscs)| {
            let why = match queue(qdiscs) {
                Some(kind) => format!("its qdisc {kind} would lose packets to a new clsact qdisc"),
                None if !self.grace.is_over(ifindex, now) => "its veth is new".to_owned(),
                None => return None,
            };
            Some((ifindex, why))
        });
        barred.collect()
    }

    /// The veths that programs belong on.
    pub(super) fn interfaces(&self) -> Vec<Interface> {
        self.open(|pod| pod.never_fast.is_none())
    }

    /// The veths of pods that are never fast, as far as a program may be there.
    pub(super) fn never_fast(&self) -> Vec<Interface> {
        self.open(|pod| pod.never_fast.is_some())
    }

    /// The veths of all pods, as far as a program may be there.
    pub(super) fn all(&self) -> Vec<Interface> {
        self.open(|_| true)
    }

    fn open(&self, wanted: impl Fn(&PodVeth) -> bool) -> Vec<Interface> {
        let pods = self.known.iter();
        pods.filter(|(ifindex, pod)| wanted(pod) && !self.barred.contains_key(ifindex))
            .map(interface)
            .collect()
    }

    /// Why no filter may be on a veth now, if that is so.
    pub(super) fn barred(&self, ifindex: u32) -> Option<&str> {
        self.barred.get(&ifindex).map(String::as_str)
    }

    /// What each veth may do; `None` while nobody knows.
    pub(super) fn uses(&self) -> Option<BTreeMap<u32, VethUse>> {
        let use_of = |pod: &PodVeth| match pod.never_fast {
            None => VethUse::Fast,
            Some(_) => VethUse::NeverFast,
        };
        let uses = self.known.iter();
        self.seen
            .then(|| uses.map(|(&ifindex, pod)| (ifindex, use_of(pod))).collect())
    }

    /// The pods as they were last seen.
    pub(super) fn known(&self) -> &BTreeMap<u32, PodVeth> {
        &self.known
    }
}

/// Programs of others as they were `seen`; of an interface that could not be looked at, as they
/// were `before`.
fn foreign(
    interfaces: &[Interface],
    seen: &BTreeMap<u32, Option<String>>,
    before: &BTreeMap<u32, String>,
) -> BTreeMap<u32, String> {
    let of = |ifindex: u32| match seen.get(&ifindex) {
        Some(name) => name.clone(),
        None => before.get(&ifindex).cloned(),
    };
    let indexes = interfaces.iter().map(|interface| interface.ifindex);
    indexes
        .filter_map(|ifindex| Some((ifindex, of(ifindex)?)))
        .collect()
}

/// The kind of the qdisc in which packets wait that leave by a link, if there is one.
fn queue(qdiscs: &BTreeSet<Qdisc>) -> Option<&str> {
    qdiscs.iter().find_map(|qdisc| match qdisc {
        Qdisc::Root(kind) if kind != "noqueue" => Some(kind.as_str()),
        Qdisc::Root(_) | Qdisc::Ingress(_) => None,
    })
}

fn interface((&ifindex, pod): (&u32, &PodVeth)) -> Interface {
    Interface {
        name: pod.name.clone(),
        ifindex,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_could_not_be_looked_at_keeps_its_programs() {
        let links = [5, 6, 7, 8].map(|ifindex| Interface {
            name: String::new(),
            ifindex,
        });
        let name = |name: &str| name.to_owned();
        let seen = BTreeMap::from([(5, None), (6, Some(name("retis")))]);
        let before = BTreeMap::from([(5, name("old")), (7, name("old")), (9, name("gone"))]);
        let expected = BTreeMap::from([(6, name("retis")), (7, name("old"))]);
        assert_eq!(foreign(&links, &seen, &before), expected);
    }
}
