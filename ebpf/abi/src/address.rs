//! IP addresses of both families in one key.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Be32;

/// An IPv6 address, or an IPv4 address in its v4-mapped form (RFC 4291, 2.5.5.2),
/// as four words in network byte order.
///
/// Words, not bytes: the programs mask and compare it four bytes at a time, and a
/// byte-aligned field would cost the verifier sixteen loads on old kernels.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(transparent)]
pub struct Address(pub [Be32; 4]);

impl Address {
    /// The third word of a v4-mapped address: `::ffff:0:0`.
    const V4_MAPPED: Be32 = Be32::from_host(0x0000_ffff);

    /// All zero.
    pub const NOWHERE: Self = Self([Be32::from_host(0); 4]);

    /// How many bits a v4 prefix length grows by in the mapped form.
    pub const V4_PREFIX_OFFSET: u8 = 96;

    /// From an IPv4 address.
    #[inline(always)]
    pub const fn from_v4(address: Be32) -> Self {
        Self([
            Be32::from_host(0),
            Be32::from_host(0),
            Self::V4_MAPPED,
            address,
        ])
    }

    /// The IPv4 address of a v4-mapped one; the last word of any other.
    #[inline(always)]
    pub const fn last_word(self) -> Be32 {
        let Self([_, _, _, last]) = self;
        last
    }

    /// Whether this is an IPv4 address in its mapped form.
    pub const fn is_v4(self) -> bool {
        let Self([a, b, c, _]) = self;
        a.to_network() == 0 && b.to_network() == 0 && c.to_network() == Self::V4_MAPPED.to_network()
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::from(v4),
            IpAddr::V6(v6) => Self::from(v6),
        }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self::from_v4(Be32::from_bytes(address.octets()))
    }
}

impl From<Ipv6Addr> for Address {
    fn from(address: Ipv6Addr) -> Self {
        let bits = u128::from(address);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the low 32 bits are what is meant"
        )]
        let word = |shift: u32| Be32::from_host((bits >> shift) as u32);
        Self([word(96), word(64), word(32), word(0)])
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        let Address([a, b, c, d]) = address;
        if address.is_v4() {
            return Self::V4(Ipv4Addr::from(d.to_bytes()));
        }
        let mut bits: u128 = 0;
        for word in [a, b, c, d] {
            bits = (bits << 32) | u128::from(word.to_host());
        }
        Self::V6(Ipv6Addr::from(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_survive_the_round_trip() {
        for text in [
            "192.0.2.1",
            "0.0.0.0",
            "255.255.255.255",
            "2001:db8::1",
            "::",
            "fe80::1:2",
        ] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Address::from(address)), address);
        }
    }

    #[test]
    fn a_v4_address_is_mapped() {
        let Address(words) = Address::from(Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(words.map(Be32::to_host), [0, 0, 0xffff, 0xc000_0201]);
    }
}
