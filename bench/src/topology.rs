//! Two nodes with a cable between them, and on each what a Kubernetes node has beside its
//! overlay: connection tracking, Services and forwarding rules as kube-proxy writes them.

use std::net::Ipv4Addr;

use anyhow::Result;
use twill_testbed::lease_server::usual_config;
use twill_testbed::netns::Prefix;
use twill_testbed::pod::Pod;
use twill_testbed::service;
use twill_testbed::topology::{Node, Offload, UnderlayOptions, cable};
use twill_testbed::world::{NETWORK, NODE_A, NODE_B, PORT, VNI};

use crate::case::Shape;

/// How a lane is built.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// What crosses the wire.
    pub shape: Shape,
    /// How many Services each node has rules for, beside the one that is measured.
    pub services: u32,
    /// How many leases there are of nodes that do not exist, beside the two that do.
    pub leases: u32,
    /// How many permits there are of flows that nobody measures; for Twill alone.
    pub permits: u32,
    /// Room for flows in Twill's maps, where it is not what all of that needs.
    pub max_permits: Option<u32>,
}

impl Setup {
    /// The overlay network: flannel's usual one, or one that takes many leases.
    pub const fn network(self) -> &'static str {
        if self.leases == 0 {
            NETWORK
        } else {
            WIDE_NETWORK
        }
    }

    /// The text of `net-conf.json`.
    pub fn net_conf(self) -> String {
        if self.leases == 0 {
            return usual_config();
        }
        format!(
            r#"{{"Network":"{WIDE_NETWORK}","SubnetLen":{WIDE_PREFIX},"Backend":{{"Type":"vxlan","VNI":{VNI},"Port":{PORT}}}}}"#
        )
    }
}

/// A network with room for 262,144 leases.
const WIDE_NETWORK: &str = "10.0.0.0/8";
/// Prefix length of each of them.
const WIDE_PREFIX: u8 = 26;

/// Two nodes and the name of all that belongs to them.
pub fn nodes(setup: Setup) -> Result<(Prefix, [Node; 2])> {
    let prefix = Prefix::unique();
    let options = UnderlayOptions {
        offload: match setup.shape {
            Shape::Gso => Offload::Gso,
            Shape::Nic => Offload::Nic,
        },
        ..UnderlayOptions::default()
    };
    let nodes = cable(&prefix, options, [("a", NODE_A), ("b", NODE_B)])?;
    for node in &nodes {
        // kube-proxy asks for it: what bridges forward is asked about too.
        let bridged = "net.bridge.bridge-nf-call-iptables";
        if node.namespace().sysctl(bridged).is_ok() {
            node.namespace().set_sysctl(bridged, "1")?;
        }
    }
    Ok((prefix, nodes))
}

/// Gives both nodes their rules. The Service's one backend is the second node's pod.
pub fn add_services(nodes: [&Node; 2], backend: Ipv4Addr, setup: Setup) -> Result<()> {
    for node in nodes {
        service::add(node, setup.network(), backend, setup.services)?;
    }
    Ok(())
}

/// More ports to connect from than by default: closed connections keep theirs for a minute.
pub fn widen_ports(pods: &[Pod]) -> Result<()> {
    for pod in pods {
        pod.namespace()
            .set_sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_leases_have_a_wide_network() {
        let setup = Setup {
            shape: Shape::Gso,
            services: 0,
            leases: 1000,
            permits: 0,
            max_permits: None,
        };
        let config: serde_json::Value = serde_json::from_str(&setup.net_conf()).unwrap();
        assert_eq!(config["Network"], setup.network());
        assert_eq!(config["SubnetLen"], 26);
    }
}
