//! `subnet.env` as the plugin reads it: not as the daemon does, but line by line, without quotes
//! and comments (`loadFlannelSubnetEnv` in flannel's plugin, v1.9.1-flannel3).

use std::path::Path;
use std::{fs, io};

use ipnetwork::{IpNetwork, IpNetworkError};
use thiserror::Error;

/// A file of more bytes than this is not the daemon's.
const LONGEST: u64 = 1 << 20;

/// What the daemon says about the node's subnet.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct SubnetEnv {
    /// The overlay's IPv4 prefixes, each once, in the file's order.
    pub(crate) networks: Vec<IpNetwork>,
    /// The overlay's IPv6 prefixes.
    pub(crate) networks_v6: Vec<IpNetwork>,
    /// The node's own IPv4 prefix.
    pub(crate) subnet: Option<IpNetwork>,
    /// The node's own IPv6 prefix.
    pub(crate) subnet_v6: Option<IpNetwork>,
    /// MTU of pods in bytes.
    pub(crate) mtu: u32,
    /// Whether the daemon masquerades, so that the delegate must not.
    pub(crate) ip_masq: bool,
}

/// Why a file says nothing about the subnet.
#[derive(Debug, Error)]
pub(crate) enum SubnetEnvError {
    /// It cannot be read. The words are Go's, which people look for.
    #[error("open {file}: {}", no_such_file(source))]
    Open {
        /// Its path.
        file: String,
        /// Why not.
        source: io::Error,
    },
    /// A line has a key of ours and no value.
    #[error("{key} has no value: it would be as {key}=…")]
    NoValue {
        /// The key.
        key: &'static str,
    },
    /// A prefix is none.
    #[error("{key} is {value:?}, which is no {family} prefix as {example}")]
    Prefix {
        /// The key.
        key: &'static str,
        /// What it is.
        value: String,
        /// What it should be.
        family: &'static str,
        /// One.
        example: &'static str,
    },
    /// The MTU is none.
    #[error("FLANNEL_MTU is {0:?}, not a number of bytes")]
    Mtu(String),
    /// Keys are missing.
    #[error("{file} is missing {}", keys.join(", "))]
    Missing {
        /// The file.
        file: String,
        /// What is not there.
        keys: Vec<&'static str>,
    },
}

impl SubnetEnv {
    /// Reads a file.
    pub(crate) fn load(file: &Path) -> Result<Self, SubnetEnvError> {
        let name = file.display().to_string();
        let open = |source| SubnetEnvError::Open {
            file: name.clone(),
            source,
        };
        let length = fs::metadata(file).map_err(open)?.len();
        if length > LONGEST {
            return Err(open(io::Error::other(format!(
                "it has {length} bytes; the daemon writes some hundred"
            ))));
        }
        Self::parse(&name, &fs::read_to_string(file).map_err(open)?)
    }

    fn parse(file: &str, text: &str) -> Result<Self, SubnetEnvError> {
        let mut env = Self::default();
        let (mut mtu, mut ip_masq) = (None, None);
        for line in text.lines() {
            let (key, value) = match line.split_once('=') {
                Some((key, value)) => (key, Some(value.trim_end())),
                None => (line, None),
            };
            let of = |key| value.ok_or(SubnetEnvError::NoValue { key });
            match key {
                "FLANNEL_NETWORK" => env.networks = list(&V4_NETWORK, of(V4_NETWORK.name)?)?,
                "FLANNEL_IPV6_NETWORK" => {
                    env.networks_v6 = list(&V6_NETWORK, of(V6_NETWORK.name)?)?;
                }
                "FLANNEL_SUBNET" => env.subnet = Some(prefix(&V4_SUBNET, of(V4_SUBNET.name)?)?),
                "FLANNEL_IPV6_SUBNET" => {
                    env.subnet_v6 = Some(prefix(&V6_SUBNET, of(V6_SUBNET.name)?)?);
                }
                "FLANNEL_MTU" => {
                    let text = of("FLANNEL_MTU")?;
                    let number = text.parse::<u32>();
                    mtu =
                        Some(number.map_err(|_not_a_number| SubnetEnvError::Mtu(text.to_owned()))?);
                }
                "FLANNEL_IPMASQ" => ip_masq = Some(of("FLANNEL_IPMASQ")? == "true"),
                _ => {}
            }
        }
        let networks = env.networks.is_empty() && env.networks_v6.is_empty();
        let subnets = env.subnet.is_none() && env.subnet_v6.is_none();
        let missing: Vec<_> = [
            ("FLANNEL_NETWORK", networks),
            ("FLANNEL_IPV6_NETWORK", networks),
            ("FLANNEL_SUBNET", subnets),
            ("FLANNEL_IPV6_SUBNET", subnets),
            ("FLANNEL_MTU", mtu.is_none()),
            ("FLANNEL_IPMASQ", ip_masq.is_none()),
        ]
        .iter()
        .filter_map(|(key, missing)| missing.then_some(*key))
        .collect();
        let (Some(mtu), Some(ip_masq), true) = (mtu, ip_masq, missing.is_empty()) else {
            return Err(SubnetEnvError::Missing {
                file: file.to_owned(),
                keys: missing,
            });
        };
        Ok(Self {
            mtu,
            ip_masq,
            ..env
        })
    }
}

