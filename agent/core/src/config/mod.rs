//! `net-conf.json`: the overlay network and its backend, as flannel reads it
//! (flannel 0.28.9, `pkg/subnet/config.go`).

mod backend;
pub(crate) mod json;
#[cfg(test)]
mod tests;
mod vxlan;

use std::net::{AddrParseError, IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use thiserror::Error;

use crate::backend::Backend;
use crate::subnet::Subnet;

use self::json::{Fields, Object};
pub use self::vxlan::VxlanConfig;

const NOT_YET: &str = "not available yet";

const RIGHT_NETWORK: &str = "an IPv4 prefix, as \"10.244.0.0/16\"";
const RIGHT_ADDRESS: &str = "an IPv4 address, as \"10.244.1.0\"";

/// Keys that flannel knows and that say nothing as long as there is no IPv6.
const IPV6_KEYS: [&str; 4] = [
    "IPv6Network",
    "IPv6SubnetMin",
    "IPv6SubnetMax",
    "IPv6SubnetLen",
];

/// Keys that say which subnets there are to lease.
const SUBNET_KEYS: [&str; 3] = ["SubnetLen", "SubnetMin", "SubnetMax"];

/// The keys that are read.
const KEYS: [&str; 8] = [
    "EnableIPv4",
    "EnableIPv6",
    "EnableNFTables",
    "Network",
    "SubnetLen",
    "SubnetMin",
    "SubnetMax",
    "Backend",
];

/// A network configuration in which nothing is invalid.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NetworkConfig {
    /// The whole overlay prefix.
    pub network: Subnet,
    /// Prefix length of each lease.
    pub subnet_len: u8,
    /// Network address of the lowest subnet to lease.
    pub subnet_min: Ipv4Addr,
    /// Network address of the highest subnet to lease.
    pub subnet_max: Ipv4Addr,
    /// Whether flannel's rules are written by nftables instead of iptables; not set: as
    /// kube-proxy's are.
    pub nftables: Option<bool>,
    /// The backend.
    pub backend: Backend,
    /// What the text says and has no effect, each a sentence for the log.
    pub warnings: Vec<String>,
}

/// What is wrong with a configuration: key, value, and what would be right. Where flannel
/// has a message of its own, `message` is that one.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Not JSON, or not an object.
    #[error("network config is not a JSON object")]
    Syntax(#[source] serde_json::Error),
    /// No `Network`, or all of IPv4.
    #[error(
        "please define a correct Network parameter in the flannel config \
         (Network is {value}; write {RIGHT_NETWORK})"
    )]
    NoNetwork {
        /// The value, or that there is none.
        value: String,
    },
    /// A value of another JSON type.
    #[error("{key} is {value}; write {right}")]
    WrongType {
        /// The key, with the object that it is in.
        key: String,
        /// The value as JSON, shortened.
        value: String,
        /// What would be right.
        right: &'static str,
    },
    /// A value of the right type that cannot be.
    #[error("{message} ({key} is {value}; write {right})")]
    Invalid {
        /// The key, with the object that it is in.
        key: String,
        /// The value, shortened.
        value: String,
        /// Flannel's message.
        message: String,
        /// What would be right.
        right: String,
    },
    /// Something in the backend's settings.
    #[error("{message}: {error}")]
    Backend {
        /// Flannel's message.
        message: &'static str,
        /// What is wrong.
        error: Box<ConfigError>,
    },
    /// A backend that there is not.
    #[error(
        "unknown backend type: {name:?} ({origin}); those there are: \
         \"Backend\": {{\"Type\": \"vxlan\"}} and {{\"Type\": \"host-gw\"}}"
    )]
    UnknownBackend {
        /// The name, shortened.
        name: String,
        /// Where the name comes from.
        origin: &'static str,
    },
    /// Something that flannel has.
    #[error("{key} is {value}: {NOT_YET}; write {right}, or leave the key out")]
    NotAvailable {
        /// The key.
        key: &'static str,
        /// The value.
        value: bool,
        /// What would be right.
        right: bool,
    },
}

