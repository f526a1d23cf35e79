//! Two nodes with a cable between them, and on each what a Kubernetes node has beside its
//! overlay: connection tracking, Services and forwarding rules as kube-proxy writes them.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use twill_testbed::lease_server::usual_config;
use twill_testbed::netns::Prefix;
use twill_testbed::pod::Pod;
use twill_testbed::topology::{Node, Offload, UnderlayOptions, cable};
use twill_testbed::world::{NETWORK, NODE_A, NODE_B, PORT, VNI};

use crate::case::Shape;

/// A Service on all ports, so that every measurement can have a port of its own.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// Where the addresses of the other Services begin.
const OTHER_SERVICES: u32 = Ipv4Addr::new(172, 31, 0, 1).to_bits();

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
    let rules = rules(backend, setup);
    for node in nodes {
        let path = node.directory().join("services.rules");
        fs::write(&path, &rules).with_context(|| format!("write {}", path.display()))?;
        let path = path.display().to_string();
        node.namespace()
            .run(&["iptables-restore", "--noflush", &path])?;
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

/// What kube-proxy in iptables mode and flannel's masquerading come to, for one backend.
fn rules(backend: Ipv4Addr, setup: Setup) -> String {
    let network = setup.network();
    let others = (0..setup.services).map(|number| {
        let address = Ipv4Addr::from_bits(OTHER_SERVICES + number);
        format!("-A KUBE-SERVICES -d {address}/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination {backend}:8080\n")
    });
    format!(
        "*nat
:KUBE-SERVICES - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
{}-A KUBE-SERVICES -d {SERVICE}/32 -j DNAT --to-destination {backend}
-A POSTROUTING -s {network} -d {network} -j RETURN
-A POSTROUTING -s {network} ! -d 224.0.0.0/4 -j MASQUERADE
COMMIT
*filter
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -s {network} -j ACCEPT
-A FORWARD -d {network} -j ACCEPT
COMMIT
",
        others.collect::<String>()
    )
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

    #[test]
    fn the_measured_service_comes_after_all_others() {
        let setup = Setup {
            shape: Shape::Gso,
            services: 300,
            leases: 0,
            permits: 0,
            max_permits: None,
        };
        let rules = rules(Ipv4Addr::new(10, 244, 2, 2), setup);
        let services: Vec<_> = rules
            .lines()
            .filter(|line| line.contains("--to-destination"))
            .collect();
        assert_eq!(services.len(), 301);
        assert!(services[255].contains("172.31.1.0/32"), "{}", services[255]);
        assert!(services[300].contains("-d 172.30.0.1/32 -j DNAT"));
        assert_eq!(rules.matches("COMMIT").count(), 2);
    }
}
