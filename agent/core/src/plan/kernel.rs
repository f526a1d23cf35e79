//! Neighbour and FDB entries and routes of peers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use crate::observed::{ObservedKernel, ObservedRoute};
use crate::plan::{KernelOp, Op, Wanted};
use crate::subnet::Subnet;
use crate::vtep::{MacAddr, RemoteVtep};

const LOWEST: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The kernel's part of a plan while it grows.
///
/// An FDB entry does not say whose it is. The neighbour entry with the same MAC address
/// does, and the route through the neighbour's address says whose that is. So the FDB entry
/// goes before its neighbour entry changes, and the route goes last: a plan that was cut
/// off leaves nothing that the next one does not recognise.
pub(super) struct KernelPlan<'a> {
    observed: &'a ObservedKernel,
    wanted: Wanted<'a>,
    ops: Vec<KernelOp>,
    /// FDB entries already dealt with: nodes with several subnets share theirs.
    fdb_done: BTreeSet<(MacAddr, IpAddr)>,
    neighbors_gone: BTreeSet<IpAddr>,
}

impl<'a> KernelPlan<'a> {
    pub(super) fn new(observed: &'a ObservedKernel, wanted: Wanted<'a>) -> Self {
        Self {
            observed,
            wanted,
            ops: Vec::new(),
            fdb_done: BTreeSet::new(),
            neighbors_gone: BTreeSet::new(),
        }
    }

    /// What was planned since the last call.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Op> + use<> {
        std::mem::take(&mut self.ops).into_iter().map(Op::Kernel)
    }

    /// Plans a peer's entries: neighbour, FDB, route, as flannel does.
    pub(super) fn set(&mut self, subnet: Subnet, vtep: RemoteVtep) {
        let IpAddr::V4(gateway) = subnet.network() else {
            return;
        };
        let address = subnet.network();
        let neighbor = KernelOp::SetNeighbor {
            address,
            mac: vtep.mac,
        };
        match self.observed.neighbors.get(&address) {
            None => {
                self.ops.push(neighbor);
                self.set_fdb(vtep);
            }
            Some(&old) if old != vtep.mac => {
                self.set_fdb(vtep);
                self.remove_fdb(old);
                self.ops.push(neighbor);
            }
            Some(_) => self.set_fdb(vtep),
        }
        if self.wanted.is_direct(vtep) {
            self.set_direct_route(subnet, vtep);
            return;
        }
        let route = self.observed.routes.get(&subnet);
        if !route.is_some_and(|route| is_ours(subnet, route)) {
            self.ops.push(KernelOp::SetRoute { subnet, gateway });
        }
    }

    /// Replaces the route by the device, if there is one.
    fn set_direct_route(&mut self, subnet: Subnet, vtep: RemoteVtep) {
        if self.observed.direct_routes.get(&subnet) != Some(&vtep.underlay)
            && let IpAddr::V4(gateway) = vtep.underlay
        {
            let op = KernelOp::SetDirectRoute { subnet, gateway };
            self.ops.push(op);
        }
    }

    /// Plans the removal of everything that is ours and nobody's any more.
    pub(super) fn remove_stale(&mut self) {
        let observed = self.observed;
        for &subnet in observed.routes.keys() {
            self.remove_stale_route(subnet);
        }
        for (&subnet, &gateway) in &observed.direct_routes {
            if self.is_stale(subnet)
                && let IpAddr::V4(gateway) = gateway
            {
                let op = KernelOp::RemoveDirectRoute { subnet, gateway };
                self.ops.push(op);
            }
        }
        for &address in observed.neighbors.keys() {
            self.remove_stale_neighbor(address);
        }
    }

    fn is_stale(&self, subnet: Subnet) -> bool {
        self.wanted.complete
            && self.wanted.network.covers(subnet)
            && self.wanted.peers.get(subnet).is_none()
    }

    /// The same for one subnet.
    pub(super) fn remove_stale_peer(&mut self, subnet: Subnet) {
        self.remove_stale_route(subnet);
        self.remove_stale_neighbor(subnet.network());
    }

    fn remove_stale_route(&mut self, subnet: Subnet) {
        let route = self.observed.routes.get(&subnet);
        if self.is_stale(subnet) && route.is_some_and(|route| is_ours(subnet, route)) {
            self.remove_neighbor(subnet.network());
            self.ops.push(KernelOp::RemoveRoute { subnet });
        }
    }

    /// Without its route a neighbour entry is ours by its FDB entry, or by one to come.
    fn remove_stale_neighbor(&mut self, address: IpAddr) {
        if !self.wanted.complete || !self.wanted.network.contains(address) {
            return;
        }
        let has_fdb =
            |mac| self.wanted.peers.has_mac(mac) || self.destinations(mac).next().is_some();
        let mac = self.observed.neighbors.get(&address);
        if mac.is_some_and(|&mac| mac.is_unicast() && has_fdb(mac)) {
            self.remove_neighbor(address);
        }
    }

    fn remove_neighbor(&mut self, address: IpAddr) {
        let Some(&mac) = self.observed.neighbors.get(&address) else {
            return;
        };
        if !self.wanted.peers.starts_at(address) && self.neighbors_gone.insert(address) {
            self.remove_fdb(mac);
            self.ops.push(KernelOp::RemoveNeighbor { address });
        }
    }

    fn set_fdb(&mut self, vtep: RemoteVtep) {
        let RemoteVtep { underlay, mac } = vtep;
        let entry = (mac, underlay);
        if !self.observed.fdb.contains(&entry) && self.fdb_done.insert(entry) {
            self.ops.push(KernelOp::SetFdb { mac, underlay });
        }
        self.remove_destinations(mac, Some(underlay));
    }

    /// Removes the FDB entry of a MAC address that no neighbour entry will name any more.
    fn remove_fdb(&mut self, mac: MacAddr) {
        if self.wanted.complete && mac.is_unicast() && !self.wanted.peers.has_mac(mac) {
            self.remove_destinations(mac, None);
        }
    }

    fn remove_destinations(&mut self, mac: MacAddr, except: Option<IpAddr>) {
        for underlay in self.destinations(mac) {
            if Some(underlay) != except && self.fdb_done.insert((mac, underlay)) {
                self.ops.push(KernelOp::RemoveFdb { mac, underlay });
            }
        }
    }

    fn destinations(&self, mac: MacAddr) -> impl Iterator<Item = IpAddr> + use<'a> {
        let from = self.observed.fdb.range((mac, LOWEST)..);
        from.take_while(move |entry| entry.0 == mac)
            .map(|entry| entry.1)
    }
}

/// Whether a route is one that we make for the subnet.
fn is_ours(subnet: Subnet, route: &ObservedRoute) -> bool {
    route.onlink && route.gateway == Some(subnet.network())
}
