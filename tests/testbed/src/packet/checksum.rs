//! The Internet checksum (RFC 1071), in its slow and obvious form.

use std::net::Ipv4Addr;

/// Ones' complement of the ones' complement sum of all 16-bit words, an odd last byte
/// padded with zero.
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u64 = 0;
    for word in bytes.chunks(2) {
        sum += match *word {
            [high, low] => u64::from(u16::from_be_bytes([high, low])),
            [high] => u64::from(high) << 8,
            _ => unreachable!("chunks of two"),
        };
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

/// Checksum of a TCP or UDP segment behind the pseudo-header of RFC 793, 3.1.
pub(super) fn transport_checksum(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    segment: &[u8],
) -> u16 {
    let length = u16::try_from(segment.len()).expect("a segment fits an IPv4 packet");
    let mut bytes = Vec::with_capacity(12 + segment.len());
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend([0, protocol]);
    bytes.extend(length.to_be_bytes());
    bytes.extend(segment);
    internet_checksum(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let words = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(internet_checksum(&words), !0xddf2);
    }

    #[test]
    fn an_odd_byte_is_padded() {
        assert_eq!(
            internet_checksum(&[0x12, 0x34, 0x56]),
            internet_checksum(&[0x12, 0x34, 0x56, 0x00])
        );
    }

    #[test]
    fn a_header_with_its_checksum_sums_to_zero() {
        // A captured header: 192.168.0.1 to 192.168.0.199, UDP, as on many a web page.
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8,
            0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(internet_checksum(&header), 0);
    }
}
