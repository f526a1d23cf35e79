//! The node's underlay interface.

use std::net::Ipv4Addr;

use crate::vtep::MacAddr;

/// The underlay interface, as read from the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Uplink {
    /// Interface index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// MAC address.
    pub mac: MacAddr,
    /// The address that the interface carries.
    pub address: Ipv4Addr,
    /// The address that peers send to (`--public-ip`, else `address`).
    pub public_ip: Ipv4Addr,
    /// The address that outer packets are from: `public_ip` where this host has it, else
    /// `address`, as no answer would come back to one that is translated on the way.
    pub local: Ipv4Addr,
}