impl NetworkConfig {
    /// Parses and validates the text of `net-conf.json`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Self::parse_with(text, None)
    }

    /// The same where Kubernetes gives the subnets to its Nodes: what the text says of subnets has
    /// no effect, and one as long as this node's may be anywhere in the network.
    pub fn parse_for_nodes(text: &str, own: Subnet) -> Result<Self, ConfigError> {
        Self::parse_with(text, Some(own))
    }

    fn parse_with(text: &str, own: Option<Subnet>) -> Result<Self, ConfigError> {
        let object: Object = serde_json::from_str(text).map_err(ConfigError::Syntax)?;
        let fields = Fields::new("", &object);

        let mut warnings = Vec::new();
        check_families(&fields)?;
        let nftables = fields.optional_boolean("EnableNFTables")?;
        for key in IPV6_KEYS {
            if fields.last(key).is_some() {
                warnings.push(format!("{key}: IPv6 is {NOT_YET}, ignored"));
            }
        }
        warnings.extend(fields.unknown(&[&KEYS[..], &IPV6_KEYS[..]].concat()));

        let network = network(&fields)?;
        let (subnet_len, (subnet_min, subnet_max)) = if let Some(own) = own {
            for key in SUBNET_KEYS {
                if fields.last(key).is_some() {
                    warnings.push(format!("{key}: Kubernetes gives the subnets, ignored"));
                }
            }
            let len = own.prefix().max(network.subnet.prefix());
            (len, (network.first, network.last_subnet(len)))
        } else {
            let len = subnet_len(&fields, network)?;
            (len, subnet_range(&fields, network, len)?)
        };
        let backend = backend::read(fields.last("Backend"), &mut warnings)?;
        Ok(Self {
            network: network.subnet,
            subnet_len,
            subnet_min,
            subnet_max,
            nftables,
            backend,
            warnings,
        })
    }

    /// Every address that is in a subnet which a node may hold.
    pub fn pods(&self) -> RangeInclusive<Ipv4Addr> {
        let within = u32::MAX
            .checked_shr(self.subnet_len.into())
            .unwrap_or_default();
        self.subnet_min..=Ipv4Addr::from_bits(self.subnet_max.to_bits() | within)
    }

    /// Whether a node may hold this subnet: of the right length, from the lowest to the highest.
    pub fn fits(&self, subnet: Subnet) -> bool {
        let IpAddr::V4(address) = subnet.network() else {
            return false;
        };
        subnet.prefix() == self.subnet_len && (self.subnet_min..=self.subnet_max).contains(&address)
    }
}

/// `Network`, and its first address.
#[derive(Clone, Copy)]
struct Network {
    subnet: Subnet,
    first: Ipv4Addr,
}

impl Network {
    /// The last address.
    fn last(self) -> Ipv4Addr {
        let host_bits = u32::MAX
            .checked_shr(self.subnet.prefix().into())
            .unwrap_or(0);
        Ipv4Addr::from(u32::from(self.first) | host_bits)
    }

    /// The first address of the last subnet of that length.
    fn last_subnet(self, len: u8) -> Ipv4Addr {
        let within = u32::MAX.checked_shr(len.into()).unwrap_or(0);
        Ipv4Addr::from(u32::from(self.last()) & !within)
    }
}

fn check_families(fields: &Fields<'_>) -> Result<(), ConfigError> {
    let (ipv4, ipv6) = (
        fields.boolean("EnableIPv4", true)?,
        fields.boolean("EnableIPv6", false)?,
    );
    if !ipv4 && !ipv6 {
        return Err(fields.invalid(
            "EnableIPv4",
            "false".to_owned(),
            "none defined stack",
            "true",
        ));
    }
    for (key, value, right) in [("EnableIPv6", ipv6, false), ("EnableIPv4", ipv4, true)] {
        if value != right {
            return Err(ConfigError::NotAvailable { key, value, right });
        }
    }
    Ok(())
}

