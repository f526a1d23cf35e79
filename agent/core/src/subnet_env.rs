//! `subnet.env`: what CNI plugins and Docker read of the node's subnet
//! (flannel 0.28.9, `WriteSubnetFile` in `pkg/subnet/subnet.go`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

use crate::subnet::{ParseSubnetError, Subnet};

const NETWORK: &str = "FLANNEL_NETWORK";
const SUBNET: &str = "FLANNEL_SUBNET";

/// What the file says. Its text is what `Display` writes: one `KEY=value` a line, in
/// flannel's order, without quotes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SubnetEnv {
    /// The whole overlay prefix.
    pub network: Subnet,
    /// The node's own subnet.
    pub subnet: Subnet,
    /// MTU of the overlay in bytes.
    pub mtu: u32,
    /// Whether the agent masquerades what leaves the overlay.
    pub ip_masq: bool,
}

/// Why a file names no previous subnet: for the log, nothing else depends on it.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum PreviousSubnetError {
    /// The key is not there.
    #[error("{SUBNET} is missing; it would be as {SUBNET}=10.244.1.1/24")]
    Missing,
    /// What is there is no subnet.
    #[error("{SUBNET} has no usable value")]
    Unusable(#[source] ParseSubnetError),
    /// There are several, and nothing says which it was.
    #[error("{SUBNET} has {0} subnets; one is needed")]
    Several(usize),
}

impl SubnetEnv {
    /// Text of the file, to be written as it is.
    pub fn render(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for SubnetEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            network,
            subnet,
            mtu,
            ip_masq,
        } = self;
        let (first, prefix) = (first_usable(*subnet), subnet.prefix());
        writeln!(f, "FLANNEL_NETWORK={network}")?;
        writeln!(f, "{SUBNET}={first}/{prefix}")?;
        writeln!(f, "FLANNEL_MTU={mtu}")?;
        writeln!(f, "FLANNEL_IPMASQ={ip_masq}")
    }
}

/// The subnet that a file written before names, its host bits masked. Reads what
/// flannel's reader (godotenv) reads: comments, `export`, quotes, a list with one good
/// entry. Lines that it does not understand are passed over.
pub fn previous_subnet(text: &str) -> Result<Subnet, PreviousSubnetError> {
    // The last of several counts, as in a shell.
    let (_, value) = entries(text)
        .rfind(|(key, _)| *key == SUBNET)
        .ok_or(PreviousSubnetError::Missing)?;
    let (mut good, mut bad) = (Vec::new(), None);
    for item in value.split(',') {
        match Subnet::parse_masking(item.trim()) {
            Ok(subnet) => good.push(subnet),
            Err(error) => bad = Some(error),
        }
    }
    match (good.as_slice(), bad) {
        ([subnet], _) => Ok(*subnet),
        ([], Some(error)) => Err(PreviousSubnetError::Unusable(error)),
        (several, _) => Err(PreviousSubnetError::Several(several.len())),
    }
}

/// The network that a file names, if it names one.
pub fn previous_network(text: &str) -> Option<Subnet> {
    let (_, value) = entries(text).rfind(|(key, _)| *key == NETWORK)?;
    Subnet::parse_masking(value.trim()).ok()
}

/// The variables that a file sets, in its order.
pub(crate) fn entries(text: &str) -> impl DoubleEndedIterator<Item = (&str, &str)> {
    text.lines().filter_map(entry)
}

/// The node's own gateway address: the one after the network's.
fn first_usable(subnet: Subnet) -> IpAddr {
    match subnet.network() {
        IpAddr::V4(address) => Ipv4Addr::from(u32::from(address).saturating_add(1)).into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address).saturating_add(1)).into(),
    }
}

/// Key and value of a line, without what surrounds them. The key of a comment starts
/// with `#`, so it is none that is asked for.
fn entry(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(['=', ':'])?;
    let key = key.trim();
    let key = match key.strip_prefix("export") {
        Some(rest) if rest.starts_with(char::is_whitespace) => rest.trim_start(),
        _ => key,
    };
    Some((key, unquote(value.trim())))
}

