//! `net-conf.json`: the overlay network and its backend, as flannel reads it.

use std::net::Ipv4Addr;

use thiserror::Error;

use crate::subnet::Subnet;
use crate::vtep::Vni;

/// The vxlan backend's settings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VxlanConfig {
    /// VNI, by default 1.
    pub vni: Vni,
    /// UDP destination port; `None` leaves the kernel its default, 8472.
    pub port: Option<u16>,
    /// MTU of the underlay in bytes, where it is not the uplink's.
    pub mtu: Option<u32>,
    /// Group Based Policy extension.
    pub gbp: bool,
    /// FDB learning.
    pub learning: bool,
    /// Plain routes to peers on the same link.
    pub direct_routing: bool,
}

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
    /// The backend.
    pub backend: VxlanConfig,
}

/// What is wrong with a configuration: key, value, and what would be right.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Not JSON, or not an object.
    #[error("network config is not a JSON object")]
    Syntax(#[source] serde_json::Error),
}

impl NetworkConfig {
    /// Parses and validates the text of `net-conf.json`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let value: serde_json::Value = serde_json::from_str(text).map_err(ConfigError::Syntax)?;
        drop(value);
        unimplemented!("the core work fills this in")
    }
}
