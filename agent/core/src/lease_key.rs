//! Keys of leases in flannel's etcd: `10.244.1.0-24`, and `10.244.1.0-24&fd00:10:244:1::-64`
//! where a node has both families (flannel 0.28.9, `pkg/subnet/subnet.go`).

use std::fmt;
use std::net::Ipv6Addr;

use ipnetwork::{IpNetwork, Ipv6Network};

use crate::subnet::{ParseSubnetError, Subnet};

/// The key of a lease.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LeaseKey {
    /// The IPv4 subnet.
    pub ipv4: Subnet,
    /// The IPv6 subnet of a node with both.
    pub ipv6: Option<Subnet>,
}

impl LeaseKey {
    /// The key of a lease with IPv4 alone.
    pub fn ipv4(subnet: Subnet) -> Self {
        Self {
            ipv4: subnet,
            ipv6: None,
        }
    }

    /// Reads a key. Flannel's expression is not anchored and lets any character stand for two
    /// of the dots; nobody writes that, and it is no key here.
    pub fn parse(text: &str) -> Result<Self, ParseSubnetError> {
        let Some((ipv4, ipv6)) = text.split_once('&') else {
            return Subnet::from_key(text).map(Self::ipv4);
        };
        let ipv4 = Subnet::from_key(ipv4)?;
        let ipv6 = parse_ipv6(ipv6).ok_or_else(|| ParseSubnetError {
            text: text.chars().take(64).collect(),
            why: "is no lease key; write it as 10.244.1.0-24&fd00:10:244:1::-64".to_owned(),
        })?;
        Ok(Self {
            ipv4,
            ipv6: Some(ipv6),
        })
    }
}

impl fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.ipv4.to_key())?;
        match self.ipv6 {
            Some(ipv6) => write!(f, "&{}", ipv6.to_key()),
            None => Ok(()),
        }
    }
}

fn parse_ipv6(text: &str) -> Option<Subnet> {
    let (address, len) = text.split_once('-')?;
    let plain = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f' | b':');
    if !address.bytes().all(plain) || !len.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let address: Ipv6Addr = address.parse().ok()?;
    // Flannel reads seven bits of prefix length.
    let len = len.parse().ok().filter(|len: &u8| *len < 128)?;
    let network = Ipv6Network::new(address, len).ok()?;
    Some(Subnet::containing(IpNetwork::V6(network)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_forms_are_read_and_written() {
        for key in [
            "10.5.52.0-24",
            "10.5.52.0-24&fd00:12:13::-56",
            "10.12.13.128-30&2001:db8::-127",
        ] {
            assert_eq!(LeaseKey::parse(key).unwrap().to_string(), key);
        }
        let key = LeaseKey::parse("10.5.52.0-24&fd00:12:13::-56").unwrap();
        assert_eq!(key.ipv4.to_string(), "10.5.52.0/24");
        assert_eq!(key.ipv6.unwrap().to_string(), "fd00:12:13::/56");
    }

    #[test]
    fn other_keys_are_refused() {
        for key in [
            "",
            "config",
            "10.12.13.0",
            "10.12.13.300-24",
            "10.12.13.0-24hi",
            "&2001::-56",
            "10.12.13.0-24&",
            "10.12.13.0-24&:12:13:-56",
            "10.12.13.0-24&20011::-56",
            "10.12.13.0-24&2001-56",
            "10.12.13.0-24&2001::",
            "10.12.13.0-24&2001::-56hi",
            "10.12.13.0-24&2001::-128",
            "10.12.13.0-24&2001::-+56",
            "10.12.13.0-24&::ffff:10.0.0.0-104",
            "10.12.13.0-24&2001::-56&2002::-56",
        ] {
            assert!(LeaseKey::parse(key).is_err(), "{key} was taken");
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(text in "\\PC*|[0-9./&:a-f-]{0,40}") {
            if let Ok(key) = LeaseKey::parse(&text) {
                prop_assert_eq!(LeaseKey::parse(&key.to_string()), Ok(key));
            }
        }
    }
}
