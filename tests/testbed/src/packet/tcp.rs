//! TCP headers.

/// A TCP header without options.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tcp {
    /// Source port, host order.
    pub source_port: u16,
    /// Destination port, host order.
    pub destination_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledged sequence number.
    pub acknowledged: u32,
    /// Flags, `Tcp::FIN` and so on.
    pub flags: u8,
    /// Receive window.
    pub window: u16,
}

impl Tcp {
    /// Length of the header, bytes.
    pub const LENGTH: usize = 20;
    /// The sender has no more to send.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Resets a connection.
    pub const RST: u8 = 0x04;
    /// Hand the data on.
    pub const PSH: u8 = 0x08;
    /// `acknowledged` counts.
    pub const ACK: u8 = 0x10;

    /// A segment in the middle of a connection.
    pub const fn new(source_port: u16, destination_port: u16) -> Self {
        Self {
            source_port,
            destination_port,
            sequence: 0x0102_0304,
            acknowledged: 0x0506_0708,
            flags: Self::ACK | Self::PSH,
            window: 502,
        }
    }

    pub(super) fn over(&self, payload: &[u8], checksum: impl Fn(&[u8]) -> u16) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::LENGTH + payload.len());
        bytes.extend(self.source_port.to_be_bytes());
        bytes.extend(self.destination_port.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledged.to_be_bytes());
        bytes.extend([0x50, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        let checksum = checksum(&bytes);
        bytes.splice(16..18, checksum.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_in_its_place() {
        let bytes = Tcp::new(0x0a0b, 0x0c0d).over(b"x", |_| 0xbeef);
        assert_eq!(
            bytes,
            [
                0x0a, 0x0b, 0x0c, 0x0d, 1, 2, 3, 4, 5, 6, 7, 8, 0x50, 0x18, 0x01, 0xf6, 0xbe, 0xef,
                0, 0, b'x'
            ]
        );
    }
}
