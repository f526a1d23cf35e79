//! The world that the program runs happen in: the own node A, its peers, their pods.
//!
//! Underlay addresses are documentation's (RFC 5737), MAC addresses locally administered.

use std::net::Ipv4Addr;

/// VNI of the overlay.
pub(crate) const VNI: u32 = 1;
/// Port of the overlay's VXLAN.
pub(crate) const VXLAN_PORT: u16 = 8472;
/// The one source port of encapsulated packets, where a case does not say otherwise.
pub(crate) const SOURCE_PORT: u16 = 41_000;

/// The own node.
pub(crate) const NODE_A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// On the uplink's network.
pub(crate) const NODE_B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Behind the gateway.
pub(crate) const NODE_C: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 3);
/// On the uplink's network, its MAC address not resolved.
pub(crate) const NODE_D: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 4);
/// The kernel's route says "unreachable".
pub(crate) const NODE_E: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
/// Reached by another interface than the uplink.
pub(crate) const NODE_F: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 130);
/// Behind the gateway, by a route with an MTU of [`NARROW_MTU`].
pub(crate) const NODE_G: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// No VTEP.
pub(crate) const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
/// The gateway.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);

/// MTU of the uplink, bytes.
pub(crate) const UPLINK_MTU: u32 = 1500;
/// MTU of the route to [`NODE_G`], bytes.
pub(crate) const NARROW_MTU: u32 = 1400;

/// Places in the map `vteps`.
pub(crate) const VTEP_UNUSED: u32 = 0;
/// [`NODE_B`].
pub(crate) const VTEP_B: u32 = 1;
/// [`NODE_C`].
pub(crate) const VTEP_C: u32 = 2;
/// [`NODE_D`].
pub(crate) const VTEP_D: u32 = 3;
/// [`NODE_E`].
pub(crate) const VTEP_E: u32 = 4;
/// [`NODE_F`].
pub(crate) const VTEP_F: u32 = 5;
/// [`NODE_G`].
pub(crate) const VTEP_G: u32 = 6;
/// Above the capacity of the map `vteps`.
pub(crate) const VTEP_OUTSIDE: u32 = 4_000;

/// A pod of node A.
pub(crate) const POD_A1: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
/// A pod of node B.
pub(crate) const POD_B1: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 2);

/// MAC address of the uplink.
pub(crate) const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
/// MAC address of node B's uplink.
pub(crate) const NODE_B_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
/// MAC address of the gateway.
pub(crate) const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 1, 254];
/// MAC address of node A's vxlan device.
pub(crate) const VTEP_MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// MAC address of node B's vxlan device.
pub(crate) const VTEP_MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// A MAC address of nobody.
pub(crate) const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 9, 9];

/// MAC address of the vxlan device of the VTEP at a place of the map `vteps`.
pub(crate) const fn vtep_mac(place: u32) -> [u8; 6] {
    [2, 0, 0, 0, 0, place.to_le_bytes()[0] + 1]
}

/// Address `host` of the /24 subnet of the VTEP at a place of the map `vteps`.
pub(crate) const fn pod_of(place: u32, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, place.to_le_bytes()[0] + 1, host)
}
