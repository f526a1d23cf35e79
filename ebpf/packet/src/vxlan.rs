//! VXLAN (RFC 7348) over IPv4, as the kernel's vxlan device of a flannel node sends it.

use twill_abi::{Be16, Be32};

use crate::checksum;
use crate::ethernet::{ETHERNET_LEN, EtherType, EthernetHeader};
use crate::ipv4::{IPV4_LEN, IpProtocol, Ipv4Header};
use crate::transport::{UDP_LEN, UdpHeader};

/// Length of a VXLAN header in bytes.
pub const VXLAN_LEN: u32 = 8;

/// What encapsulation over IPv4 adds to a frame, in bytes.
pub const ENCAP_OVERHEAD: u32 = 14 + 20 + 8 + 8;

const _: () = assert!(ENCAP_OVERHEAD == ETHERNET_LEN + IPV4_LEN + UDP_LEN + VXLAN_LEN);

/// The flags of a packet with a VNI and nothing else (the I bit).
pub const FLAGS_VNI: [u8; 4] = [0x08, 0, 0, 0];

/// TTL of outer packets: the kernel's default for a device with `ttl auto`.
pub const OUTER_TTL: u8 = 64;

/// A VXLAN header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct VxlanHeader {
    /// Flags and reserved bits.
    pub flags: [u8; 4],
    /// VNI.
    pub vni: [u8; 3],
    /// Reserved.
    pub reserved: u8,
}

impl VxlanHeader {
    /// VNI, in the low 24 bits.
    #[inline(always)]
    pub fn vni(&self) -> u32 {
        let [a, b, c] = self.vni;
        u32::from_be_bytes([0, a, b, c])
    }
}

/// The outer headers behind IPv4, with the inner Ethernet header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct OuterTail {
    /// Outer UDP.
    pub udp: UdpHeader,
    /// VXLAN.
    pub vxlan: VxlanHeader,
    /// Inner Ethernet.
    pub ethernet: EthernetHeader,
}

/// Every header from the outer IP header to the inner one, both without options.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Headers {
    /// Outer IP.
    pub outer: Ipv4Header,
    /// What is between them.
    pub tail: OuterTail,
    /// Inner IP.
    pub inner: Ipv4Header,
}

impl OuterTail {
    /// Whether the outer UDP checksum is right if the inner TCP or UDP checksum is: by the headers
    /// alone. What a right checksum covers sums up with its pseudo header to nothing, so the
    /// inner packet's share of the outer sum is known without a look at its payload ("LCO",
    /// `Documentation/networking/checksum-offloads.rst`).
    ///
    /// `outer` and `inner` are the IP headers without options, and the inner packet fills the outer
    /// one but for zeroes behind it.
    #[inline(always)]
    pub fn is_checksum_right(&self, outer: &Ipv4Header, inner: &Ipv4Header) -> bool {
        let pseudo_header = long(outer.source)
            .wrapping_add(long(outer.destination))
            .wrapping_add(word([0, outer.protocol]))
            .wrapping_add(word(self.udp.length));
        let udp = word(self.udp.source)
            .wrapping_add(word(self.udp.destination))
            .wrapping_add(word(self.udp.length))
            .wrapping_add(word(self.udp.check));
        let [a, b, c] = self.vxlan.vni;
        let vxlan = long(self.vxlan.flags).wrapping_add(long([a, b, c, self.vxlan.reserved]));
        let [d0, d1, d2, d3, d4, d5] = self.ethernet.destination;
        let [s0, s1, s2, s3, s4, s5] = self.ethernet.source;
        let ethernet = long([d0, d1, d2, d3])
            .wrapping_add(long([d4, d5, s0, s1]))
            .wrapping_add(long([s2, s3, s4, s5]))
            .wrapping_add(word(self.ethernet.ether_type));
        // The IP header, less the pseudo header: addresses and protocol are in both, and of the two
        // lengths the header's own is left.
        let packet = word([inner.version_ihl, inner.tos])
            .wrapping_add(IPV4_LEN)
            .wrapping_add(word(inner.identification))
            .wrapping_add(word(inner.fragment))
            .wrapping_add(word([inner.ttl, 0]))
            .wrapping_add(word(inner.check));
        let sum = pseudo_header
            .wrapping_add(udp)
            .wrapping_add(vxlan)
            .wrapping_add(ethernet)
            .wrapping_add(packet);
        checksum::fold(sum) == u16::MAX
    }
}

