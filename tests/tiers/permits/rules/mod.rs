//! Rule sets as kube-proxy and flannel write them: Services by DNAT with backends drawn at
//! random or by session affinity, node ports, hairpin and foreign sources masqueraded, INVALID
//! dropped, established accepted.

mod iptables;
mod nftables;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Stdio;

use anyhow::{Context as _, Result};
use twill_testbed::command::{checked, command};
use twill_testbed::netns::Namespace;

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

/// What a Service forwards to, TCP and UDP.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// `ClusterIP` and port.
    at: SocketAddrV4,
    /// The backends, which listen on [`ECHO`].
    backends: Vec<Ipv4Addr>,
    /// Whether a client stays with its backend.
    sticky: bool,
    /// The port of every node that leads here, if there is one.
    node_port: Option<u16>,
}

/// Port that backends listen on, TCP and UDP.
pub(crate) const ECHO: u16 = 7007;
/// A Service whose backends the test chooses; at first the first pod of the second node.
pub(crate) const ONE: SocketAddrV4 = service(1);
/// A Service with both pods of the second node.
pub(crate) const TWO: SocketAddrV4 = service(2);
/// The same with session affinity.
pub(crate) const STICKY: SocketAddrV4 = service(3);
/// The port of every node that leads to [`ONE`].
pub(crate) const NODE_PORT: u16 = 30_090;

const fn service(last: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, last), 80)
}

/// All Services; `one` are the backends of [`ONE`], `pods` those of the others.
pub(crate) fn services(one: &[Ipv4Addr], pods: &[Ipv4Addr]) -> [Service; 3] {
    let service = |at, backends: &[Ipv4Addr], sticky, node_port| Service {
        at,
        backends: backends.to_vec(),
        sticky,
        node_port,
    };
    [
        service(ONE, one, false, Some(NODE_PORT)),
        service(TWO, pods, false, None),
        service(STICKY, pods, true, None),
    ]
}

/// Puts the rules in force on a node, in place of those that were there.
pub(crate) fn install(node: &Namespace, dialect: Dialect, services: &[Service]) -> Result<()> {
    node.set_sysctl("net.bridge.bridge-nf-call-iptables", "1")?;
    let program = match dialect {
        Dialect::IptablesNft => "iptables-nft",
        Dialect::IptablesLegacy => "iptables-legacy",
        Dialect::Nftables => {
            return feed(node, &["nft", "-f", "-"], &nftables::rules(services)?);
        }
    };
    let restore = [&format!("{program}-restore"), "--noflush"];
    feed(node, &restore, &iptables::rules(services)?)?;
    let hooked = [program, "-C", "FORWARD", "-j", "KUBE-FORWARD"];
    if node.run(&hooked).is_err() {
        feed(node, &restore, &iptables::hooks())?;
    }
    Ok(())
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
