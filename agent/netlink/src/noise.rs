//! What the kernel sends, for the fuzz targets.

use super::message::{attribute, split};

/// A datagram of netlink: its messages, what an error says, and the typed message.
pub fn datagram(bytes: &[u8]) {
    let mut read = 0;
    for message in split(bytes).flatten() {
        read += message.payload.len();
        drop(message.end());
        drop(message.decode());
        for kind in [0, 1, u16::MAX] {
            if let Some(value) = attribute(message.payload, kind) {
                assert!(value.len() < message.payload.len());
            }
        }
    }
    assert!(read <= bytes.len());
}
