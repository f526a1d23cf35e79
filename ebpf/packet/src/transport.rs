//! TCP and UDP, as far as a datapath reads them.

use twill_abi::Be16;

/// Length of a UDP header in bytes.
pub const UDP_LEN: u32 = 8;
/// Offset of the checksum in a UDP header, bytes.
pub const UDP_CHECK_OFFSET: u32 = 6;
/// Offset of the checksum in a TCP header, bytes.
pub const TCP_CHECK_OFFSET: u32 = 16;

/// A UDP header (RFC 768).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct UdpHeader {
    /// Source port, network byte order.
    pub source: [u8; 2],
    /// Destination port, network byte order.
    pub destination: [u8; 2],
    /// Length with this header, network byte order.
    pub length: [u8; 2],
    /// Checksum; zero: none.
    pub check: [u8; 2],
}

impl UdpHeader {
    /// Source port.
    #[inline(always)]
    pub fn source(&self) -> Be16 {
        Be16::from_bytes(self.source)
    }

    /// Destination port.
    #[inline(always)]
    pub fn destination(&self) -> Be16 {
        Be16::from_bytes(self.destination)
    }

    /// Length in bytes, with this header.
    #[inline(always)]
    pub fn length(&self) -> u32 {
        u32::from(u16::from_be_bytes(self.length))
    }
}

/// The TCP header up to its flags (RFC 9293, 3.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct TcpStart {
    /// Source port, network byte order.
    pub source: [u8; 2],
    /// Destination port, network byte order.
    pub destination: [u8; 2],
    /// Sequence number.
    pub sequence: [u8; 4],
    /// Acknowledgement number.
    pub acknowledgement: [u8; 4],
    /// Header length in words, in the upper four bits.
    pub offset: u8,
    /// Flags.
    pub flags: TcpFlags,
}

/// The flags of a TCP segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(transparent)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;

    /// Whether the segment ends the connection: FIN or RST.
    #[inline(always)]
    pub const fn closes(self) -> bool {
        self.0 & (Self::FIN | Self::RST) != 0
    }

    /// Whether the segment opens one: SYN, with or without ACK.
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & Self::SYN != 0
    }

    /// Whether it is the first segment of a connection: SYN without ACK.
    #[inline(always)]
    pub const fn is_first(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }
}

impl TcpStart {
    /// Header length in bytes, options included.
    #[inline(always)]
    pub fn header_len(&self) -> u32 {
        (u32::from(self.offset) >> 4) << 2
    }
}

/// The ICMP header of an error message, with the header of the packet that it is about
/// (RFC 792): destination unreachable, time exceeded, parameter problem.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct IcmpError {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum.
    pub check: [u8; 2],
    /// Unused, or the next hop's MTU.
    pub rest: [u8; 4],
    /// The quoted packet's IP header.
    pub ip: crate::ipv4::Ipv4Header,
    /// Its source port.
    pub source: [u8; 2],
    /// Its destination port.
    pub destination: [u8; 2],
}

impl IcmpError {
    /// Whether the type is that of an error which quotes a packet of TCP or UDP without options.
    #[inline(always)]
    pub fn quotes_a_flow(&self) -> bool {
        use crate::ipv4::{IpProtocol, Ipv4Header};
        matches!(self.kind, 3 | 11 | 12)
            && self.ip.version_ihl == Ipv4Header::PLAIN
            && !self.ip.is_fragment()
            && matches!(self.ip.protocol(), IpProtocol::TCP | IpProtocol::UDP)
    }
}
