//! A Service of one backend, as kube-proxy's mode iptables and flannel's masquerading come to on a
//! node that has no other chains.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};

use crate::topology::Node;

/// The Service, on all ports, each of which is the backend's of the same number.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// Where the addresses of other Services begin.
const OTHERS: u32 = Ipv4Addr::new(172, 31, 0, 1).to_bits();

/// Gives a node the rules of the Service and of so many others that nobody asks, for pods of this
/// network. To be called once.
pub fn add(node: &Node, network: &str, backend: Ipv4Addr, others: u32) -> Result<()> {
    let path = node.directory().join("services.rules");
    let rules = rules(network, backend, others);
    fs::write(&path, rules).with_context(|| format!("write {}", path.display()))?;
    let path = path.display().to_string();
    node.namespace()
        .run(&["iptables-restore", "--noflush", &path])
        .map(drop)
}

fn rules(network: &str, backend: Ipv4Addr, others: u32) -> String {
    let others = (0..others).map(|number| {
        let address = Ipv4Addr::from_bits(OTHERS + number);
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
    use crate::world::NETWORK;

    #[test]
    fn the_service_comes_after_all_others() {
        let rules = rules(NETWORK, Ipv4Addr::new(10, 244, 2, 2), 300);
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
