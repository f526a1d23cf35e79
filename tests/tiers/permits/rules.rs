//! Rule sets as kube-proxy and flannel write them: Services by DNAT with backends drawn at
//! random, hairpin and foreign sources masqueraded, INVALID dropped, established accepted.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Stdio;

use anyhow::{Context as _, Result};
use twill_testbed::command::{checked, command};
use twill_testbed::netns::Namespace;
use twill_testbed::world::NETWORK;

/// Who the rules are written for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Dialect {
    /// kube-proxy's mode iptables, on `iptables-nft`.
    #[default]
    IptablesNft,
    /// The same on `iptables-legacy`.
    IptablesLegacy,
    /// kube-proxy's mode nftables.
    Nftables,
}

/// What a Service forwards to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service {
    /// `ClusterIP` and port.
    pub(crate) at: SocketAddrV4,
    /// `tcp` or `udp`.
    pub(crate) protocol: &'static str,
    /// The backends: indices of pods of the second node.
    pub(crate) backends: &'static [usize],
    /// Port of the backends.
    pub(crate) port: u16,
}

/// Port that echo servers of these tests listen on, TCP and UDP.
pub(crate) const ECHO: u16 = 7007;

const fn service(last: u8, protocol: &'static str, backends: &'static [usize]) -> Service {
    Service {
        at: SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, last), 80),
        protocol,
        backends,
        port: ECHO,
    }
}

/// TCP with one backend, the first pod of the second node.
pub(crate) const TCP_ONE: Service = service(1, "tcp", &[0]);
/// TCP with two backends.
pub(crate) const TCP_TWO: Service = service(2, "tcp", &[0, 1]);
/// UDP with one backend.
pub(crate) const UDP_ONE: Service = service(3, "udp", &[0]);
/// UDP with two backends.
pub(crate) const UDP_TWO: Service = service(4, "udp", &[0, 1]);

/// All of them.
pub(crate) const SERVICES: [Service; 4] = [TCP_ONE, TCP_TWO, UDP_ONE, UDP_TWO];

/// Puts the rules in force on a node; `pods` are those of the second node.
pub(crate) fn install(node: &Namespace, dialect: Dialect, pods: &[Ipv4Addr]) -> Result<()> {
    node.set_sysctl("net.bridge.bridge-nf-call-iptables", "1")?;
    match dialect {
        Dialect::IptablesNft => feed(
            node,
            &["iptables-nft-restore", "--noflush"],
            &iptables(pods)?,
        ),
        Dialect::IptablesLegacy => feed(
            node,
            &["iptables-legacy-restore", "--noflush"],
            &iptables(pods)?,
        ),
        Dialect::Nftables => feed(node, &["nft", "-f", "-"], &nftables(pods)?),
    }
}

/// Runs a program in a node with this text on its standard input.
pub(crate) fn feed(node: &Namespace, words: &[&str], text: &str) -> Result<()> {
    let mut command = command(words)?;
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = node.spawn(&mut command)?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(text.as_bytes())?;
    drop(stdin);
    checked(&command, &child.wait_with_output()?)
        .map(drop)
        .with_context(|| format!("in {}:\n{text}", node.name()))
}

/// After kube-proxy 1.31 `pkg/proxy/iptables/proxier.go`, and flannel 0.28
/// `pkg/trafficmngr/iptables`.
fn iptables(pods: &[Ipv4Addr]) -> Result<String> {
    let mut chains = String::new();
    let mut rules = String::new();
    for (number, service) in SERVICES.iter().enumerate() {
        let Service {
            at,
            protocol,
            backends,
            port,
        } = service;
        let to = format!(
            "-d {}/32 -p {protocol} -m {protocol} --dport {}",
            at.ip(),
            at.port()
        );
        writeln!(chains, ":KUBE-SVC-{number} - [0:0]")?;
        writeln!(rules, "-A KUBE-SERVICES {to} -j KUBE-SVC-{number}")?;
        writeln!(
            rules,
            "-A KUBE-SVC-{number} ! -s {NETWORK} {to} -j KUBE-MARK-MASQ"
        )?;
        for (place, pod) in backends.iter().enumerate() {
            let backend = pods[*pod];
            let chain = format!("KUBE-SEP-{number}-{place}");
            let drawn = match backends.len() - place {
                1 => "",
                2 => "-m statistic --mode random --probability 0.50000000000",
                _ => unreachable!("no Service here has more than two backends"),
            };
            writeln!(chains, ":{chain} - [0:0]")?;
            writeln!(rules, "-A KUBE-SVC-{number} {drawn} -j {chain}")?;
            writeln!(rules, "-A {chain} -s {backend}/32 -j KUBE-MARK-MASQ")?;
            writeln!(
                rules,
                "-A {chain} -p {protocol} -m {protocol} -j DNAT --to-destination {backend}:{port}"
            )?;
        }
    }
    Ok(format!(
        "*nat
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
{chains}-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
{rules}-A POSTROUTING -s {NETWORK} -d {NETWORK} -j RETURN
-A POSTROUTING -s {NETWORK} ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
COMMIT
*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -j KUBE-FORWARD
-A FORWARD -s {NETWORK} -j ACCEPT
-A FORWARD -d {NETWORK} -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"
    ))
}

/// After kube-proxy 1.31 `pkg/proxy/nftables/proxier.go`: a verdict map of Services, backends by
/// `numgen random`.
fn nftables(pods: &[Ipv4Addr]) -> Result<String> {
    let mut elements = Vec::new();
    let mut chains = String::new();
    for (number, service) in SERVICES.iter().enumerate() {
        let Service {
            at,
            protocol,
            backends,
            port,
        } = service;
        elements.push(format!(
            "{} . {protocol} . {} : goto service-{number}",
            at.ip(),
            at.port()
        ));
        let drawn: Vec<_> = (0..backends.len())
            .map(|place| format!("{place} : goto endpoint-{number}-{place}"))
            .collect();
        for (place, pod) in backends.iter().enumerate() {
            let backend = pods[*pod];
            writeln!(
                chains,
                "chain endpoint-{number}-{place} {{
                    ip saddr {backend} jump mark-for-masquerade
                    meta l4proto {protocol} dnat to {backend}:{port}
                }}"
            )?;
        }
        writeln!(
            chains,
            "chain service-{number} {{
                ip daddr {} {protocol} dport {} ip saddr != {NETWORK} jump mark-for-masquerade
                numgen random mod {} vmap {{ {} }}
            }}",
            at.ip(),
            at.port(),
            backends.len(),
            drawn.join(", ")
        )?;
    }
    Ok(format!(
        "table ip kube-proxy {{
            chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
            {chains}
            map service-ips {{
                type ipv4_addr . inet_proto . inet_service : verdict
                elements = {{ {} }}
            }}
            chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips; }}
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
        elements.join(", ")
    ))
}
