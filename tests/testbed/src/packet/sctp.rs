//! SCTP, as far as a packet that opens an association (RFC 9260).

use std::net::Ipv4Addr;

use super::Ipv4;

const PROTOCOL_SCTP: u8 = 132;

/// An IPv4 packet with an INIT chunk, its checksum right.
pub fn sctp_init(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    source_port: u16,
    destination_port: u16,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source_port.to_be_bytes());
    bytes.extend(destination_port.to_be_bytes());
    // The verification tag of an INIT is 0; then the checksum's place.
    bytes.extend([0; 8]);
    // Type INIT, no flags, length.
    bytes.extend([1, 0, 0, 20]);
    // Initiate tag, receiver window, ten streams each way, first sequence number.
    bytes.extend([0, 0, 0, 1, 0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1]);
    let checksum = crc32c(&bytes);
    bytes.splice(8..12, checksum.to_le_bytes());
    let header = Ipv4 {
        protocol: PROTOCOL_SCTP,
        ..Ipv4::new(source, destination)
    };
    header.over(&bytes)
}

/// CRC-32C (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            let polynomial = if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            crc >> 1 ^ polynomial
        })
    });
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_known_text() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
