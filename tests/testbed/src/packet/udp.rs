//! UDP headers.

/// A UDP header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Udp {
    /// Source port, host order.
    pub source_port: u16,
    /// Destination port, host order.
    pub destination_port: u16,
    /// Length of header and payload in bytes, if it lies.
    pub length: Option<u16>,
    /// Checksum, if it is not the right one; 0: none was computed.
    pub checksum: Option<u16>,
}

impl Udp {
    /// Length of the header, bytes.
    pub const LENGTH: usize = 8;

    /// A header with a checksum.
    pub const fn new(source_port: u16, destination_port: u16) -> Self {
        Self {
            source_port,
            destination_port,
            length: None,
            checksum: None,
        }
    }

    /// A header without a checksum, as VXLAN over IPv4 has it.
    pub const fn without_checksum(source_port: u16, destination_port: u16) -> Self {
        Self {
            checksum: Some(0),
            ..Self::new(source_port, destination_port)
        }
    }

    pub(super) fn over(&self, payload: &[u8], checksum: impl Fn(&[u8]) -> u16) -> Vec<u8> {
        let length = self.length.unwrap_or_else(|| {
            u16::try_from(Self::LENGTH + payload.len()).expect("fits an IPv4 packet")
        });
        let mut bytes = Vec::with_capacity(Self::LENGTH + payload.len());
        bytes.extend(self.source_port.to_be_bytes());
        bytes.extend(self.destination_port.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(payload);
        // On the wire 0 means "none", so a sum of 0 is sent as its other form (RFC 768).
        let checksum = self.checksum.unwrap_or_else(|| match checksum(&bytes) {
            0 => 0xffff,
            sum => sum,
        });
        bytes.splice(6..8, checksum.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_counts_the_header() {
        let bytes = Udp::without_checksum(1, 2).over(b"abc", |_| 0x1234);
        assert_eq!(bytes, [0, 1, 0, 2, 0, 11, 0, 0, b'a', b'b', b'c']);
    }

    #[test]
    fn a_zero_sum_is_sent_as_ones() {
        assert_eq!(Udp::new(1, 2).over(&[], |_| 0)[6..], [0xff, 0xff]);
    }
}
