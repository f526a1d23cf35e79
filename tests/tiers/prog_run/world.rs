//! The world that the program runs happen in: the named one, and peers that are hard to reach.

use std::net::Ipv4Addr;

pub(crate) use twill_testbed::world::{
    GATEWAY, NODE_A, NODE_B, OVERLAY_A, POD_A1, POD_B1, PORT, STRANGER, UPLINK_MAC_A, UPLINK_MAC_B,
    VNI, VTEP_MAC_A, VTEP_MAC_B, mac_text,
};

/// The one source port of encapsulated packets, where a case does not say otherwise.
pub(crate) const SOURCE_PORT: u16 = 41_000;

/// Behind the gateway.
pub(crate) const FAR_NODE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 3);
/// On the uplink's network, its MAC address not resolved.
pub(crate) const SILENT_NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 4);
/// The kernel's route says "unreachable".
pub(crate) const UNREACHABLE_NODE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
/// Reached by another interface than the uplink.
pub(crate) const SIDE_NODE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 130);
/// Behind the gateway, by a route with an MTU of [`NARROW_MTU`].
pub(crate) const NARROW_NODE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// MTU of the uplink, bytes.
pub(crate) const UPLINK_MTU: u32 = 1500;
/// MTU of the route to [`NARROW_NODE`], bytes.
pub(crate) const NARROW_MTU: u32 = 1400;

/// A place in the map `vteps` that is not in use.
pub(crate) const VTEP_UNUSED: u32 = 0;
/// Place of [`NODE_B`] in the map `vteps`.
pub(crate) const VTEP_B: u32 = 1;
/// Place of [`FAR_NODE`].
pub(crate) const VTEP_FAR: u32 = 2;
/// Place of [`SILENT_NODE`].
pub(crate) const VTEP_SILENT: u32 = 3;
/// Place of [`UNREACHABLE_NODE`].
pub(crate) const VTEP_UNREACHABLE: u32 = 4;
/// Place of [`SIDE_NODE`].
pub(crate) const VTEP_SIDE: u32 = 5;
/// Place of [`NARROW_NODE`].
pub(crate) const VTEP_NARROW: u32 = 6;
/// Above the capacity of the map `vteps`.
pub(crate) const VTEP_OUTSIDE: u32 = 4_000;

/// MAC address of the gateway.
pub(crate) const GATEWAY_MAC: [u8; 6] = [0x02, 0x00, 0xc0, 0x00, 0x02, 0xfe];
/// MAC address of our pod.
pub(crate) const POD_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x0a, 0x02];
/// A MAC address of nobody.
pub(crate) const OTHER_MAC: [u8; 6] = [0x02, 0x00, 0x00, 0x00, 0x09, 0x09];

/// MAC address of the vxlan device of the VTEP at a place of the map `vteps`.
pub(crate) const fn vtep_mac(place: u32) -> [u8; 6] {
    let mut mac = VTEP_MAC_A;
    mac[5] += place.to_le_bytes()[0];
    mac
}

/// Address `host` of the /24 subnet of the VTEP at a place of the map `vteps`.
pub(crate) const fn pod_of(place: u32, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, place.to_le_bytes()[0] + 1, host)
}

#[test]
fn the_places_follow_the_named_world() {
    assert_eq!(vtep_mac(VTEP_B), VTEP_MAC_B);
    assert_eq!(pod_of(VTEP_B, 2), POD_B1);
}
