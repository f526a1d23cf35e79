//! VXLAN as the kernel would take it, whoever sent it: what the guard reads of a packet.
//!
//! The programs carry only packets of the plainest form and leave the rest to the kernel. The
//! guard must see what the kernel sees: a packet behind VLAN tags, with IP options or in
//! fragments ends in the kernel's vxlan device like any other.

use twill_abi::{Be16, Be32, Reason};

use crate::Wire;
use crate::ethernet::{ETHERNET_LEN, EtherType, EthernetHeader};
use crate::ipv4::{IPV4_LEN, IpProtocol, Ipv4Header};
use crate::transport::{UDP_LEN, UdpHeader};
use crate::vxlan::{FLAGS_VNI, VXLAN_LEN, VxlanHeader};

/// How many VLAN tags are looked behind. The kernel takes any number of priority tags off
/// (`__netif_receive_skb_core`, `net/core/dev.c`, v6.12); nobody who means well sends five.
pub const VLAN_TAGS: usize = 4;
/// Length of a VLAN tag with the `EtherType` behind it, bytes.
const VLAN_LEN: u32 = 4;

/// A packet as far as it can be read.
pub trait Bytes {
    /// Length with the Ethernet header, bytes.
    fn len(&self) -> u32;

    /// Copies a value out of the packet, if it is that long.
    fn get<T: Wire>(&self, offset: u32) -> Option<T>;

    /// Whether there is not a byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A UDP packet to the VXLAN port, or the first fragment of one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Candidate {
    /// Outer source.
    pub source: Be32,
    /// Outer destination.
    pub destination: Be32,
    /// Where the UDP header begins, bytes.
    udp: u32,
    /// Where the outer IP packet ends by its own word, or the frame if that is earlier, bytes.
    end: u32,
    /// What contradicts in the outer lengths.
    fault: Option<Reason>,
    fragment: bool,
}

/// What a VXLAN packet carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Inner {
    /// Inner source.
    pub source: Be32,
    /// Inner destination.
    pub destination: Be32,
    /// Inner UDP destination port.
    pub udp_port: Option<Be16>,
}

/// A UDP packet to `port`. `Ok(None)` is what is none of the guard's business, and `Err` what is
/// hidden behind too many VLAN tags.
///
/// Of a fragmented packet only the first fragment has a UDP header; without it the kernel puts
/// nothing together.
#[inline(always)]
pub fn candidate<P: Bytes>(packet: &P, port: Be16) -> Result<Option<Candidate>, Reason> {
    let Some(ethernet) = packet.get::<EthernetHeader>(0) else {
        return Ok(None);
    };
    if ethernet.ether_type() == EtherType::IPV4 {
        return Ok(over_udp(packet, ETHERNET_LEN, port));
    }
    if !ethernet.ether_type().is_vlan() {
        return Ok(None);
    }
    let mut offset = ETHERNET_LEN;
    for _ in 0..VLAN_TAGS {
        let Some([_, _, high, low]) = packet.get::<[u8; VLAN_LEN as usize]>(offset) else {
            return Ok(None);
        };
        offset = offset.wrapping_add(VLAN_LEN);
        let ether_type = EtherType(u16::from_be_bytes([high, low]));
        if ether_type == EtherType::IPV4 {
            return Ok(over_udp(packet, offset, port));
        }
        if !ether_type.is_vlan() {
            return Ok(None);
        }
    }
    Err(Reason::VlanTag)
}

/// The same of a packet that begins with its IP header.
#[inline(always)]
pub fn bare_candidate<P: Bytes>(packet: &P, port: Be16) -> Option<Candidate> {
    over_udp(packet, 0, port)
}

#[inline(always)]
fn over_udp<P: Bytes>(packet: &P, offset: u32, port: Be16) -> Option<Candidate> {
    let ip = packet.get::<Ipv4Header>(offset)?;
    // No IP, or a later fragment: the kernel drops the one, and the other has no port.
    if ip.protocol() != IpProtocol::UDP
        || ip.version() != 4
        || ip.header_len() < IPV4_LEN
        || ip.fragment_offset() != 0
    {
        return None;
    }
    let udp = offset.wrapping_add(ip.header_len());
    let header = packet.get::<UdpHeader>(udp)?;
    if header.destination() != port {
        return None;
    }
    let fragment = ip.is_fragment();
    let len = packet.len();
    let (end, fault) = match ip.total_length() {
        // More than 64 KiB, put together by GRO: no length of it says anything.
        0 => (len, None),
        total => {
            let end = offset.wrapping_add(total);
            let room = end.saturating_sub(udp);
            let fault = if end > len {
                Some(Reason::Truncated)
            } else if !fragment && (header.length() > room || header.length() < UDP_LEN) {
                Some(Reason::OuterMalformed)
            } else {
                None
            };
            (end, fault)
        }
    };
    Some(Candidate {
        source: ip.source(),
        destination: ip.destination(),
        udp,
        end,
        fault,
        fragment,
    })
}

impl Candidate {
    /// What is wrong with the packet as VXLAN of the network `vni`, whoever sent it. A wrong VNI
    /// is told only of a packet that is otherwise in order: it may be somebody else's overlay.
    #[inline(always)]
    pub fn vxlan<P: Bytes>(&self, packet: &P, vni: u32) -> Result<(), Reason> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let header = self.read::<P, VxlanHeader>(packet, UDP_LEN)?;
        if header.flags != FLAGS_VNI {
            return Err(Reason::VxlanFlags);
        }
        if header.vni() != vni {
            return Err(Reason::WrongVni);
        }
        Ok(())
    }

    /// What the packet carries, which must be IPv4: flannel's nodes send nothing else by IPv4.
    #[inline(always)]
    pub fn inner<P: Bytes>(&self, packet: &P) -> Result<Inner, Reason> {
        const ETHERNET: u32 = UDP_LEN + VXLAN_LEN;
        const IP: u32 = ETHERNET + ETHERNET_LEN;
        let ethernet = self.read::<P, EthernetHeader>(packet, ETHERNET)?;
        if ethernet.ether_type() != EtherType::IPV4 {
            return Err(Reason::NotIp);
        }
        let ip = self.read::<P, Ipv4Header>(packet, IP)?;
        if ip.version() != 4 || ip.header_len() < IPV4_LEN {
            return Err(Reason::IpMalformed);
        }
        let udp = ip.protocol() == IpProtocol::UDP && ip.fragment_offset() == 0;
        let udp_port = if udp {
            let transport = IP.wrapping_add(ip.header_len());
            let header = self.read::<P, UdpHeader>(packet, transport)?;
            Some(header.destination())
        } else {
            None
        };
        Ok(Inner {
            source: ip.source(),
            destination: ip.destination(),
            udp_port,
        })
    }

    /// Reads what the kernel would read there, and nothing behind the end of the outer packet.
    #[inline(always)]
    fn read<P: Bytes, T: Wire>(&self, packet: &P, offset: u32) -> Result<T, Reason> {
        let missing = if self.fragment {
            Reason::Fragment
        } else {
            Reason::Truncated
        };
        let offset = self.udp.wrapping_add(offset);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "headers are some bytes long"
        )]
        let end = offset.wrapping_add(size_of::<T>() as u32);
        if end > self.end {
            return Err(missing);
        }
        packet.get(offset).ok_or(missing)
    }
}
