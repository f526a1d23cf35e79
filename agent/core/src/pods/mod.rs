//! Which links lead to pods, and which of them may be fast.
//!
//! Pods are found by how they are wired, whatever CNI plugin did it: a veth that is a port of
//! the bridge with the own subnet's gateway on it, or one with a route into the own subnet.

mod links;
mod never_fast;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use crate::subnet::Subnet;

pub use self::links::{Filter, Hook, HostLink, HostLinks, Qdisc};
pub use self::never_fast::{NeverFast, OurFilters, judge_overlay, judge_uplink};

/// What the node knows of itself, and what its operator wants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rules {
    /// The node's own subnet.
    pub own_subnet: Subnet,
    /// Interface index of the uplink, which is no pod even where it is a veth.
    pub uplink: Option<u32>,
    /// Our own filters, on kernels that take no TCX links.
    pub our_filters: OurFilters,
    /// TCX programs that are not ours: interface index → name of one of them.
    pub foreign_programs: BTreeMap<u32, String>,
    /// What the operator wants slow.
    pub excluded: Excluded,
}

/// Pods that the operator wants slow.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Excluded {
    /// Names of host-side veths.
    pub links: BTreeSet<String>,
    /// Addresses of pods. A pod on a bridge is not known by its address here: the set `exclude`
    /// of the nftables table keeps its flows slow.
    pub addresses: BTreeSet<Ipv4Addr>,
}

/// How a pod is wired to its node.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Wiring {
    /// Its veth is a port of a bridge (CNI `bridge`, flannel's default).
    Bridge,
    /// A route leads to its veth (CNI `ptp`, Calico's `cali*`).
    Routed,
}

/// The host-side veth of a pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodVeth {
    /// Name.
    pub name: String,
    /// How it is wired.
    pub wiring: Wiring,
    /// Whether both ends are up.
    pub up: bool,
    /// Why its packets must never be fast, if there is a reason.
    pub never_fast: Option<NeverFast>,
}

/// The pods' host-side veths by interface index.
pub fn find(host: &HostLinks, rules: &Rules) -> BTreeMap<u32, PodVeth> {
    host.links
        .iter()
        .filter(|(ifindex, _)| rules.uplink != Some(**ifindex))
        .filter_map(|(&ifindex, link)| Some((ifindex, pod(host, rules, ifindex, link)?)))
        .collect()
}

/// The links whose programs these pods' packets would skip, by interface index: the veths of those
/// that nothing else keeps slow, and the bridges that they are ports of.
pub fn with_programs(host: &HostLinks, pods: &BTreeMap<u32, PodVeth>) -> BTreeMap<u32, String> {
    let mut links = BTreeMap::new();
    let may_be_fast = pods.iter().filter(|(_, pod)| pod.never_fast.is_none());
    for (&ifindex, pod) in may_be_fast {
        links.insert(ifindex, pod.name.clone());
        let master = host.links.get(&ifindex).and_then(|link| link.master);
        if let Some((master, bridge)) =
            master.and_then(|index| Some((index, host.links.get(&index)?)))
        {
            links.insert(master, bridge.name.clone());
        }
    }
    links
}

fn pod(host: &HostLinks, rules: &Rules, ifindex: u32, link: &HostLink) -> Option<PodVeth> {
    // Into a veth whose other end is here, nothing can be redirected.
    if link.kind != "veth" || !link.peer_elsewhere {
        return None;
    }
    let bridge = host.bridge_of(link, rules.own_subnet);
    let wiring = if bridge.is_some() {
        Wiring::Bridge
    } else if link.routed_into(rules.own_subnet) {
        Wiring::Routed
    } else {
        return None;
    };
    Some(PodVeth {
        name: link.name.clone(),
        wiring,
        up: link.up,
        never_fast: never_fast::judge(rules, ifindex, link, bridge),
    })
}

impl HostLinks {
    /// The bridge of the own subnet that the link is a port of, with its interface index.
    pub fn bridge_of(&self, link: &HostLink, own_subnet: Subnet) -> Option<(u32, &HostLink)> {
        let master = link.master?;
        let bridge = self.links.get(&master)?;
        let of_subnet = |address: IpAddr| own_subnet.contains(address);
        let mut addresses = bridge.addresses.iter();
        (bridge.kind == "bridge" && addresses.any(|address| of_subnet(address.ip().into())))
            .then_some((master, bridge))
    }
}

impl HostLink {
    fn routed_into(&self, own_subnet: Subnet) -> bool {
        self.routes.iter().any(|route| own_subnet.covers(*route))
    }
}
