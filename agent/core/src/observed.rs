//! What the node looks like, read from the kernel and from the maps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::Ipv4Network;

use crate::lease::{Lease, LeaseAttrs};
use crate::subnet::Subnet;
use crate::vtep::{MacAddr, RemoteVtep, Vni};

/// A vxlan device in the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the kernel's independent flags, each by its own name"
)]
pub struct ObservedDevice {
    /// Interface index.
    pub ifindex: u32,
    /// Link kind, `vxlan` for a vxlan device.
    pub kind: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// MAC address.
    pub mac: MacAddr,
    /// Whether it is up.
    pub up: bool,
    /// VNI; `None` where the kind is another.
    pub vni: Option<u32>,
    /// UDP destination port.
    pub port: Option<u16>,
    /// Source address of outer packets.
    pub local: Option<IpAddr>,
    /// Interface index of the lower device.
    pub uplink_ifindex: Option<u32>,
    /// Multicast group or default remote.
    pub group: Option<IpAddr>,
    /// Layer 2 miss notifications.
    pub l2miss: bool,
    /// Group Based Policy extension.
    pub gbp: bool,
    /// FDB learning.
    pub learning: bool,
}

/// A route that leaves by our device.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ObservedRoute {
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Whether the next hop is taken to be on the link.
    pub onlink: bool,
}

/// The kernel's side: our device and what hangs on it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ObservedKernel {
    /// The device with the desired name, of whatever kind it is.
    pub device: Option<ObservedDevice>,
    /// IPv4 addresses on the device.
    pub addresses: BTreeSet<Ipv4Network>,
    /// Main table routes that leave by the device.
    pub routes: BTreeMap<Subnet, ObservedRoute>,
    /// Routes that we made past the device, to peers on a link of the host: subnet → gateway.
    pub direct_routes: BTreeMap<Subnet, IpAddr>,
    /// Underlay addresses of peers that the host reaches without a gateway, where that matters
    /// (`DirectRouting`).
    pub on_link: BTreeSet<IpAddr>,
    /// Permanent neighbour entries on the device.
    pub neighbors: BTreeMap<IpAddr, MacAddr>,
    /// Permanent FDB entries on the device (`NTF_SELF`): a MAC may have several destinations.
    pub fdb: BTreeSet<(MacAddr, IpAddr)>,
}

impl ObservedKernel {
    /// The leases that the routes to peers, the device's neighbours and its FDB entries stand
    /// for: what the agent of an earlier start knew.
    pub fn leases(&self, vni: Vni) -> Vec<Lease> {
        let underlays: BTreeMap<MacAddr, IpAddr> = self.fdb.iter().copied().collect();
        let encap = self.routes.iter();
        let encap = encap.filter_map(|(subnet, route)| Some((subnet, route.gateway?)));
        // The neighbour of a peer that is reached without encap is kept for when it is not.
        let direct = self.direct_routes.keys();
        let direct = direct.map(|subnet| (subnet, subnet.network()));
        let lease = |(subnet, gateway): (&Subnet, IpAddr)| {
            let mac = *self.neighbors.get(&gateway)?;
            let IpAddr::V4(underlay) = *underlays.get(&mac)? else {
                return None;
            };
            Some(Lease {
                subnet: *subnet,
                attrs: LeaseAttrs::vxlan(underlay, vni, mac),
                ttl_seconds: None,
            })
        };
        encap.chain(direct).filter_map(lease).collect()
    }
}

impl ObservedKernel {
    /// The underlay addresses of other nodes, as far as an earlier start or flannel wrote them.
    pub fn elsewhere(&self) -> BTreeSet<Ipv4Addr> {
        let own = self.device.as_ref().map(|device| device.mac);
        let others = self.fdb.iter().filter(|(mac, _)| own != Some(*mac));
        others
            .filter_map(|(_, underlay)| match underlay {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            })
            .collect()
    }
}

/// The maps' side.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ObservedMaps {
    /// Index of `vteps` → what it says, for active entries.
    pub vteps: BTreeMap<u32, RemoteVtep>,
    /// Index of `vteps` → largest outer packet that the route to it takes, bytes, where one is
    /// said.
    pub path_mtus: BTreeMap<u32, u32>,
    /// Overlay routes: subnet → index of `vteps`.
    pub routes: BTreeMap<Subnet, u32>,
    /// Underlay address → index of `vteps`.
    pub sources: BTreeMap<IpAddr, u32>,
    /// Entries that `vteps` has.
    pub vtep_capacity: u32,
    /// Entries that the route tables have.
    pub route_capacity: u32,
}

/// Everything that was read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Observed {
    /// The kernel's side.
    pub kernel: ObservedKernel,
    /// The maps' side; `None` while BPF is not available.
    pub maps: Option<ObservedMaps>,
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_lease_is_read_from_a_route_with_its_neighbour_and_fdb_entry() {
        let mac = |n| MacAddr([2, 0, 0, 0, 0, n]);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let route = |gateway: Option<&str>| ObservedRoute {
            gateway: gateway.map(ip),
            onlink: true,
        };
        let subnet = |text: &str| text.parse::<Subnet>().unwrap();
        let kernel = ObservedKernel {
            routes: [
                (subnet("10.244.2.0/24"), route(Some("10.244.2.0"))),
                // Half programmed, or somebody else's.
                (subnet("10.244.3.0/24"), route(Some("10.244.3.0"))),
                (subnet("10.244.4.0/24"), route(Some("10.244.4.0"))),
                (subnet("10.244.5.0/24"), route(None)),
            ]
            .into(),
            direct_routes: [
                (subnet("10.244.6.0/24"), ip("192.0.2.6")),
                // Somebody else's.
                (subnet("10.244.7.0/24"), ip("192.0.2.7")),
            ]
            .into(),
            neighbors: [
                (ip("10.244.2.0"), mac(2)),
                (ip("10.244.3.0"), mac(3)),
                (ip("10.244.6.0"), mac(6)),
            ]
            .into(),
            fdb: [
                (mac(2), ip("192.0.2.2")),
                (mac(6), ip("192.0.2.6")),
                (mac(9), ip("192.0.2.9")),
            ]
            .into(),
            ..ObservedKernel::default()
        };
        let vni = Vni::new(1).unwrap();
        let lease = |n: u8| Lease {
            subnet: subnet(&format!("10.244.{n}.0/24")),
            attrs: LeaseAttrs::vxlan(Ipv4Addr::new(192, 0, 2, n), vni, mac(n)),
            ttl_seconds: None,
        };
        assert_eq!(kernel.leases(vni), [lease(2), lease(6)]);
    }
}