fn network(fields: &Fields<'_>) -> Result<Network, ConfigError> {
    let Some(text) = fields.string_not_null("Network", RIGHT_NETWORK)? else {
        let value = "missing".to_owned();
        return Err(ConfigError::NoNetwork { value });
    };
    let subnet = Subnet::parse_masking(text).map_err(|error| {
        let message = "invalid IPv4 CIDR format";
        fields.invalid(
            "Network",
            format!("{:?}", error.text),
            message,
            RIGHT_NETWORK,
        )
    })?;
    match subnet.network() {
        IpAddr::V4(first) if subnet.prefix() > 0 => Ok(Network { subnet, first }),
        // Flannel takes 0.0.0.0/0 for no network, as its Go value is zero.
        IpAddr::V4(_) | IpAddr::V6(_) => Err(ConfigError::NoNetwork {
            value: subnet.to_string(),
        }),
    }
}

fn subnet_len(fields: &Fields<'_>, network: Network) -> Result<u8, ConfigError> {
    let prefix = network.subnet.prefix();
    let shortest = prefix.saturating_add(2);
    let right = "a prefix length, an integer without quotes";
    let given = fields.integer("SubnetLen", 0..=u64::MAX, right)?;
    let given = given.filter(|len| *len != 0);
    let message = match given.map(|len| u8::try_from(len).unwrap_or(u8::MAX)) {
        None if prefix <= 22 => return Ok(24),
        None if shortest <= 30 => return Ok(shortest),
        None => "network is too small. Minimum useful network prefix is /28",
        Some(31..) => "SubnetLen must be less than /31",
        Some(len) if len < shortest => "network must be able to accommodate at least four subnets",
        Some(len) => return Ok(len),
    };
    Err(match given.filter(|_| shortest <= 30) {
        Some(len) => {
            let right = format!(
                "a prefix length from {shortest} to 30 for {}",
                network.subnet
            );
            fields.invalid("SubnetLen", len.to_string(), message, right)
        }
        // No length would do.
        None => fields.invalid(
            "Network",
            network.subnet.to_string(),
            message,
            "a prefix of /28 or shorter",
        ),
    })
}

fn subnet_range(
    fields: &Fields<'_>,
    network: Network,
    len: u8,
) -> Result<(Ipv4Addr, Ipv4Addr), ConfigError> {
    let size = 1_u32
        .checked_shl(32_u32.saturating_sub(len.into()))
        .unwrap_or(0);
    // The first subnet is left out, as flannel does: its address is the network's.
    let lowest = Ipv4Addr::from(u32::from(network.first).saturating_add(size));
    let highest = Ipv4Addr::from(u32::from(network.last()) & !size.saturating_sub(1));

    let bound = |name: &str, default: Ipv4Addr| -> Result<Ipv4Addr, ConfigError> {
        let address = match subnet_address(fields, name)? {
            // Flannel takes 0.0.0.0 for not set, as its Go value is zero.
            None | Some(Ipv4Addr::UNSPECIFIED) => return Ok(default),
            Some(address) => address,
        };
        let message = if !network.subnet.contains(address.into()) {
            format!("{name} is not in the range of the Network")
        } else if u32::from(address) & size.saturating_sub(1) != 0 {
            format!("{name} is not on a SubnetLen boundary: {address}")
        } else {
            return Ok(address);
        };
        let right = format!("the first address of a /{len} in {}", network.subnet);
        Err(fields.invalid(name, address.to_string(), message, right))
    };
    let (min, max) = (bound("SubnetMin", lowest)?, bound("SubnetMax", highest)?);
    if min > max {
        let message = "no subnet from SubnetMin to SubnetMax";
        let right = format!("an address from {} to {max}", network.first);
        return Err(fields.invalid("SubnetMin", min.to_string(), message, right));
    }
    Ok((min, max))
}

fn subnet_address(fields: &Fields<'_>, name: &str) -> Result<Option<Ipv4Addr>, ConfigError> {
    let Some(text) = fields.string_not_null(name, RIGHT_ADDRESS)? else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|AddrParseError { .. }| {
        let shown = text.chars().take(64).collect::<String>();
        fields.invalid(
            name,
            format!("{shown:?}"),
            "invalid IP address format",
            RIGHT_ADDRESS,
        )
    })
}