/// A 16-bit word of a sum.
#[inline(always)]
fn word(bytes: [u8; 2]) -> u32 {
    u16::from_be_bytes(bytes).into()
}

/// Two 16-bit words of a sum.
#[inline(always)]
fn long([a, b, c, d]: [u8; 4]) -> u32 {
    word([a, b]).wrapping_add(word([c, d]))
}

/// Everything in front of the inner IP header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct OuterHeaders {
    /// Outer Ethernet.
    pub ethernet: EthernetHeader,
    /// Outer IPv4.
    pub ip: Ipv4Header,
    /// Outer UDP, VXLAN and inner Ethernet.
    pub tail: OuterTail,
}

/// Length of [`OuterHeaders`] in bytes: where the inner IP header begins.
pub const INNER_IP_OFFSET: u32 = ENCAP_OVERHEAD + 14;

const _: () = assert!(size_of::<OuterHeaders>() == INNER_IP_OFFSET as usize);

/// What differs from one encapsulation to the next.
#[derive(Clone, Copy, Debug)]
pub struct Encap {
    /// MAC address of the next hop in the underlay.
    pub nexthop_mac: [u8; 6],
    /// MAC address of the uplink.
    pub source_mac: [u8; 6],
    /// Own underlay address.
    pub source: Be32,
    /// Underlay address of the remote VTEP.
    pub destination: Be32,
    /// UDP source port, host byte order.
    pub source_port: u16,
    /// UDP destination port.
    pub port: Be16,
    /// VNI, in the low 24 bits.
    pub vni: u32,
    /// MAC address of the remote VTEP.
    pub remote_vtep_mac: [u8; 6],
    /// MAC address of the own VTEP.
    pub local_vtep_mac: [u8; 6],
    /// Identification of the outer packet, host byte order. Routers may fragment it, for DF is
    /// clear: packets that are under way together need different ones (RFC 6864, section 4).
    pub identification: u16,
    /// TOS byte of the inner packet.
    pub inner_tos: u8,
    /// Length of the inner frame with its Ethernet header, bytes.
    pub frame_len: u32,
}

impl Encap {
    /// The headers: DF clear, TTL 64, no UDP checksum (a GSO packet allows none, and IPv4
    /// receivers take its absence, RFC 7348 section 5).
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an skb is below 64 KiB, or was refused"
    )]
    pub fn headers(&self) -> OuterHeaders {
        let udp_len = (self.frame_len as u16).wrapping_add((UDP_LEN + VXLAN_LEN) as u16);
        let total_len = udp_len.wrapping_add(IPV4_LEN as u16);
        let tos = crate::ecn::encap(self.inner_tos);
        let [_, a, b, c] = self.vni.to_be_bytes();
        let ether_type = EtherType::IPV4.0.to_be_bytes();
        OuterHeaders {
            ethernet: EthernetHeader {
                destination: self.nexthop_mac,
                source: self.source_mac,
                ether_type,
            },
            ip: Ipv4Header {
                version_ihl: Ipv4Header::PLAIN,
                tos,
                total_length: total_len.to_be_bytes(),
                identification: self.identification.to_be_bytes(),
                fragment: [0; 2],
                ttl: OUTER_TTL,
                protocol: IpProtocol::UDP.0,
                check: self.ip_checksum(tos, total_len).to_be_bytes(),
                source: self.source.to_bytes(),
                destination: self.destination.to_bytes(),
            },
            tail: OuterTail {
                udp: UdpHeader {
                    source: self.source_port.to_be_bytes(),
                    destination: self.port.to_bytes(),
                    length: udp_len.to_be_bytes(),
                    check: [0; 2],
                },
                vxlan: VxlanHeader {
                    flags: FLAGS_VNI,
                    vni: [a, b, c],
                    reserved: 0,
                },
                ethernet: EthernetHeader {
                    destination: self.remote_vtep_mac,
                    source: self.local_vtep_mac,
                    ether_type,
                },
            },
        }
    }

    #[inline(always)]
    fn ip_checksum(&self, tos: u8, total_len: u16) -> u16 {
        let (source, destination) = (self.source.to_host(), self.destination.to_host());
        let sum = u32::from(u16::from_be_bytes([Ipv4Header::PLAIN, tos]))
            .wrapping_add(u32::from(total_len))
            .wrapping_add(u32::from(self.identification))
            .wrapping_add(u32::from(u16::from_be_bytes([
                OUTER_TTL,
                IpProtocol::UDP.0,
            ])))
            .wrapping_add(source >> 16)
            .wrapping_add(source & 0xffff)
            .wrapping_add(destination >> 16)
            .wrapping_add(destination & 0xffff);
        !checksum::fold(sum)
    }
}

