//! VTEPs and the numbers that name them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A VXLAN network identifier: 24 bits (RFC 7348, section 5).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Vni(u32);

/// A VNI that does not fit 24 bits.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("VNI {0} is larger than 16777215, the largest that 24 bits hold")]
pub struct VniTooLarge(pub u64);

impl Vni {
    /// The largest VNI.
    pub const MAX: u32 = (1 << 24) - 1;

    /// A VNI, if `raw` fits 24 bits.
    pub fn new(raw: u64) -> Result<Self, VniTooLarge> {
        match u32::try_from(raw) {
            Ok(value) if value <= Self::MAX => Ok(Self(value)),
            _ => Err(VniTooLarge(raw)),
        }
    }

    /// The number, in the low 24 bits.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A MAC address, in the order of the wire.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct MacAddr(pub [u8; 6]);

/// Text that is no MAC address.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("MAC address {0:?}: write six hexadecimal bytes with colons, as 02:00:5e:10:00:01")]
pub struct ParseMacError(pub String);

impl MacAddr {
    /// Whether one device may own it: neither multicast nor zero.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

impl FromStr for MacAddr {
    type Err = ParseMacError;

    /// As Go's `net.ParseMAC` reads six bytes: `02:00:5e:10:00:01`, `02-00-5e-10-00-01`,
    /// `0200.5e10.0001`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseMacError(text.to_owned());
        let (separator, digits) = match *text.as_bytes() {
            [_, _, b':', ..] => (':', 2),
            [_, _, b'-', ..] => ('-', 2),
            [_, _, _, _, b'.', ..] => ('.', 4),
            _ => return Err(error()),
        };
        let mut bytes = Vec::with_capacity(6);
        for part in text.split(separator) {
            if part.len() != digits || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(error());
            }
            for byte in part.as_bytes().chunks(2) {
                let byte = std::str::from_utf8(byte).ok();
                let byte = byte.and_then(|byte| u8::from_str_radix(byte, 16).ok());
                bytes.push(byte.ok_or_else(error)?);
            }
        }
        bytes.try_into().ok().map(Self).ok_or_else(error)
    }
}

impl Serialize for MacAddr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The tunnel end point of another node.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RemoteVtep {
    /// Outer destination of what we send, outer source of what it sends.
    pub underlay: IpAddr,
    /// MAC address of its vxlan device: inner Ethernet destination.
    pub mac: MacAddr,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_is_read_as_go_reads_it() {
        for (text, right) in [
            ("02:00:5e:10:00:0a", true),
            ("02:00:5E:10:00:0A", true),
            ("02-00-5e-10-00-0a", true),
            ("0200.5e10.000a", true),
            ("02:00-5e:10:00:0a", false),
            ("02-00:5e-10-00-0a", false),
            ("0200.5e10:000a", false),
            ("200.5e10.000a", false),
            ("2:0:5e:10:0:a", false),
            ("02:00:5e:10:00", false),
            ("02:00:5e:10:00:0a:0b:0c", false),
            ("02:00:5e:10:00:0a:", false),
            ("0200.5e10", false),
            (" 02:00:5e:10:00:0a", false),
            ("+2:00:5e:10:00:0a", false),
            ("äa:00:5e:10:00:0a", false),
            ("", false),
        ] {
            let expected = right.then_some(MacAddr([2, 0, 0x5e, 0x10, 0, 0x0a]));
            assert_eq!(text.parse().ok(), expected, "{text:?}");
        }
    }
}
