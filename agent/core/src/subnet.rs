//! The overlay prefix of one node.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnetwork::{IpNetwork, Ipv4Network};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A prefix with its host bits zero.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Subnet(IpNetwork);

/// Text that is no subnet.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("subnet {text:?}: {why}")]
pub struct ParseSubnetError {
    /// The text.
    pub text: String,
    /// What is wrong and what would be right.
    pub why: String,
}

impl ParseSubnetError {
    fn new(text: &str, why: impl Into<String>) -> Self {
        // The text may be of any length, and an error should be read by people.
        Self {
            text: text.chars().take(64).collect(),
            why: why.into(),
        }
    }
}

impl Subnet {
    /// The prefix that `network` lies in: host bits are masked off, as Go's `net.ParseCIDR` does.
    pub fn containing(network: IpNetwork) -> Self {
        // A prefix length that `IpNetwork` holds is valid for its own network address.
        Self(IpNetwork::new(network.network(), network.prefix()).unwrap_or(network))
    }

    /// Parses an IPv4 prefix as Go's `net.ParseCIDR` does: host bits are masked off, leading
    /// zeros in an octet are an error, a netmask instead of a length too.
    pub fn parse_masking(text: &str) -> Result<Self, ParseSubnetError> {
        let network = text
            .split_once('/')
            .and_then(|(address, len)| parse_ipv4(address, len))
            .ok_or_else(|| {
                ParseSubnetError::new(text, "is no IPv4 prefix; write it as 10.244.1.0/24")
            })?;
        Ok(Self::containing(network))
    }

    /// The key of a lease in flannel's store, `10.244.1.0-24`. For an IPv6 subnet this is
    /// the part that flannel puts after the `&` of a dual stack key.
    pub fn to_key(self) -> String {
        format!("{}-{}", self.network(), self.prefix())
    }

    /// Parses the key of an IPv4 lease, exactly as [`Subnet::to_key`] writes it. Flannel's
    /// own expression is not anchored and takes more (`pkg/subnet/subnet.go`); nobody
    /// writes that.
    pub fn from_key(text: &str) -> Result<Self, ParseSubnetError> {
        text.split_once('-')
            .and_then(|(address, len)| parse_ipv4(address, len))
            .map(Self)
            // Flannel reads five bits of prefix length, and host bits have no place here.
            .filter(|subnet| subnet.prefix() < 32 && subnet.to_key() == text)
            .ok_or_else(|| {
                ParseSubnetError::new(text, "is no lease key; write it as 10.244.1.0-24")
            })
    }

    /// The first address, all host bits zero: the overlay address of the node behind it.
    pub fn network(self) -> IpAddr {
        self.0.network()
    }

    /// Prefix length in bits.
    pub fn prefix(self) -> u8 {
        self.0.prefix()
    }

    /// As the general type.
    pub fn as_ip_network(self) -> IpNetwork {
        self.0
    }

    /// Whether the address lies in this subnet.
    pub fn contains(self, address: IpAddr) -> bool {
        self.0.contains(address)
    }

    /// Whether all of `other` lies in this subnet.
    pub fn covers(self, other: Self) -> bool {
        self.prefix() <= other.prefix() && self.contains(other.network())
    }

    /// Whether the two share an address.
    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Subnet {
    type Err = ParseSubnetError;

    /// Parses `10.244.1.0/24`. Host bits that are not zero are an error: whoever writes
    /// them means something else than we would do.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |why: String| ParseSubnetError::new(text, why);
        if !text.contains('/') {
            return Err(error(
                "has no prefix length; write it as 10.244.1.0/24".to_owned(),
            ));
        }
        let network: IpNetwork = text
            .parse()
            .map_err(|e| error(format!("{e}; write it as 10.244.1.0/24")))?;
        if network.ip() != network.network() {
            let right = Self::containing(network);
            return Err(error(format!(
                "has host bits set; the subnet would be {right}"
            )));
        }
        Ok(Self(network))
    }
}