/// Outer UDP source port of a flow: the kernel's own formula (`udp_flow_src_port`,
/// `include/net/udp.h`, v6.12), so that a flow keeps its port, and with it its queue and
/// its path, when it changes between BPF and kernel.
///
/// `hash` is `skb->hash` of the inner packet; `min` and `max` are the bounds of
/// `net.ipv4.ip_local_port_range`, host byte order.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the product's upper half is below 2^16"
)]
pub const fn source_port(hash: u32, min: u16, max: u16) -> u16 {
    let hash = (hash ^ (hash << 16)) as u64;
    let range = max.saturating_sub(min) as u64;
    min.wrapping_add((hash.wrapping_mul(range) >> 32) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENCAP: Encap = Encap {
        nexthop_mac: [2, 0, 0, 0, 1, 2],
        source_mac: [2, 0, 0, 0, 1, 1],
        source: Be32::from_bytes([192, 0, 2, 1]),
        destination: Be32::from_bytes([192, 0, 2, 2]),
        source_port: 50_000,
        port: Be16::from_host(8472),
        vni: 1,
        remote_vtep_mac: [2, 0, 0, 0, 0, 2],
        local_vtep_mac: [2, 0, 0, 0, 0, 1],
        identification: 0x1234,
        inner_tos: 0xb8,
        frame_len: 98,
    };

    #[test]
    fn lengths_count_from_their_own_header() {
        let headers = ENCAP.headers();
        assert_eq!(headers.tail.udp.length(), 98 + 16);
        assert_eq!(headers.ip.total_length(), 98 + 36);
    }

    #[test]
    fn the_ip_checksum_sums_to_all_ones() {
        for tos in 0..=255 {
            for frame_len in [15, 98, 1464, 65_000] {
                assert_sums_up(Encap {
                    inner_tos: tos,
                    frame_len,
                    ..ENCAP
                });
            }
        }
        for identification in 0..=u16::MAX {
            assert_sums_up(Encap {
                identification,
                ..ENCAP
            });
        }
    }

    fn assert_sums_up(encap: Encap) {
        let ip = encap.headers().ip;
        assert_eq!(ip.identification, encap.identification.to_be_bytes());
        let words = [
            [ip.version_ihl, ip.tos],
            ip.total_length,
            ip.identification,
            ip.fragment,
            [ip.ttl, ip.protocol],
            ip.check,
            [192, 0],
            [2, 1],
            [192, 0],
            [2, 2],
        ];
        let sum = words
            .iter()
            .map(|word| u32::from(u16::from_be_bytes(*word)))
            .sum();
        assert_eq!(checksum::fold(sum), 0xffff);
    }

    #[test]
    fn source_ports_stay_in_the_range() {
        for hash in [0, 1, 0xffff, 0x1_0000, 0x1234_5678, u32::MAX] {
            let port = source_port(hash, 32_768, 60_999);
            assert!((32_768..60_999).contains(&port), "{hash:#x} gave {port}");
        }
        assert_eq!(source_port(u32::MAX, 5, 5), 5);
    }

    /// The headers of a datagram of 64 bytes, whose outer checksum a full sum says.
    fn checksummed(inner: &[u8; 28 + 64]) -> OuterHeaders {
        let mut headers = Encap {
            frame_len: 14 + 92,
            ..ENCAP
        }
        .headers();
        let OuterTail {
            udp,
            vxlan,
            ethernet,
        } = &headers.tail;
        let [a, b, c] = vxlan.vni;
        let parts: [&[u8]; 13] = [
            &headers.ip.source,
            &headers.ip.destination,
            &[0, headers.ip.protocol],
            &udp.length,
            &udp.source,
            &udp.destination,
            &udp.length,
            &vxlan.flags,
            &[a, b, c, vxlan.reserved],
            &ethernet.destination,
            &ethernet.source,
            &ethernet.ether_type,
            inner,
        ];
        let words = parts.into_iter().flat_map(|part| part.chunks_exact(2));
        let total = words.map(|bytes| word(bytes.try_into().unwrap())).sum();
        headers.tail.udp.check = (!checksum::fold(total)).to_be_bytes();
        headers
    }

    /// A datagram with these numbers in its headers and payload, and its IP header.
    fn datagram(seed: u8) -> ([u8; 28 + 64], Ipv4Header) {
        let mut bytes = [seed; 92];
        let ip = [
            0x45, seed, 0, 92, seed, 7, 0x40, 0, 63, 17, 0, 0, 10, 244, 1, seed, 10, 244, 2, 2,
        ];
        let udp = [seed, 1, 0, 53, 0, 72, 0, 0];
        bytes.get_mut(..20).unwrap().copy_from_slice(&ip);
        bytes.get_mut(20..28).unwrap().copy_from_slice(&udp);
        let of = |bytes: &[u8]| -> u32 {
            let words = bytes.chunks_exact(2);
            words.map(|bytes| word(bytes.try_into().unwrap())).sum()
        };
        let check = (!checksum::fold(of(&ip))).to_be_bytes();
        bytes.get_mut(10..12).unwrap().copy_from_slice(&check);
        let (pseudo, segment) = (bytes.get(12..20).unwrap(), bytes.get(20..).unwrap());
        let total = of(pseudo).wrapping_add(17 + 72).wrapping_add(of(segment));
        let udp_check = (!checksum::fold(total)).to_be_bytes();
        bytes.get_mut(26..28).unwrap().copy_from_slice(&udp_check);
        let header = Ipv4Header {
            version_ihl: 0x45,
            tos: seed,
            total_length: [0, 92],
            identification: [seed, 7],
            fragment: [0x40, 0],
            ttl: 63,
            protocol: 17,
            check,
            source: [10, 244, 1, seed],
            destination: [10, 244, 2, 2],
        };
        (bytes, header)
    }

    #[test]
    fn an_outer_checksum_is_known_by_the_headers_alone() {
        for seed in 0..=u8::MAX {
            let (bytes, inner) = datagram(seed);
            let OuterHeaders { ip, tail, .. } = checksummed(&bytes);
            assert!(tail.is_checksum_right(&ip, &inner), "seed {seed}");
            let wrong = |change: fn(&mut OuterTail, &mut Ipv4Header)| {
                let (mut tail, mut inner) = (tail, inner);
                change(&mut tail, &mut inner);
                assert!(!tail.is_checksum_right(&ip, &inner), "seed {seed}");
            };
            wrong(|tail, _| tail.udp.check[0] ^= 4);
            wrong(|tail, _| tail.udp.source[1] ^= 1);
            wrong(|tail, _| tail.vxlan.reserved ^= 1);
            wrong(|tail, _| tail.ethernet.source[3] ^= 0x80);
            wrong(|_, inner| inner.ttl ^= 8);
            wrong(|_, inner| inner.check[0] ^= 1);
        }
    }
}
