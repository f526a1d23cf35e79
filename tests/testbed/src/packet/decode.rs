//! Packets in words, for people who read a failing test.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::{ETHER_TYPE_IPV4, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, internet_checksum};

/// UDP destination ports that are shown as VXLAN: IANA's, and the older one of Linux.
const VXLAN_PORTS: [u16; 2] = [4789, 8472];
/// How much of a payload is shown, 16 bytes in a line.
const SHOWN_PAYLOAD: usize = 64;

/// The packet's layers, one line each, then its payload in hexadecimal. Never fails: what
/// it cannot read is payload.
pub fn decode(frame: &[u8]) -> Vec<String> {
    let mut lines = vec![format!("{} bytes", frame.len())];
    ethernet(frame, &mut lines);
    lines
}

fn ethernet(bytes: &[u8], lines: &mut Vec<String>) {
    let Some((header, payload)) = bytes.split_at_checked(14) else {
        return hexadecimal(bytes, lines);
    };
    let ether_type = be16(header, 12);
    let (destination, source) = (mac(&header[0..6]), mac(&header[6..12]));
    lines.push(format!("eth {source} > {destination} {ether_type:04x}"));
    if ether_type == ETHER_TYPE_IPV4 {
        ipv4(payload, lines);
    } else {
        hexadecimal(payload, lines);
    }
}

fn ipv4(bytes: &[u8], lines: &mut Vec<String>) {
    let Some((&first, _)) = bytes.split_first() else {
        return;
    };
    let header_length = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || header_length < 20 || bytes.len() < header_length {
        return hexadecimal(bytes, lines);
    }
    let (header, payload) = bytes.split_at(header_length);
    let (source, destination) = (address(&header[12..16]), address(&header[16..20]));
    lines.push(format!("ip4 {source} > {destination}"));
    lines.push(format!(
        "    tos {:02x} len {} id {:04x} frag {:04x} ttl {} proto {} sum {:04x} {}",
        header[1],
        be16(header, 2),
        be16(header, 4),
        be16(header, 6),
        header[8],
        header[9],
        be16(header, 10),
        right_or_wrong(internet_checksum(header) == 0),
    ));
    if header_length > 20 {
        lines.push(format!("    options {:02x?}", &header[20..]));
    }
    // Only the first fragment, offset 0 in the lower 13 bits, has the transport header.
    let first_fragment = be16(header, 6).trailing_zeros() >= 13;
    match header[9] {
        PROTOCOL_UDP if first_fragment && payload.len() >= 8 => udp(payload, lines),
        PROTOCOL_TCP if first_fragment && payload.len() >= 20 => tcp(payload, lines),
        PROTOCOL_ICMP if first_fragment && payload.len() >= 8 => {
            lines.push(format!("icm type {} code {}", payload[0], payload[1]));
            hexadecimal(&payload[4..], lines);
        }
        _ => hexadecimal(payload, lines),
    }
}

fn udp(bytes: &[u8], lines: &mut Vec<String>) {
    let (source, destination) = (be16(bytes, 0), be16(bytes, 2));
    let (length, sum) = (be16(bytes, 4), be16(bytes, 6));
    lines.push(format!(
        "udp {source} > {destination} len {length} sum {sum:04x}"
    ));
    match bytes[8..].split_at_checked(8) {
        Some((header, inner)) if VXLAN_PORTS.contains(&destination) => {
            let (flags, vni) = (&header[..4], &header[4..]);
            lines.push(format!("vxl flags {flags:02x?} vni {vni:02x?}"));
            ethernet(inner, lines);
        }
        _ => hexadecimal(&bytes[8..], lines),
    }
}

fn tcp(bytes: &[u8], lines: &mut Vec<String>) {
    let (source, destination) = (be16(bytes, 0), be16(bytes, 2));
    let (flags, sum) = (bytes[13], be16(bytes, 16));
    lines.push(format!(
        "tcp {source} > {destination} flags {flags:02x} sum {sum:04x}"
    ));
    hexadecimal(&bytes[20..], lines);
}

fn hexadecimal(bytes: &[u8], lines: &mut Vec<String>) {
    for row in bytes.chunks(16).take(SHOWN_PAYLOAD / 16) {
        lines.push(format!("    {}", row_of(row)));
    }
    if let Some(rest) = bytes.get(SHOWN_PAYLOAD..).filter(|rest| !rest.is_empty()) {
        let sum = internet_checksum(rest);
        lines.push(format!("    and {} bytes, sum {sum:04x}", rest.len()));
    }
}

fn row_of(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut row, byte| {
        write!(row, "{byte:02x}").expect("a string takes everything");
        row
    })
}

fn right_or_wrong(right: bool) -> &'static str {
    if right { "(right)" } else { "(WRONG)" }
}

fn be16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([bytes[offset], bytes[offset + 1]])
}

fn mac(bytes: &[u8]) -> String {
    let parts: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}

fn address(bytes: &[u8]) -> Ipv4Addr {
    Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])
}

#[cfg(test)]
mod tests {
    use super::super::{Ethernet, Ipv4, Udp, Vxlan};
    use super::*;

    fn vxlan_frame() -> Vec<u8> {
        let ip = Ipv4::new(Ipv4Addr::new(10, 244, 1, 2), Ipv4Addr::new(10, 244, 2, 2));
        let inner = Ethernet::ipv4([1; 6], [2; 6]).over(&ip.udp(&Udp::new(1, 2), b"hello"));
        let outer = Ipv4::new(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        let udp = outer.udp(
            &Udp::without_checksum(40_000, 8472),
            &Vxlan::new(1).over(&inner),
        );
        Ethernet::ipv4([3; 6], [4; 6]).over(&udp)
    }

    #[test]
    fn every_layer_has_its_line() {
        let lines = decode(&vxlan_frame());
        let heads: Vec<&str> = lines.iter().map(|line| line.split_at(3).0).collect();
        assert_eq!(
            heads,
            [
                "97 ", "eth", "ip4", "   ", "udp", "vxl", "eth", "ip4", "   ", "udp", "   "
            ]
        );
        assert_eq!(lines[2], "ip4 192.0.2.1 > 192.0.2.2");
        assert_eq!(lines[7], "ip4 10.244.1.2 > 10.244.2.2");
        assert!(lines[3].ends_with("(right)"), "{}", lines[3]);
    }

    #[test]
    fn no_prefix_and_no_flipped_byte_is_too_much() {
        let frame = vxlan_frame();
        for length in 0..frame.len() {
            assert!(!decode(&frame[..length]).is_empty());
        }
        for place in 0..frame.len() {
            let mut frame = frame.clone();
            frame[place] ^= 0xff;
            assert!(!decode(&frame).is_empty());
        }
    }
}
