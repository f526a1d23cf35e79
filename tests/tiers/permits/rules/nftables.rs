//! After kube-proxy 1.31 `pkg/proxy/nftables/proxier.go`: verdict maps of Services and node
//! ports, backends by `numgen random`, affinity by sets with a timeout.

use std::fmt::Write as _;

use anyhow::Result;
use twill_testbed::world::NETWORK;

use super::{ECHO, Service};

/// The whole table, in place of the one that is there.
pub(super) fn rules(services: &[Service]) -> Result<String> {
    let mut clusters = Vec::new();
    let mut nodes = Vec::new();
    let mut sets = String::new();
    let mut chains = String::new();
    for (number, service) in services.iter().enumerate() {
        let (ip, port) = (service.at.ip(), service.at.port());
        for protocol in ["tcp", "udp"] {
            clusters.push(format!(
                "{ip} . {protocol} . {port} : goto service-{number}"
            ));
            if let Some(node_port) = service.node_port {
                nodes.push(format!("{protocol} . {node_port} : goto external-{number}"));
            }
        }
        let mut stays = String::new();
        let mut drawn = Vec::new();
        for (place, backend) in service.backends.iter().enumerate() {
            let endpoint = format!("endpoint-{number}-{place}");
            let mut remember = String::new();
            if service.sticky {
                let set = format!("affinity-{number}-{place}");
                writeln!(
                    sets,
                    "set {set} {{ type ipv4_addr; flags dynamic,timeout; timeout 10800s; }}"
                )?;
                writeln!(stays, "ip saddr @{set} goto {endpoint}")?;
                remember = format!("update @{set} {{ ip saddr }}");
            }
            writeln!(
                chains,
                "chain {endpoint} {{
                    ip saddr {backend} jump mark-for-masquerade
                    {remember}
                    meta l4proto tcp dnat to {backend}:{ECHO}
                    meta l4proto udp dnat to {backend}:{ECHO}
                }}"
            )?;
            drawn.push(format!("{place} : goto {endpoint}"));
        }
        writeln!(
            chains,
            "chain service-{number} {{
                ip daddr {ip} ip saddr != {NETWORK} jump mark-for-masquerade
                {stays}
                numgen random mod {} vmap {{ {} }}
            }}
            chain external-{number} {{
                jump mark-for-masquerade
                goto service-{number}
            }}",
            service.backends.len(),
            drawn.join(", ")
        )?;
    }
    Ok(format!(
        "table ip kube-proxy
        delete table ip kube-proxy
        table ip kube-proxy {{
            {sets}
            chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
            {chains}
            map service-ips {{
                type ipv4_addr . inet_proto . inet_service : verdict
                elements = {{ {} }}
            }}
            map service-nodeports {{
                type inet_proto . inet_service : verdict
                elements = {{ {} }}
            }}
            chain services {{
                ip daddr . meta l4proto . th dport vmap @service-ips
                fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @service-nodeports
            }}
            chain nat-prerouting {{
                type nat hook prerouting priority dstnat; policy accept;
                jump services
            }}
            chain nat-output {{
                type nat hook output priority -100; policy accept;
                jump services
            }}
            chain nat-postrouting {{
                type nat hook postrouting priority srcnat; policy accept;
                meta mark & 0x4000 != 0 meta mark set meta mark ^ 0x4000 masquerade fully-random
                ip saddr {NETWORK} ip daddr != {NETWORK} ip daddr != 224.0.0.0/4 masquerade fully-random
            }}
            chain filter-forward {{
                type filter hook forward priority filter; policy accept;
                ct state invalid drop
            }}
        }}
        ",
        clusters.join(", "),
        nodes.join(", ")
    ))
}
