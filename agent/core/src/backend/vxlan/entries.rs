//! Neighbour and FDB entries and routes of peers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::link_name;
use crate::backend::{Entry, EntryPlan, LinkName, Out, Peer, Route, Wanted, underlay};
use crate::config::VxlanConfig;
use crate::observed::{ObservedKernel, ObservedLink, ObservedRoute};
use crate::plan::KernelOp;
use crate::subnet::Subnet;
use crate::vtep::{MacAddr, RemoteVtep};

const LOWEST: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Entries of peers while they are planned.
///
/// An FDB entry does not say whose it is. The neighbour entry with the same MAC address
/// does, and the route through the neighbour's address says whose that is. So the FDB entry
/// goes before its neighbour entry changes, and the route goes last: a plan that was cut
/// off leaves nothing that the next one does not recognise.
pub(in crate::backend) struct Entries<'a> {
    name: LinkName,
    link: &'a ObservedLink,
    kernel: &'a ObservedKernel,
    wanted: Wanted<'a>,
    ops: Vec<KernelOp>,
    /// FDB entries already dealt with: nodes with several subnets share theirs.
    fdb_done: BTreeSet<(MacAddr, IpAddr)>,
    neighbors_gone: BTreeSet<IpAddr>,
}

/// The planner, if the device is there.
pub(in crate::backend) fn entries<'a>(
    config: &VxlanConfig,
    kernel: &'a ObservedKernel,
    wanted: Wanted<'a>,
) -> Option<Entries<'a>> {
    let name = link_name(config);
    Some(Entries {
        link: kernel.links.get(&name)?,
        name,
        kernel,
        wanted,
        ops: Vec::new(),
        fdb_done: BTreeSet::new(),
        neighbors_gone: BTreeSet::new(),
    })
}

impl EntryPlan for Entries<'_> {
    /// Neighbour, FDB, route, as flannel does.
    fn set(&mut self, subnet: Subnet, peer: Peer) {
        if let Some(vtep) = peer.vtep() {
            self.set_vtep(subnet, vtep);
        }
    }

    fn remove_stale(&mut self) {
        let link = self.link;
        for &subnet in link.routes.keys() {
            self.remove_stale_route(subnet);
        }
        self.ops.extend(underlay::stale(self.kernel, self.wanted));
        for &address in link.neighbors.keys() {
            self.remove_stale_neighbor(address);
        }
    }

    fn remove_stale_peer(&mut self, subnet: Subnet) {
        self.remove_stale_route(subnet);
        self.remove_stale_neighbor(subnet.network());
    }

    fn take(&mut self) -> Vec<KernelOp> {
        std::mem::take(&mut self.ops)
    }
}

impl<'a> Entries<'a> {
    fn set_vtep(&mut self, subnet: Subnet, vtep: RemoteVtep) {
        let address = subnet.network();
        let neighbor = KernelOp::Set(self.neighbor(address, vtep.mac));
        match self.link.neighbors.get(&address) {
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
        if let Some(ifindex) = self.wanted.direct(vtep.underlay) {
            // Replaces the route by the device, if there is one.
            let route = underlay::set(self.kernel, subnet, vtep.underlay, ifindex);
            self.ops.extend(route);
            return;
        }
        let route = self.link.routes.get(&subnet);
        if !route.is_some_and(|route| is_ours(subnet, route)) {
            self.ops.push(KernelOp::Set(self.route(subnet)));
        }
    }

    fn remove_stale_route(&mut self, subnet: Subnet) {
        let route = self.link.routes.get(&subnet);
        if self.wanted.is_stale(subnet) && route.is_some_and(|route| is_ours(subnet, route)) {
            self.remove_neighbor(subnet.network());
            self.ops.push(KernelOp::Unset(self.route(subnet)));
        }
    }

    /// Without its route a neighbour entry is ours by its FDB entry, or by one to come.
    fn remove_stale_neighbor(&mut self, address: IpAddr) {
        if !self.wanted.complete || !self.wanted.network.contains(address) {
            return;
        }
        let has_fdb =
            |mac| self.wanted.peers.has_mac(mac) || self.destinations(mac).next().is_some();
        let mac = self.link.neighbors.get(&address);
        if mac.is_some_and(|&mac| mac.is_unicast() && has_fdb(mac)) {
            self.remove_neighbor(address);
        }
    }

    fn remove_neighbor(&mut self, address: IpAddr) {
        let Some(&mac) = self.link.neighbors.get(&address) else {
            return;
        };
        if !self.wanted.peers.starts_at(address) && self.neighbors_gone.insert(address) {
            self.remove_fdb(mac);
            self.ops.push(KernelOp::Unset(self.neighbor(address, mac)));
        }
    }

    fn set_fdb(&mut self, vtep: RemoteVtep) {
        let RemoteVtep { underlay, mac } = vtep;
        let entry = (mac, underlay);
        if !self.link.fdb.contains(&entry) && self.fdb_done.insert(entry) {
            self.ops.push(KernelOp::Set(self.fdb(mac, underlay)));
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
                self.ops.push(KernelOp::Unset(self.fdb(mac, underlay)));
            }
        }
    }

    fn destinations(&self, mac: MacAddr) -> impl Iterator<Item = IpAddr> + use<'a> {
        let from = self.link.fdb.range((mac, LOWEST)..);
        from.take_while(move |entry| entry.0 == mac)
            .map(|entry| entry.1)
    }

    fn neighbor(&self, address: IpAddr, mac: MacAddr) -> Entry {
        Entry::Neighbor {
            link: self.name.clone(),
            address,
            mac,
        }
    }

    fn fdb(&self, mac: MacAddr, underlay: IpAddr) -> Entry {
        Entry::Fdb {
            link: self.name.clone(),
            mac,
            underlay,
        }
    }

    /// `<subnet> via <its first address> dev flannel.N onlink`.
    fn route(&self, subnet: Subnet) -> Entry {
        Entry::Route(Route {
            subnet,
            via: subnet.network(),
            out: Out::Overlay(self.name.clone()),
        })
    }
}

/// Whether a route is one that we make for the subnet.
fn is_ours(subnet: Subnet, route: &ObservedRoute) -> bool {
    route.onlink && route.gateway == Some(subnet.network())
}
