//! IPv4 headers.

use std::net::Ipv4Addr;

use super::checksum::{internet_checksum, transport_checksum};
use super::{Icmp, Tcp, Udp};

/// ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// UDP.
pub const PROTOCOL_UDP: u8 = 17;

/// The flag "don't fragment" of [`Ipv4::fragment`].
pub const DONT_FRAGMENT: u16 = 0x4000;
/// The flag "more fragments" of [`Ipv4::fragment`].
pub const MORE_FRAGMENTS: u16 = 0x2000;

/// An IPv4 header.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ipv4 {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// DSCP in the upper six bits, ECN in the lower two.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Flags in the upper three bits, offset in units of eight bytes in the others.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol number.
    pub protocol: u8,
    /// Options, a multiple of four bytes and at most 40.
    pub options: Vec<u8>,
    /// Version, 4 if it does not lie.
    pub version: u8,
    /// Header length in words, if it lies.
    pub ihl: Option<u8>,
    /// Length of header and payload in bytes, if it lies.
    pub total_length: Option<u16>,
    /// Header checksum, if it lies.
    pub checksum: Option<u16>,
}

impl Ipv4 {
    /// Length of a header without options, bytes.
    pub const LENGTH: usize = 20;

    /// A header with TTL 64 and "don't fragment", as a Linux host sends TCP.
    pub const fn new(source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        Self {
            source,
            destination,
            tos: 0,
            id: 0,
            fragment: DONT_FRAGMENT,
            ttl: 64,
            protocol: PROTOCOL_UDP,
            options: Vec::new(),
            version: 4,
            ihl: None,
            total_length: None,
            checksum: None,
        }
    }

    /// The packet: this header and what it carries, whatever `protocol` says it is.
    #[must_use]
    pub fn over(&self, payload: &[u8]) -> Vec<u8> {
        assert!(self.options.len().is_multiple_of(4) && self.options.len() <= 40);
        let header_length = Self::LENGTH + self.options.len();
        let right_ihl = u8::try_from(header_length / 4).expect("at most 15 words");
        let total_length = self.total_length.unwrap_or_else(|| {
            u16::try_from(header_length + payload.len()).expect("fits an IPv4 packet")
        });

        let mut bytes = Vec::with_capacity(header_length + payload.len());
        bytes.push(self.version << 4 | self.ihl.unwrap_or(right_ihl));
        bytes.push(self.tos);
        bytes.extend(total_length.to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([self.ttl, self.protocol, 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(&self.options);
        let checksum = self.checksum.unwrap_or_else(|| internet_checksum(&bytes));
        bytes.splice(10..12, checksum.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// The packet with a TCP segment.
    #[must_use]
    pub fn tcp(&self, tcp: &Tcp, payload: &[u8]) -> Vec<u8> {
        let checksum = |segment: &[u8]| self.transport_checksum(PROTOCOL_TCP, segment);
        self.carrying(PROTOCOL_TCP, &tcp.over(payload, checksum))
    }

    /// The packet with a UDP datagram.
    #[must_use]
    pub fn udp(&self, udp: &Udp, payload: &[u8]) -> Vec<u8> {
        let checksum = |segment: &[u8]| self.transport_checksum(PROTOCOL_UDP, segment);
        self.carrying(PROTOCOL_UDP, &udp.over(payload, checksum))
    }

    /// The packet with an ICMP message.
    #[must_use]
    pub fn icmp(&self, icmp: Icmp, payload: &[u8]) -> Vec<u8> {
        self.carrying(PROTOCOL_ICMP, &icmp.over(payload))
    }

    fn carrying(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        Self {
            protocol,
            ..self.clone()
        }
        .over(payload)
    }

    fn transport_checksum(&self, protocol: u8, segment: &[u8]) -> u16 {
        transport_checksum(self.source, self.destination, protocol, segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 199);

    #[test]
    fn a_known_header_comes_out_as_captured() {
        let bytes = Ipv4::new(A, B).over(&[0; 0x73 - 20]);
        assert_eq!(
            bytes[..20],
            [
                0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8,
                0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7,
            ]
        );
    }

    #[test]
    fn options_lengthen_the_header() {
        let header = Ipv4 {
            options: vec![1; 8],
            ..Ipv4::new(A, B)
        };
        let bytes = header.over(b"!");
        assert_eq!((bytes[0], bytes.len()), (0x47, 29));
        assert_eq!(internet_checksum(&bytes[..28]), 0);
    }

    #[test]
    fn lies_are_told_as_asked() {
        let header = Ipv4 {
            version: 6,
            ihl: Some(4),
            total_length: Some(1),
            checksum: Some(0xbeef),
            ..Ipv4::new(A, B)
        };
        let bytes = header.over(&[]);
        assert_eq!(bytes[0], 0x64);
        assert_eq!(bytes[2..4], [0, 1]);
        assert_eq!(bytes[10..12], [0xbe, 0xef]);
    }
}