/// A key whose value is a prefix.
struct Key {
    name: &'static str,
    v4: bool,
    example: &'static str,
}

const V4_NETWORK: Key = Key {
    name: "FLANNEL_NETWORK",
    v4: true,
    example: "10.244.0.0/16",
};
const V6_NETWORK: Key = Key {
    name: "FLANNEL_IPV6_NETWORK",
    v4: false,
    example: "fd00:10:244::/56",
};
const V4_SUBNET: Key = Key {
    name: "FLANNEL_SUBNET",
    v4: true,
    example: "10.244.1.1/24",
};
const V6_SUBNET: Key = Key {
    name: "FLANNEL_IPV6_SUBNET",
    v4: false,
    example: "fd00:10:244:1::1/64",
};

/// Prefixes between commas, each once.
fn list(key: &Key, value: &str) -> Result<Vec<IpNetwork>, SubnetEnvError> {
    let mut found = Vec::new();
    for item in value.split(',') {
        let network = prefix(key, item)?;
        if !found.contains(&network) {
            found.push(network);
        }
    }
    Ok(found)
}

/// A prefix of the key's family, its host bits masked.
fn prefix(key: &Key, value: &str) -> Result<IpNetwork, SubnetEnvError> {
    let parse = || -> Result<IpNetwork, IpNetworkError> {
        let network: IpNetwork = value.parse()?;
        IpNetwork::new(network.network(), network.prefix())
    };
    match parse() {
        Ok(network) if value.contains('/') && network.is_ipv4() == key.v4 => Ok(network),
        Ok(_) | Err(_) => Err(SubnetEnvError::Prefix {
            key: key.name,
            value: value.to_owned(),
            family: if key.v4 { "IPv4" } else { "IPv6" },
            example: key.example,
        }),
    }
}

/// Go's words for a file that is not there, which tools look for in logs.
fn no_such_file(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound {
        "no such file or directory".to_owned()
    } else {
        error.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DUAL: &str = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n\
        FLANNEL_IPV6_NETWORK=fd00:10:244::/56\nFLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\n\
        FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

    fn prefixes(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn both_families_are_read_with_their_host_bits_masked() {
        let env = SubnetEnv::parse("f", DUAL).unwrap();
        let expected = SubnetEnv {
            networks: prefixes(&["10.244.0.0/16"]),
            networks_v6: prefixes(&["fd00:10:244::/56"]),
            subnet: Some("10.244.1.0/24".parse().unwrap()),
            subnet_v6: Some("fd00:10:244:1::/64".parse().unwrap()),
            mtu: 1450,
            ip_masq: true,
        };
        assert_eq!(env, expected);
    }

    #[test]
    fn networks_are_a_list_without_repeats() {
        let text = DUAL.replace("10.244.0.0/16", "10.1.0.0/16,10.2.0.0/16,10.1.0.0/16");
        let env = SubnetEnv::parse("f", &text).unwrap();
        assert_eq!(env.networks, prefixes(&["10.1.0.0/16", "10.2.0.0/16"]));
    }

    #[test]
    fn what_is_missing_is_told_in_flannels_words() {
        let error = SubnetEnv::parse("/run/flannel/subnet.env", "").unwrap_err();
        let expected = "/run/flannel/subnet.env is missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, \
            FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ";
        assert_eq!(error.to_string(), expected);
        let v6_alone = "FLANNEL_IPV6_NETWORK=fd00::/56\nFLANNEL_IPV6_SUBNET=fd00::/64\n";
        let error = SubnetEnv::parse("f", v6_alone).unwrap_err();
        assert_eq!(
            error.to_string(),
            "f is missing FLANNEL_MTU, FLANNEL_IPMASQ"
        );
    }

    #[test]
    fn a_value_that_is_none_is_named() {
        for (text, words) in [
            ("FLANNEL_NETWORK", "FLANNEL_NETWORK has no value"),
            ("FLANNEL_NETWORK=", "FLANNEL_NETWORK is \"\""),
            (
                "FLANNEL_SUBNET=10.244.1.1",
                "no IPv4 prefix as 10.244.1.1/24",
            ),
            ("FLANNEL_SUBNET=fd00::1/64", "no IPv4 prefix"),
            ("FLANNEL_IPV6_SUBNET=10.0.0.1/24", "no IPv6 prefix"),
            ("FLANNEL_MTU=-1", "FLANNEL_MTU is \"-1\""),
        ] {
            let error = SubnetEnv::parse("f", text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_told_as_go_tells_it() {
        let error = SubnetEnv::load(Path::new("/nonexistent/subnet.env")).unwrap_err();
        let expected = "open /nonexistent/subnet.env: no such file or directory";
        assert_eq!(error.to_string(), expected);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(FLANNEL_[A-Z0-9_]{0,12}=?[0-9a-f:./,]{0,20}\n?){0,8}") {
            if let Ok(env) = SubnetEnv::parse("f", &text) {
                prop_assert!(env.subnet.is_some() || env.subnet_v6.is_some());
                prop_assert!(env.networks.iter().all(IpNetwork::is_ipv4));
            }
        }
    }
}
