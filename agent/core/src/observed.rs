//! What the node looks like, read from the kernel and from the maps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::Ipv4Network;

use crate::backend::{LinkName, LinkSpec};
pub use crate::datapath::ObservedMaps;
use crate::subnet::Subnet;
use crate::vtep::MacAddr;

/// A link in the kernel, and what it is where it is a vxlan device.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
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

/// A route that leaves by a link of ours.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ObservedRoute {
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Whether the next hop is taken to be on the link.
    pub onlink: bool,
}

/// A route to a node on a link of this one, past any tunnel.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct UnderlayRoute {
    /// Next hop: the node.
    pub via: IpAddr,
    /// Index of the interface by which it leaves.
    pub ifindex: u32,
}

/// A link, and what hangs on it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ObservedLink {
    /// The link itself, of whatever kind it is.
    pub device: ObservedDevice,
    /// IPv4 addresses.
    pub addresses: BTreeSet<Ipv4Network>,
    /// Main table routes that leave by it.
    pub routes: BTreeMap<Subnet, ObservedRoute>,
    /// Permanent neighbour entries.
    pub neighbors: BTreeMap<IpAddr, MacAddr>,
    /// Permanent FDB entries (`NTF_SELF`): a MAC may have several destinations.
    pub fdb: BTreeSet<(MacAddr, IpAddr)>,
}

/// The kernel's side.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ObservedKernel {
    /// Links with the desired names, as far as they are there.
    pub links: BTreeMap<LinkName, ObservedLink>,
    /// Routes that we made to nodes on a link of this one.
    pub underlay_routes: BTreeMap<Subnet, UnderlayRoute>,
    /// Nodes that this one reaches without a gateway, where that matters to the backend, and the
    /// index of the interface by which.
    pub on_link: BTreeMap<IpAddr, u32>,
}

impl ObservedKernel {
    /// The underlay addresses of other nodes, as far as an earlier start or flannel wrote them.
    pub fn elsewhere(&self) -> BTreeSet<Ipv4Addr> {
        let by_fdb = self.links.values().flat_map(|link| {
            let others = link.fdb.iter();
            others
                .filter(|(mac, _)| *mac != link.device.mac)
                .map(|(_, underlay)| *underlay)
        });
        let by_route = self.underlay_routes.values().map(|route| route.via);
        by_fdb
            .chain(by_route)
            .filter_map(|address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            })
            .collect()
    }

    /// Whether a link carries the address that it should.
    pub fn has_address(&self, wanted: &LinkSpec) -> bool {
        let there = self.links.get(&wanted.name);
        wanted
            .address
            .zip(there)
            .is_some_and(|(address, link)| link.addresses.contains(&address))
    }
}

/// Everything that was read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Observed {
    /// The kernel's side.
    pub kernel: ObservedKernel,
    /// The maps' side; `None` while BPF is not available.
    pub maps: Option<ObservedMaps>,
}
