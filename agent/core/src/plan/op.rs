//! The single steps that a plan is made of.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::Ipv4Network;

use crate::desired::Device;
use crate::subnet::Subnet;
use crate::vtep::{MacAddr, RemoteVtep};

/// One netlink request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KernelOp {
    /// Create the vxlan device.
    CreateDevice(Device),
    /// Remove an incompatible device of our name.
    RemoveDevice {
        /// Interface index.
        ifindex: u32,
    },
    /// Set the device's MTU, bytes.
    SetMtu(u32),
    /// Set the device up.
    SetUp,
    /// Add an address to the device.
    AddAddress(Ipv4Network),
    /// Remove an address from the device.
    RemoveAddress(Ipv4Network),
    /// Permanent neighbour entry on the device; replaces.
    SetNeighbor {
        /// First address of the peer's subnet.
        address: IpAddr,
        /// MAC address of the peer's device.
        mac: MacAddr,
    },
    /// Remove a neighbour entry.
    RemoveNeighbor {
        /// First address of the peer's subnet.
        address: IpAddr,
    },
    /// Permanent FDB entry on the device; replaces.
    SetFdb {
        /// MAC address of the peer's device.
        mac: MacAddr,
        /// The peer's underlay address.
        underlay: IpAddr,
    },
    /// Remove an FDB entry.
    RemoveFdb {
        /// MAC address of the peer's device.
        mac: MacAddr,
        /// The peer's underlay address.
        underlay: IpAddr,
    },
    /// Route `<subnet> via <gateway> dev flannel.N onlink`; replaces.
    SetRoute {
        /// The peer's subnet.
        subnet: Subnet,
        /// First address of it.
        gateway: Ipv4Addr,
    },
    /// Remove a route.
    RemoveRoute {
        /// The peer's subnet.
        subnet: Subnet,
    },
    /// Route `<subnet> via <underlay address>`, past the device; replaces.
    SetDirectRoute {
        /// The peer's subnet.
        subnet: Subnet,
        /// The peer's underlay address.
        gateway: Ipv4Addr,
    },
    /// Remove a route past the device.
    RemoveDirectRoute {
        /// The subnet.
        subnet: Subnet,
        /// The gateway that it leads to.
        gateway: Ipv4Addr,
    },
}

/// One map write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MapOp {
    /// Write an entry of `vteps`, with a new generation.
    SetVtep {
        /// Index.
        index: u32,
        /// Where it is.
        vtep: RemoteVtep,
        /// A subnet behind it.
        subnet: Subnet,
    },
    /// Clear an entry of `vteps`.
    ClearVtep {
        /// Index.
        index: u32,
    },
    /// Say how large an outer packet may be on the way to a VTEP.
    SetPathMtu {
        /// Index.
        index: u32,
        /// Bytes; `None`: nothing is said.
        bytes: Option<u32>,
    },
    /// Map an outer source to its VTEP.
    SetSource {
        /// Underlay address.
        underlay: IpAddr,
        /// Index of `vteps`.
        index: u32,
    },
    /// Forget an outer source.
    RemoveSource {
        /// Underlay address.
        underlay: IpAddr,
    },
    /// Map a subnet to its VTEP.
    SetRoute {
        /// The peer's subnet.
        subnet: Subnet,
        /// Index of `vteps`.
        index: u32,
    },
    /// Forget a subnet.
    RemoveRoute {
        /// The peer's subnet.
        subnet: Subnet,
    },
}

/// One step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Op {
    /// In the kernel.
    Kernel(KernelOp),
    /// In a map.
    Map(MapOp),
}
