//! What an agent knows that is told by nobody but a store.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use twill_core::config::{ConfigError, NetworkConfig};
use twill_core::leases::StoreEvent;
use twill_core::state::State;
use twill_core::subnet::Subnet;
use twill_core::uplink::Uplink;
use twill_core::vtep::MacAddr;

const USUAL: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;

/// An agent's state without an agent.
#[derive(Debug)]
pub struct Known(State);

impl Known {
    /// Nothing, of a network 10.244.0.0/16 by vxlan.
    pub fn nothing() -> Result<Self, ConfigError> {
        let address = Ipv4Addr::new(203, 0, 113, 1);
        let uplink = Uplink {
            ifindex: 2,
            name: "eth0".to_owned(),
            mtu: 1500,
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            address,
            public_ip: address,
            local: address,
        };
        let config = NetworkConfig::parse(USUAL)?;
        Ok(Self(State::new(
            config,
            uplink,
            MacAddr([2, 0, 0, 0, 0, 2]),
        )))
    }

    /// Takes in what a store says.
    pub fn hear(&mut self, said: StoreEvent) {
        self.0.apply(said.into(), Duration::ZERO);
    }

    /// The subnets of other nodes; `None` before the first list.
    pub fn peers(&self) -> Option<BTreeSet<Subnet>> {
        let peers = self.0.peers().iter().map(|(subnet, _)| subnet);
        self.0.is_complete().then(|| peers.collect())
    }
}