/// A quoted value ends at its quote, another one at a comment.
fn unquote(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote) {
            return rest.split(quote).next().unwrap_or(rest).trim();
        }
    }
    value
        .split_once([' ', '\t'])
        .filter(|(_, rest)| rest.trim_start().starts_with('#'))
        .map_or(value, |(value, _)| value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn file_is_flannels_to_the_byte() {
        for (own, mtu, ip_masq, expected) in [
            (
                "10.244.1.0/24",
                1450,
                true,
                "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n\
                 FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
            ),
            (
                "10.244.1.252/30",
                8950,
                false,
                "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.253/30\n\
                 FLANNEL_MTU=8950\nFLANNEL_IPMASQ=false\n",
            ),
        ] {
            let env = SubnetEnv {
                network: subnet("10.244.0.0/16"),
                subnet: subnet(own),
                mtu,
                ip_masq,
            };
            assert_eq!(env.render(), expected);
            assert_eq!(previous_subnet(&env.render()), Ok(subnet(own)));
        }
    }

    #[test]
    fn previous_subnet_is_found_in_any_quoting() {
        for text in [
            "FLANNEL_SUBNET=10.244.1.1/24",
            "FLANNEL_SUBNET=10.244.1.0/24\r\n",
            "FLANNEL_SUBNET=\"10.244.1.1/24\"\n",
            "FLANNEL_SUBNET='10.244.1.1/24' # comment\n",
            "  export FLANNEL_SUBNET = 10.244.1.1/24 # comment\n",
            "export\tFLANNEL_SUBNET=10.244.1.1/24\t# comment\n",
            "FLANNEL_SUBNET: 10.244.1.1/24\n",
            "# FLANNEL_SUBNET=10.9.9.1/24\nFLANNEL_SUBNET=10.244.1.1/24\n",
            "FLANNEL_SUBNET=10.9.9.1/24\nFLANNEL_SUBNET=10.244.1.1/24\n",
            "FLANNEL_SUBNET=rubbish, 10.244.1.1/24\n",
            "rubbish\n=\n\n\"\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\n",
        ] {
            assert_eq!(
                previous_subnet(text),
                Ok(subnet("10.244.1.0/24")),
                "{text:?}"
            );
        }
    }

    #[test]
    fn the_network_of_before_is_found_too() {
        for (text, expected) in [
            (
                "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n",
                true,
            ),
            ("export FLANNEL_NETWORK='10.244.0.0/16' # comment\n", true),
            ("FLANNEL_NETWORK=rubbish\n", false),
            ("FLANNEL_SUBNET=10.244.1.1/24\n", false),
        ] {
            let expected = expected.then(|| subnet("10.244.0.0/16"));
            assert_eq!(previous_network(text), expected, "{text:?}");
        }
    }

    #[test]
    fn file_without_a_subnet_says_why() {
        use PreviousSubnetError::{Missing, Several};
        let unusable =
            |text: &str| PreviousSubnetError::Unusable(Subnet::parse_masking(text).unwrap_err());
        for (text, expected) in [
            ("", Missing),
            ("FLANNEL_NETWORK=10.244.0.0/16\n", Missing),
            ("flannel_subnet=10.244.1.1/24\n", Missing),
            ("exportFLANNEL_SUBNET=10.244.1.1/24\n", Missing),
            ("FLANNEL_SUBNET\n", Missing),
            ("#FLANNEL_SUBNET=10.244.1.1/24\n", Missing),
            ("FLANNEL_SUBNET=\n", unusable("")),
            ("FLANNEL_SUBNET=10.244.1.1\n", unusable("10.244.1.1")),
            ("FLANNEL_SUBNET=fd00::1/64\n", unusable("fd00::1/64")),
            (
                "FLANNEL_SUBNET=\"10.244.1.1/24 x\"\n",
                unusable("10.244.1.1/24 x"),
            ),
            ("FLANNEL_SUBNET=10.244.1.1/24,10.244.2.1/24\n", Several(2)),
        ] {
            assert_eq!(previous_subnet(text), Err(expected), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in "\\PC*", value in "[\"'#, \t0-9./]*") {
            drop(previous_subnet(&noise));
            drop(previous_subnet(&format!("FLANNEL_SUBNET={value}\nFLANNEL_SUBNET={noise}")));
        }
    }
}