fn parse_ipv4(address: &str, len: &str) -> Option<IpNetwork> {
    let address: Ipv4Addr = address.parse().ok()?;
    if !len.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Ipv4Network::new(address, len.parse().ok()?)
        .ok()
        .map(IpNetwork::V4)
}

impl Serialize for Subnet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_written_as_they_are_read() {
        for (subnet, key) in [
            ("10.5.52.0/24", "10.5.52.0-24"),
            ("10.12.13.128/30", "10.12.13.128-30"),
            ("10.0.0.2/31", "10.0.0.2-31"),
        ] {
            let subnet: Subnet = subnet.parse().unwrap();
            assert_eq!(subnet.to_key(), key);
            assert_eq!(Subnet::from_key(key), Ok(subnet));
        }
        assert_eq!(
            "fd00:12:13::/56".parse::<Subnet>().unwrap().to_key(),
            "fd00:12:13::-56"
        );
    }

    #[test]
    fn other_keys_are_refused() {
        for key in [
            // Flannel's own list (`TestSubnetNodeInvalid`).
            "10",
            "10.12.13.0",
            "10.12.13-24",
            "10.12.13.300-24",
            "10.12.13.0-24hi",
            "&2001::-56",
            "10.12.13.0-24&:12:13:-56",
            "10.12.13.0-24&20011::-56",
            "10.12.13.0-24&2001-56",
            "10.12.13.0-24&2001::",
            "10.12.13.0-24&2001::-56hi",
            // And ours.
            "",
            "-",
            "10.12.13.0-",
            "10.12.13.0-024",
            "10.12.13.0-+24",
            "10.12.13.0-24 ",
            " 10.12.13.0-24",
            "x10.12.13.0-24",
            "010.12.13.0-24",
            "10.12.13.1-24",
            "10.12.13.0-32",
            "10.12.13.0-33",
            "10.12.13.0-256",
            "10.12.13.0/24",
            "10.12.13.0-24-24",
            "10.12.13.0-24&fd00:12:13::-56",
            "fd00:12:13::-56",
        ] {
            let error = Subnet::from_key(key).unwrap_err();
            assert_eq!(
                (error.text.as_str(), error.why.contains("10.244.1.0-24")),
                (key, true)
            );
        }
    }

    #[test]
    fn go_cidrs_are_masked() {
        for (text, expected) in [
            ("10.3.4.5/16", Some("10.3.0.0/16")),
            ("10.3.4.5/32", Some("10.3.4.5/32")),
            ("10.3.4.5/0", Some("0.0.0.0/0")),
            ("10.3.4.5", None),
            ("10.3.4.5/", None),
            ("10.3.4.5/33", None),
            ("10.3.4.5/+8", None),
            ("10.3.4.5/255.255.0.0", None),
            ("10.03.4.5/16", None),
            ("10.3.4.5/16 ", None),
            ("fc00::/48", None),
            ("::ffff:10.3.0.0/112", None),
        ] {
            let subnet = Subnet::parse_masking(text)
                .ok()
                .map(|subnet| subnet.to_string());
            assert_eq!(subnet.as_deref(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(text in "\\PC*|[0-9./&:a-f-]{0,24}") {
            if let Ok(subnet) = Subnet::from_key(&text) {
                prop_assert_eq!(subnet.to_key(), text);
            } else if let Ok(subnet) = Subnet::parse_masking(&text) {
                prop_assert_eq!(subnet.to_string().parse(), Ok(subnet));
            }
        }

        #[test]
        fn every_key_is_read_back(bits: u32, len in 0_u8..32) {
            let subnet = Subnet::containing(IpNetwork::new(Ipv4Addr::from(bits).into(), len).unwrap());
            prop_assert_eq!(Subnet::from_key(&subnet.to_key()), Ok(subnet));
        }
    }
}
