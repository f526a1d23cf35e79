//! The overlay prefix of one node.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;
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

impl Subnet {
    /// The prefix that `network` lies in: host bits are masked off, as Go's `net.ParseCIDR` does.
    pub fn containing(network: IpNetwork) -> Self {
        // A prefix length that `IpNetwork` holds is valid for its own network address.
        Self(IpNetwork::new(network.network(), network.prefix()).unwrap_or(network))
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
        let error = |why: String| ParseSubnetError {
            text: text.to_owned(),
            why,
        };
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
