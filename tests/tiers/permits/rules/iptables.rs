//! After kube-proxy 1.31 `pkg/proxy/iptables/proxier.go`, and flannel 0.28
//! `pkg/trafficmngr/iptables`.

use std::fmt::Write as _;

use anyhow::Result;
use twill_testbed::world::NETWORK;

use super::{ECHO, Service};

/// kube-proxy's chains; those that are there are written anew.
pub(super) fn rules(services: &[Service]) -> Result<String> {
    let mut chains = String::new();
    let mut rules = String::new();
    for (number, service) in services.iter().enumerate() {
        let (ip, port) = (service.at.ip(), service.at.port());
        writeln!(chains, ":KUBE-SVC-{number} - [0:0]")?;
        for protocol in ["tcp", "udp"] {
            let to = format!("-d {ip}/32 -p {protocol} -m {protocol} --dport {port}");
            writeln!(rules, "-A KUBE-SERVICES {to} -j KUBE-SVC-{number}")?;
            writeln!(
                rules,
                "-A KUBE-SVC-{number} ! -s {NETWORK} {to} -j KUBE-MARK-MASQ"
            )?;
        }
        if let Some(node_port) = service.node_port {
            writeln!(chains, ":KUBE-EXT-{number} - [0:0]")?;
            for protocol in ["tcp", "udp"] {
                writeln!(
                    rules,
                    "-A KUBE-NODEPORTS -p {protocol} -m {protocol} --dport {node_port} -j KUBE-EXT-{number}"
                )?;
            }
            writeln!(rules, "-A KUBE-EXT-{number} -j KUBE-MARK-MASQ")?;
            writeln!(rules, "-A KUBE-EXT-{number} -j KUBE-SVC-{number}")?;
        }
        let chain = |place: usize| format!("KUBE-SEP-{number}-{place}");
        let places = 0..service.backends.len();
        if service.sticky {
            for chain in places.clone().map(chain) {
                writeln!(
                    rules,
                    "-A KUBE-SVC-{number} -m recent --name {chain} --rcheck --seconds 10800 --reap --rsource -j {chain}"
                )?;
            }
        }
        for place in places.clone() {
            let drawn = match service.backends.len() - place {
                1 => "",
                2 => "-m statistic --mode random --probability 0.50000000000",
                _ => unreachable!("no Service here has more than two backends"),
            };
            writeln!(rules, "-A KUBE-SVC-{number} {drawn} -j {}", chain(place))?;
        }
        for (backend, chain) in service.backends.iter().zip(places.map(chain)) {
            let remember = if service.sticky {
                format!("-m recent --name {chain} --set --rsource")
            } else {
                String::new()
            };
            writeln!(chains, ":{chain} - [0:0]")?;
            writeln!(rules, "-A {chain} -s {backend}/32 -j KUBE-MARK-MASQ")?;
            for protocol in ["tcp", "udp"] {
                writeln!(
                    rules,
                    "-A {chain} -p {protocol} {remember} -m {protocol} -j DNAT --to-destination {backend}:{ECHO}"
                )?;
            }
        }
    }
    Ok(format!(
        "*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
{chains}-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
{rules}-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
*filter
:KUBE-FORWARD - [0:0]
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"
    ))
}

/// Where the chains begin, and flannel's own rules. kube-proxy puts what it drops before
/// everybody else's rules, whoever was there first.
pub(super) fn hooks() -> String {
    format!(
        "*nat
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A POSTROUTING -s {NETWORK} -d {NETWORK} -j RETURN
-A POSTROUTING -s {NETWORK} ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
COMMIT
*filter
-I FORWARD -j KUBE-FORWARD
-A FORWARD -s {NETWORK} -j ACCEPT
-A FORWARD -d {NETWORK} -j ACCEPT
COMMIT
"
    )
}
