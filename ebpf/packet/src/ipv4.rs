//! IPv4 (RFC 791).

use twill_abi::Be32;

use crate::checksum;

/// Length of an IPv4 header without options, in bytes.
pub const IPV4_LEN: u32 = 20;

/// An IP protocol number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IpProtocol(pub u8);

impl IpProtocol {
    /// ICMP.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
}

/// An IPv4 header up to its options.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Ipv4Header {
    /// Version and header length.
    pub version_ihl: u8,
    /// Type of service: DSCP and ECN.
    pub tos: u8,
    /// Total length, network byte order.
    pub total_length: [u8; 2],
    /// Identification.
    pub identification: [u8; 2],
    /// Flags and fragment offset, network byte order.
    pub fragment: [u8; 2],
    /// Time to live.
    pub ttl: u8,
    /// Protocol.
    pub protocol: u8,
    /// Header checksum.
    pub check: [u8; 2],
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
}

impl Ipv4Header {
    /// Version and header length of a header without options.
    pub const PLAIN: u8 = 0x45;

    /// IP version.
    #[inline(always)]
    pub fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Header length in bytes, options included.
    #[inline(always)]
    pub fn header_len(&self) -> u32 {
        u32::from(self.version_ihl & 0xf) << 2
    }

    /// Total length in bytes.
    #[inline(always)]
    pub fn total_length(&self) -> u32 {
        u32::from(u16::from_be_bytes(self.total_length))
    }

    /// Whether this is a fragment: MF set or an offset.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        u16::from_be_bytes(self.fragment) & 0x3fff != 0
    }

    /// Where the payload belongs in the whole packet, in units of eight bytes.
    #[inline(always)]
    pub fn fragment_offset(&self) -> u16 {
        u16::from_be_bytes(self.fragment) & 0x1fff
    }

    /// Whether the DF bit is set.
    #[inline(always)]
    pub fn dont_fragment(&self) -> bool {
        u16::from_be_bytes(self.fragment) & 0x4000 != 0
    }

    /// Protocol.
    #[inline(always)]
    pub fn protocol(&self) -> IpProtocol {
        IpProtocol(self.protocol)
    }

    /// Source address.
    #[inline(always)]
    pub fn source(&self) -> Be32 {
        Be32::from_bytes(self.source)
    }

    /// Destination address.
    #[inline(always)]
    pub fn destination(&self) -> Be32 {
        Be32::from_bytes(self.destination)
    }
}

/// The last twelve bytes of an IPv4 header: what a router that does NAT changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Ipv4Tail {
    /// Time to live.
    pub ttl: u8,
    /// Protocol.
    pub protocol: u8,
    /// Header checksum.
    pub check: [u8; 2],
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
}

/// Where [`Ipv4Tail`] begins in the header, in bytes.
pub const IPV4_TAIL_OFFSET: u32 = 8;

/// A change to an IPv4 header whose checksum follows along.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite {
    tos: u8,
    tail: Ipv4Tail,
}

impl Rewrite {
    /// Begins with the header as it is.
    #[inline(always)]
    pub fn new(header: &Ipv4Header) -> Self {
        let Ipv4Header {
            tos,
            ttl,
            protocol,
            check,
            source,
            destination,
            ..
        } = *header;
        Self {
            tos,
            tail: Ipv4Tail {
                ttl,
                protocol,
                check,
                source,
                destination,
            },
        }
    }

    /// Decrements the TTL, which the caller knows to be above 1.
    #[inline(always)]
    pub fn decrement_ttl(&mut self) {
        let word = |ttl: u8, protocol: u8| u16::from_be_bytes([ttl, protocol]);
        let ttl = self.tail.ttl.wrapping_sub(1);
        self.update(
            word(self.tail.ttl, self.tail.protocol),
            word(ttl, self.tail.protocol),
        );
        self.tail.ttl = ttl;
    }

    /// Sets the source address.
    #[inline(always)]
    pub fn set_source(&mut self, address: Be32) {
        self.update_address(self.tail.source, address);
        self.tail.source = address.to_bytes();
    }

