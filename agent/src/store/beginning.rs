//! What a store says before there is a lease.

use std::net::IpAddr;

use twill_core::config::{ConfigError, NetworkConfig};
use twill_core::family::PerFamily;
use twill_core::vtep::MacAddr;

/// What a store says before there is a lease.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// The network config's text.
    pub text: String,
    /// What it says.
    pub config: NetworkConfig,
    /// The MAC addresses that the node's devices had when it published them last, where the store
    /// tells: other nodes still send to them.
    pub macs: PerFamily<MacAddr>,
    /// The addresses that other nodes shall send to, where somebody wrote some into the store for
    /// this node.
    pub public_ips: PerFamily<IpAddr>,
}

impl Beginning {
    /// By the network config alone.
    pub fn new(text: String) -> Result<Self, ConfigError> {
        let config = NetworkConfig::parse(&text)?;
        Ok(Self::by_config(text, config))
    }

    /// By the network config alone, which says this.
    pub fn by_config(text: String, config: NetworkConfig) -> Self {
        Self {
            text,
            config,
            macs: PerFamily::default(),
            public_ips: PerFamily::default(),
        }
    }
}
