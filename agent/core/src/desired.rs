//! What the node should look like.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::subnet::Subnet;
use crate::vtep::{MacAddr, RemoteVtep, Vni};

/// The kernel's vxlan device as flannel makes it (flannel 0.28.9, `pkg/backend/vxlan/device.go`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Device {
    /// `flannel.<VNI>`.
    pub name: String,
    /// VNI.
    pub vni: Vni,
    /// UDP destination port; `None` leaves the kernel its default, 8472.
    pub port: Option<u16>,
    /// Source address of outer packets.
    pub local: Ipv4Addr,
    /// Interface index of the uplink.
    pub uplink_ifindex: u32,
    /// MTU in bytes.
    pub mtu: u32,
    /// MAC address for a new device; an existing compatible device keeps its own.
    pub mac: MacAddr,
    /// Group Based Policy extension.
    pub gbp: bool,
    /// FDB learning.
    pub learning: bool,
}

/// What the node should look like.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Desired {
    /// The whole overlay prefix; entries outside it are never touched.
    pub network: Subnet,
    /// The vxlan device.
    pub device: Device,
    /// The address that the device carries, as a `/32`: the first of the own subnet.
    /// `None` until there is a lease.
    pub address: Option<Ipv4Addr>,
    /// Peers by subnet. Without the own subnet.
    pub peers: BTreeMap<Subnet, RemoteVtep>,
    /// Whether `peers` is complete: only then are stale entries removed.
    pub complete: bool,
}