    /// Sets the destination address.
    #[inline(always)]
    pub fn set_destination(&mut self, address: Be32) {
        self.update_address(self.tail.destination, address);
        self.tail.destination = address.to_bytes();
    }

    /// Sets the two ECN bits.
    #[inline(always)]
    pub fn set_ecn(&mut self, ecn: u8) {
        let tos = (self.tos & !crate::ecn::MASK) | ecn;
        let word = |tos: u8| u16::from_be_bytes([Ipv4Header::PLAIN, tos]);
        self.update(word(self.tos), word(tos));
        self.tos = tos;
    }

    /// The TOS byte.
    #[inline(always)]
    pub fn tos(&self) -> u8 {
        self.tos
    }

    /// The header from [`IPV4_TAIL_OFFSET`] on.
    #[inline(always)]
    pub fn tail(&self) -> Ipv4Tail {
        self.tail
    }

    #[inline(always)]
    fn update(&mut self, old: u16, new: u16) {
        let check = u16::from_be_bytes(self.tail.check);
        self.tail.check = checksum::update_word(check, old, new).to_be_bytes();
    }

    #[inline(always)]
    fn update_address(&mut self, old: [u8; 4], new: Be32) {
        let check = u16::from_be_bytes(self.tail.check);
        let old = u32::from_be_bytes(old);
        self.tail.check = checksum::update_long(check, old, new.to_host()).to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The header's words with its checksum in place: a right one makes them sum to all ones.
    fn sum(header: &Ipv4Header) -> u16 {
        let Ipv4Header {
            version_ihl,
            tos,
            total_length,
            identification,
            fragment,
            ..
        } = *header;
        let Ipv4Header {
            ttl,
            protocol,
            check,
            source,
            destination,
            ..
        } = *header;
        let (s, d) = (source, destination);
        let words = [
            [version_ihl, tos],
            total_length,
            identification,
            fragment,
            [ttl, protocol],
            check,
            [s[0], s[1]],
            [s[2], s[3]],
            [d[0], d[1]],
            [d[2], d[3]],
        ];
        let total: u32 = words
            .iter()
            .map(|word| u32::from(u16::from_be_bytes(*word)))
            .sum();
        checksum::fold(total)
    }

    fn valid(mut header: Ipv4Header) -> Ipv4Header {
        header.version_ihl = Ipv4Header::PLAIN;
        header.check = [0; 2];
        header.check = (!sum(&header)).to_be_bytes();
        header
    }

    prop_compose! {
        fn headers()(bytes in any::<[u8; 10]>(), source: [u8; 4], destination: [u8; 4])
            -> Ipv4Header {
            let [tos, a, b, c, d, e, f, ttl, protocol, _] = bytes;
            valid(Ipv4Header {
                version_ihl: Ipv4Header::PLAIN,
                tos,
                total_length: [a, b],
                identification: [c, d],
                fragment: [e, f],
                ttl,
                protocol,
                check: [0; 2],
                source,
                destination,
            })
        }
    }

    proptest! {
        #[test]
        fn a_rewritten_header_keeps_a_right_checksum(
            header in headers(),
            source: [u8; 4],
            destination: [u8; 4],
            ecn in 0_u8..4,
            which: [bool; 4],
        ) {
            let mut rewrite = Rewrite::new(&header);
            let mut expected = header;
            if which[0] && header.ttl > 1 {
                rewrite.decrement_ttl();
                expected.ttl = header.ttl.wrapping_sub(1);
            }
            if which[1] {
                rewrite.set_source(Be32::from_bytes(source));
                expected.source = source;
            }
            if which[2] {
                rewrite.set_destination(Be32::from_bytes(destination));
                expected.destination = destination;
            }
            if which[3] {
                rewrite.set_ecn(ecn);
                expected.tos = (header.tos & !3) | ecn;
            }
            let Ipv4Tail { ttl, protocol, check, source, destination } = rewrite.tail();
            let got = Ipv4Header {
                tos: rewrite.tos(), ttl, protocol, check, source, destination, ..header
            };
            prop_assert_eq!(sum(&got), 0xffff);
            prop_assert_eq!(Ipv4Header { check: expected.check, ..got }, expected);
        }
    }
}
