//! ARP (RFC 826) for IPv4 over Ethernet, as far as it says who is where.

use twill_abi::Be32;

/// Hardware Ethernet, protocol IPv4, and the lengths of both kinds of address.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// A request or a reply up to its sender.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct ArpSender {
    /// Kinds and lengths of the addresses.
    pub kinds: [u8; 6],
    /// Request, reply, or what nobody uses; network byte order.
    pub operation: [u8; 2],
    /// The sender's MAC address.
    pub mac: [u8; 6],
    /// The sender's IPv4 address, network byte order.
    pub address: [u8; 4],
}

impl ArpSender {
    /// The address that the sender claims, if it is IPv4 over Ethernet and the frame came from
    /// the MAC address that it names.
    #[inline(always)]
    pub fn claims(&self, source: [u8; 6]) -> Option<Be32> {
        let fits = self.kinds == ETHERNET_IPV4 && self.mac == source;
        fits.then_some(Be32::from_bytes(self.address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn reply() -> ArpSender {
        ArpSender {
            kinds: [0, 1, 8, 0, 6, 4],
            operation: [0, 2],
            mac: MAC,
            address: [10, 244, 1, 2],
        }
    }

    #[test]
    fn a_sender_claims_its_address() {
        assert_eq!(size_of::<ArpSender>(), 18);
        let address = Be32::from_bytes([10, 244, 1, 2]);
        assert_eq!(reply().claims(MAC), Some(address));
    }

    #[test]
    fn nobody_speaks_for_another() {
        assert_eq!(reply().claims([2, 0, 0, 0, 0, 8]), None);
        for kinds in [[0, 6, 8, 0, 6, 4], [0, 1, 0x86, 0xdd, 6, 16]] {
            let other = ArpSender { kinds, ..reply() };
            assert_eq!(other.claims(MAC), None, "{kinds:?}");
        }
    }
}
