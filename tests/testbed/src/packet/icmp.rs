//! ICMP messages.

use super::internet_checksum;

/// The first eight bytes of an ICMP message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// What the type makes of it: of an echo, identifier and sequence number.
    pub rest: [u8; 4],
}

impl Icmp {
    /// An echo request.
    pub const fn echo_request(identifier: u16, sequence: u16) -> Self {
        let [a, b] = identifier.to_be_bytes();
        let [c, d] = sequence.to_be_bytes();
        Self {
            kind: 8,
            code: 0,
            rest: [a, b, c, d],
        }
    }

    pub(super) fn over(self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![self.kind, self.code, 0, 0];
        bytes.extend(self.rest);
        bytes.extend(payload);
        let checksum = internet_checksum(&bytes);
        bytes.splice(2..4, checksum.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_sums_to_zero() {
        let bytes = Icmp::echo_request(7, 1).over(b"payload");
        assert_eq!(bytes[..2], [8, 0]);
        assert_eq!(bytes[4..8], [0, 7, 0, 1]);
        assert_eq!(internet_checksum(&bytes), 0);
    }
}
