//! What the node looks like, read from the kernel and from the maps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::Ipv4Network;

use crate::subnet::Subnet;
use crate::vtep::{MacAddr, RemoteVtep};

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
