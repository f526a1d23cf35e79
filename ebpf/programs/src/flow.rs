//! The inner packet, as far as a flow is named by it.

use twill_abi::{Address, Be16, FlowTuple, Reason};
use twill_packet::ethernet::{EtherType, EthernetHeader};
use twill_packet::ipv4::{IPV4_LEN, IpProtocol, Ipv4Header};
use twill_packet::transport::{TcpFlags, TcpStart, UDP_LEN, UdpHeader};

use crate::access::Packet;

/// A TCP or UDP packet without options and fragments.
#[derive(Clone, Copy)]
pub struct Flow {
    /// The IP header.
    pub ip: Ipv4Header,
    /// Source port.
    pub source_port: Be16,
    /// Destination port.
    pub destination_port: Be16,
    /// Flags; none for UDP.
    pub flags: TcpFlags,
    /// Length of the IP and transport headers, bytes.
    pub headers_len: u32,
}

/// The Ethernet header of an untagged IPv4 packet: nothing else is ever looked into.
#[inline(always)]
pub fn ethernet(packet: &Packet) -> Result<EthernetHeader, Reason> {
    if packet.has_vlan_tag() {
        return Err(Reason::VlanTag);
    }
    let Some(ethernet) = packet.get::<EthernetHeader>(0) else {
        return Err(Reason::Truncated);
    };
    if ethernet.ether_type() != EtherType::IPV4 {
        return Err(Reason::NotIp);
    }
    Ok(ethernet)
}

/// The IP header at `offset`, if the packet is as long as it says.
#[inline(always)]
pub fn ipv4(packet: &Packet, offset: u32) -> Result<Ipv4Header, Reason> {
    let Some(ip) = packet.fetch::<Ipv4Header>(offset) else {
        return Err(Reason::Truncated);
    };
    if ip.version() != 4 || ip.header_len() < IPV4_LEN {
        return Err(Reason::IpMalformed);
    }
    let total = ip.total_length();
    if total < ip.header_len() || offset + total > packet.len() {
        return Err(Reason::IpMalformed);
    }
    Ok(ip)
}

/// The flow of the packet whose IP header is at `offset`.
#[inline(always)]
pub fn parse(packet: &Packet, offset: u32, ip: &Ipv4Header) -> Result<Flow, Reason> {
    if ip.version_ihl != Ipv4Header::PLAIN {
        return Err(Reason::IpOptions);
    }
    if ip.is_fragment() {
        return Err(Reason::Fragment);
    }
    let transport = offset + IPV4_LEN;
    match ip.protocol() {
        IpProtocol::TCP => {
            let Some(tcp) = packet.fetch::<TcpStart>(transport) else {
                return Err(Reason::Truncated);
            };
            Ok(Flow {
                ip: *ip,
                source_port: Be16::from_bytes(tcp.source),
                destination_port: Be16::from_bytes(tcp.destination),
                flags: tcp.flags,
                headers_len: IPV4_LEN + tcp.header_len(),
            })
        }
        IpProtocol::UDP => {
            let Some(udp) = packet.fetch::<UdpHeader>(transport) else {
                return Err(Reason::Truncated);
            };
            Ok(Flow {
                ip: *ip,
                source_port: udp.source(),
                destination_port: udp.destination(),
                flags: TcpFlags(0),
                headers_len: IPV4_LEN + UDP_LEN,
            })
        }
        _ => Err(Reason::NotTransport),
    }
}

impl Flow {
    /// A packet that is about a flow rather than part of it: nothing of it is rewritten but what
    /// every router does.
    #[inline(always)]
    pub fn about(ip: &Ipv4Header) -> Self {
        Self {
            ip: *ip,
            source_port: Be16::from_host(0),
            destination_port: Be16::from_host(0),
            flags: TcpFlags(0),
            headers_len: IPV4_LEN,
        }
    }

    /// Whether this is no packet of the flow, but an ICMP error about it.
    #[inline(always)]
    pub fn is_error(&self) -> bool {
        self.ip.protocol() == IpProtocol::ICMP
    }

    /// Whether the flow is UDP; else it is TCP.
    #[inline(always)]
    pub fn is_udp(&self) -> bool {
        self.ip.protocol() == IpProtocol::UDP
    }

    /// The tuple of a packet that the local pod sent.
    #[inline(always)]
    pub fn sent(&self) -> FlowTuple {
        FlowTuple {
            local: Address::from_v4(self.ip.source()),
            remote: Address::from_v4(self.ip.destination()),
            local_port: self.source_port,
            remote_port: self.destination_port,
            protocol: self.ip.protocol,
            reserved: [0; 3],
        }
    }

    /// The tuple of a packet to the local pod.
    #[inline(always)]
    pub fn received(&self) -> FlowTuple {
        FlowTuple {
            local: Address::from_v4(self.ip.destination()),
            remote: Address::from_v4(self.ip.source()),
            local_port: self.destination_port,
            remote_port: self.source_port,
            protocol: self.ip.protocol,
            reserved: [0; 3],
        }
    }
}
