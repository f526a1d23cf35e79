//! The packets of the named world.

use std::net::Ipv4Addr;

use twill_testbed::packet::{Ethernet, Icmp, Ipv4, Tcp, Udp, Vxlan, internet_checksum};

use super::world::{
    NODE_A, NODE_B, OTHER_MAC, POD_A1, POD_B1, PORT, SOURCE_PORT, UPLINK_MAC_A, UPLINK_MAC_B, VNI,
    VTEP_MAC_A, VTEP_MAC_B,
};

/// A payload whose bytes differ from their neighbours.
pub(crate) fn payload(length: usize) -> Vec<u8> {
    (0u8..=250).cycle().take(length).collect()
}

/// The Ethernet header that the stack puts in front of a packet on the vxlan device. Its
/// destination is none that the programs may keep.
pub(crate) const TO_OVERLAY: Ethernet = Ethernet::ipv4(VTEP_MAC_A, OTHER_MAC);

/// An IPv4 packet from our pod to a pod of node B.
pub(crate) fn to_pod_b() -> Ipv4 {
    Ipv4 {
        ttl: 63,
        id: 0x1234,
        ..Ipv4::new(POD_A1, POD_B1)
    }
}

/// An IPv4 packet from a pod of node B to our pod.
pub(crate) fn from_pod_b() -> Ipv4 {
    Ipv4 {
        source: POD_B1,
        destination: POD_A1,
        ..to_pod_b()
    }
}

/// A datagram of `length` bytes of payload.
pub(crate) fn datagram(ip: &Ipv4, length: usize) -> Vec<u8> {
    ip.udp(&Udp::new(40_000, 53), &payload(length))
}

/// A segment of `length` bytes of payload.
pub(crate) fn segment(ip: &Ipv4, length: usize) -> Vec<u8> {
    ip.tcp(&Tcp::new(40_001, 80), &payload(length))
}

/// An echo request of `length` bytes of payload.
pub(crate) fn echo(ip: &Ipv4, length: usize) -> Vec<u8> {
    ip.icmp(Icmp::echo_request(7, 1), &payload(length))
}

/// A frame on its way out by the vxlan device.
pub(crate) fn leaving(packet: &[u8]) -> Vec<u8> {
    TO_OVERLAY.over(packet)
}

/// The outer headers of a VXLAN packet, each a right one unless a case changes it.
#[derive(Clone, Debug)]
pub(crate) struct Outer {
    /// Outer Ethernet header.
    pub(crate) ethernet: Ethernet,
    /// Outer IPv4 header.
    pub(crate) ip: Ipv4,
    /// Outer UDP header.
    pub(crate) udp: Udp,
    /// VXLAN header.
    pub(crate) vxlan: Vxlan,
    /// Inner Ethernet header.
    pub(crate) inner: Ethernet,
}

impl Outer {
    /// What our node sends to node B: as the kernel's vxlan device would, without "don't
    /// fragment", without a UDP checksum.
    pub(crate) fn to_node_b() -> Self {
        Self {
            ethernet: Ethernet::ipv4(UPLINK_MAC_A, UPLINK_MAC_B),
            ip: outer_ip(NODE_A, NODE_B),
            udp: Udp::without_checksum(SOURCE_PORT, PORT),
            vxlan: Vxlan::new(VNI),
            inner: Ethernet::ipv4(VTEP_MAC_A, VTEP_MAC_B),
        }
    }

    /// What node B sends to our node.
    pub(crate) fn from_node_b() -> Self {
        Self {
            ethernet: Ethernet::ipv4(UPLINK_MAC_B, UPLINK_MAC_A),
            ip: outer_ip(NODE_B, NODE_A),
            udp: Udp::without_checksum(55_555, PORT),
            vxlan: Vxlan::new(VNI),
            inner: Ethernet::ipv4(VTEP_MAC_B, VTEP_MAC_A),
        }
    }

    /// The frame on the wire, around an inner IPv4 packet.
    pub(crate) fn over(&self, packet: &[u8]) -> Vec<u8> {
        let vxlan = self.vxlan.over(&self.inner.over(packet));
        self.ethernet.over(&self.ip.udp(&self.udp, &vxlan))
    }
}

/// Identification of the IPv4 header behind the Ethernet header.
pub(crate) fn identification(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[18], frame[19]])
}

/// `frame` with the identification of `other`, and the checksum of the IPv4 header to match:
/// who numbers packets is free to choose. A frame too short for both stays as it is.
pub(crate) fn numbered_as(other: &[u8], mut frame: Vec<u8>) -> Vec<u8> {
    const HEADERS: usize = 14 + Ipv4::LENGTH;
    if other.len() < HEADERS || frame.len() < HEADERS {
        return frame;
    }
    frame[18..20].copy_from_slice(&other[18..20]);
    frame[24..26].fill(0);
    let checksum = internet_checksum(&frame[14..HEADERS]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame
}

fn outer_ip(source: Ipv4Addr, destination: Ipv4Addr) -> Ipv4 {
    Ipv4 {
        fragment: 0,
        ..Ipv4::new(source, destination)
    }
}
