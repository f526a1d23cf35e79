//! What the maps hold while programs are measured, and the addresses of it.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Leases of other nodes and permits of other flows.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Scene {
    /// Leases of other nodes.
    pub leases: u32,
    /// Permits of flows that are not measured.
    pub permits: u32,
}

impl fmt::Display for Scene {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leases, permits } = self;
        write!(formatter, "{leases} leases, {permits} permits")
    }
}

/// Prefix length of every lease: a /8 holds 262,144 of them.
pub(super) const PREFIX: u8 = 26;
/// Addresses in a lease.
const SUBNET: u32 = 1 << (32 - PREFIX as u32);
/// The overlay network, a /8.
pub(super) const NETWORK: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);
/// Prefix length of [`NETWORK`].
pub(super) const NETWORK_PREFIX: u8 = 8;
/// Where other nodes' underlay addresses begin: RFC 2544's, a /15.
const UNDERLAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// The own underlay address.
pub(super) const OWN_UNDERLAY: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 254);
/// The most leases that fit both.
pub const MOST_LEASES: u32 = 100_000;

/// VNI of the overlay.
pub(super) const VNI: u32 = 1;
/// Port of the overlay.
pub(crate) const PORT: u16 = 8472;
/// The mark of what netfilter has accepted.
pub(super) const MARK: u32 = 0x1000;

/// The own pod.
pub(super) const OWN_POD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// A neighbour on the own node.
pub(super) const OTHER_OWN_POD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
/// A Service whose backend is the measured peer's pod.
pub(super) const SERVICE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// In the overlay network, and nobody's.
pub(super) const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 255, 255, 2);
/// An underlay address that is no VTEP's.
pub(super) const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 66);

/// MAC address of the own vxlan device.
pub(super) const OWN_VTEP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// MAC address of every other vxlan device.
pub(super) const VTEP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// MAC address of the own uplink.
pub(super) const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
/// MAC address of the next hop.
pub(super) const NEXT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
/// MAC address of the own pod.
pub(super) const POD_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];
/// The MAC address that the own pod sends to.
pub(super) const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 2, 2];

/// Network address of the lease of a VTEP's place; 0 is the own.
pub(super) fn subnet(place: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(NETWORK.to_bits() + place * SUBNET)
}

/// The pod behind the VTEP of a place.
pub(super) fn pod(place: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(subnet(place).to_bits() + 2)
}

/// Underlay address of the VTEP of a place, from 1.
pub(crate) fn underlay(place: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(UNDERLAY.to_bits() + place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_leases_have_addresses_of_their_own() {
        assert_eq!(pod(1), Ipv4Addr::new(10, 0, 0, 66));
        assert!(pod(MOST_LEASES) < NOBODY);
        assert!(underlay(MOST_LEASES) < STRANGER);
        assert_eq!(pod(0), OWN_POD);
    }
}
