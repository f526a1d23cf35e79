//! The named world: who is who in every test. Underlay addresses are of RFC 5737, MAC
//! addresses locally administered, subnets as flannel's default network gives them.

use std::net::Ipv4Addr;

/// A MAC address in the order of the wire.
pub type Mac = [u8; 6];

/// The overlay: flannel's usual network.
pub const NETWORK: &str = "10.244.0.0/16";
/// VXLAN network identifier.
pub const VNI: u32 = 1;
/// VXLAN destination port: the kernel's and flannel's default, not IANA's 4789.
pub const PORT: u16 = 8472;
/// The vxlan device that flannel makes for [`VNI`].
pub const OVERLAY_LINK: &str = "flannel.1";
/// The uplink of every node.
pub const UPLINK: &str = "eth0";
/// Bytes that VXLAN adds over IPv4: Ethernet, IPv4, UDP, VXLAN.
pub const ENCAP_OVERHEAD_BYTES: u32 = 14 + 20 + 8 + 8;

/// Prefix length of the underlay, 192.0.2.0/24.
pub const UNDERLAY_PREFIX: u8 = 24;
/// Underlay address of the first node.
pub const NODE_A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Underlay address of the second node.
pub const NODE_B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Underlay address of the third node.
pub const NODE_C: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
/// Underlay address of the lease server.
pub const LEASE_SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// An underlay address that is no node's.
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
/// The underlay's gateway, the default route of every node.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);

/// MAC address of the first node's uplink.
pub const UPLINK_MAC_A: Mac = [0x02, 0x00, 0xc0, 0x00, 0x02, 0x01];
/// MAC address of the second node's uplink.
pub const UPLINK_MAC_B: Mac = [0x02, 0x00, 0xc0, 0x00, 0x02, 0x02];
/// MAC address of the third node's uplink.
pub const UPLINK_MAC_C: Mac = [0x02, 0x00, 0xc0, 0x00, 0x02, 0x03];

/// MAC address of the first node's vxlan device.
pub const VTEP_MAC_A: Mac = [0x02, 0x00, 0x00, 0x00, 0x00, 0x0a];
/// MAC address of the second node's vxlan device.
pub const VTEP_MAC_B: Mac = [0x02, 0x00, 0x00, 0x00, 0x00, 0x0b];
/// MAC address of the third node's vxlan device.
pub const VTEP_MAC_C: Mac = [0x02, 0x00, 0x00, 0x00, 0x00, 0x0c];

/// Subnet of the first node.
pub const SUBNET_A: &str = "10.244.1.0/24";
/// Subnet of the second node.
pub const SUBNET_B: &str = "10.244.2.0/24";
/// Subnet of the third node.
pub const SUBNET_C: &str = "10.244.3.0/24";

/// Overlay address of the first node, on its vxlan device.
pub const OVERLAY_A: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 0);
/// Overlay address of the second node.
pub const OVERLAY_B: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 0);
/// Overlay address of the third node.
pub const OVERLAY_C: Ipv4Addr = Ipv4Addr::new(10, 244, 3, 0);

/// First pod of the first node: what host-local hands out first, after the gateway.
pub const POD_A1: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
/// Second pod of the first node.
pub const POD_A2: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 3);
/// First pod of the second node.
pub const POD_B1: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 2);
/// Second pod of the second node.
pub const POD_B2: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 3);
/// First pod of the third node.
pub const POD_C1: Ipv4Addr = Ipv4Addr::new(10, 244, 3, 2);
/// Second pod of the third node.
pub const POD_C2: Ipv4Addr = Ipv4Addr::new(10, 244, 3, 3);

/// The MAC address as `ip` and `bridge` write it.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// MAC address of the uplink with this underlay address: [`UPLINK_MAC_A`] for [`NODE_A`].
pub fn uplink_mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    // 192.0.2.1 becomes 02:00:c0:00:02:01.
    [0x02, 0x00, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_are_written_as_ip_writes_them() {
        assert_eq!(mac_text(VTEP_MAC_B), "02:00:00:00:00:0b");
        assert_eq!(uplink_mac(NODE_A), UPLINK_MAC_A);
        assert_eq!(uplink_mac(NODE_C), UPLINK_MAC_C);
    }
}
