//! Ethernet headers.

/// IPv4.
pub const ETHER_TYPE_IPV4: u16 = 0x0800;
/// ARP.
pub const ETHER_TYPE_ARP: u16 = 0x0806;
/// An 802.1Q tag that is still in the packet.
pub const ETHER_TYPE_VLAN: u16 = 0x8100;
/// IPv6.
pub const ETHER_TYPE_IPV6: u16 = 0x86dd;

/// An Ethernet header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ethernet {
    /// Destination MAC address.
    pub destination: [u8; 6],
    /// Source MAC address.
    pub source: [u8; 6],
    /// `EtherType`, host order.
    pub ether_type: u16,
}

impl Ethernet {
    /// Length of the header, bytes.
    pub const LENGTH: usize = 14;

    /// A header in front of an IPv4 packet.
    pub const fn ipv4(source: [u8; 6], destination: [u8; 6]) -> Self {
        Self {
            destination,
            source,
            ether_type: ETHER_TYPE_IPV4,
        }
    }

    /// The frame: this header and what it carries.
    #[must_use]
    pub fn over(&self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::LENGTH + payload.len());
        bytes.extend(self.destination);
        bytes.extend(self.source);
        bytes.extend(self.ether_type.to_be_bytes());
        bytes.extend(payload);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_destination_comes_first() {
        let frame = Ethernet::ipv4([1; 6], [2; 6]).over(&[0x45]);
        assert_eq!(frame, [2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 8, 0, 0x45]);
    }
}
