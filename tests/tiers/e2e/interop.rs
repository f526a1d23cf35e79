//! Twill among nodes that are set up as flannel does it: the same bytes both ways.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::agent::Agent;
use twill_testbed::lease_server::LeaseServer;
use twill_testbed::pod::Pod;
use twill_testbed::stock::{self, Peer};
use twill_testbed::topology::{Node, Underlay};
use twill_testbed::traffic::{EchoServer, ping, tcp_echo, udp_echo};
use twill_testbed::wait::wait_for;
use twill_testbed::world::{
    NODE_A, NODE_B, NODE_C, SUBNET_A, SUBNET_B, SUBNET_C, VTEP_MAC_A, VTEP_MAC_B, VTEP_MAC_C,
};
use twill_tests::required;

use super::leases::register;

const PATIENCE: Duration = Duration::from_secs(20);

/// Largest payload of one datagram through an overlay of 1450 bytes.
const FULL_DATAGRAM: usize = 1450 - 28;

/// Nodes A and B run Twill, C is a stock node. A pod on each. Dropped from the top.
struct Mixed {
    pods: [Pod; 3],
    agents: [Agent; 2],
    _nodes: [Node; 3],
    _server: LeaseServer,
    _underlay: Underlay,
}

impl Mixed {
    fn new(flags: &[&str]) -> Result<Self> {
        let underlay = Underlay::new()?;
        let server = LeaseServer::start(&underlay)?;
        let url = server.url();
        let nodes = [
            underlay.join("a", NODE_A)?,
            underlay.join("b", NODE_B)?,
            underlay.join("c", NODE_C)?,
        ];
        let peers = [
            Peer::new(SUBNET_A, NODE_A, VTEP_MAC_A)?,
            Peer::new(SUBNET_B, NODE_B, VTEP_MAC_B)?,
            Peer::new(SUBNET_C, NODE_C, VTEP_MAC_C)?,
        ];
        let stock = nodes[2].namespace();
        for peer in &peers {
            register(stock, &url, peer)?;
        }
        let env = stock::set_up(&nodes[2], &peers[2])?;
        let mut pods = Vec::new();
        let mut agents = Vec::new();
        for node in &nodes[..2] {
            let mut agent = Agent::new(node, &url, flags);
            agent.start_again()?;
            let env = agent.wait_ready()?;
            pods.push(Pod::add(node, "1", &env)?);
            agents.push(agent);
        }
        pods.push(Pod::add(&nodes[2], "1", &env)?);
        for (peer, agent) in peers.iter().zip(&agents) {
            let mac = wait_for("BPF carries packets to both peers", PATIENCE, || {
                let said = agent.ctl(&["status"])?["status"].take();
                let is_so = said["mode"] == "bpf" && said["peers"] == 2;
                Ok(is_so.then(|| said["mac"].as_str().unwrap_or_default().to_owned()))
            })?;
            let peer = Peer {
                vtep_mac: mac_of(&mac)?,
                ..*peer
            };
            stock::add_peer(&nodes[2], &peer)?;
        }
        Ok(Self {
            pods: pods.try_into().ok().context("three pods")?,
            agents: agents.try_into().ok().context("two agents")?,
            _nodes: nodes,
            _server: server,
            _underlay: underlay,
        })
    }

    /// Packets and bytes that the Twill node `node` encapsulated to the stock node.
    fn encapsulated(&self, node: usize) -> Result<(u64, u64)> {
        let vteps = self.agents[node].ctl(&["vteps"])?;
        let vteps = vteps["vteps"].as_array().context("no VTEPs")?;
        let stock = vteps
            .iter()
            .find(|vtep| vtep["underlay"] == NODE_C.to_string())
            .context("no VTEP of the stock node")?;
        let count = |key: &str| stock[key].as_u64().with_context(|| format!("no {key}"));
        Ok((count("encap_packets")?, count("encap_bytes")?))
    }

    /// Does the work, and says how many packets and bytes it made node `node` encapsulate.
    fn counted(&self, node: usize, work: impl FnOnce() -> Result<()>) -> Result<(u64, u64)> {
        let before = self.encapsulated(node)?;
        work()?;
        let after = self.encapsulated(node)?;
        Ok((after.0 - before.0, after.1 - before.1))
    }
}

/// The address as six bytes.
fn mac_of(text: &str) -> Result<[u8; 6]> {
    let bytes: Result<Vec<u8>, _> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect();
    bytes?
        .try_into()
        .ok()
        .with_context(|| format!("MAC address {text}"))
}

/// Everything that pods send, from one to the other, with checked contents.
fn exchange(from: &Pod, to: &Pod) -> Result<()> {
    let (namespace, address) = (from.namespace(), to.address());
    let _echo = EchoServer::start(to.namespace())?;
    for size in [1, 2, 1398, 64 * 1024, 3_000_000] {
        tcp_echo(namespace, address, size)?;
    }
    let around = FULL_DATAGRAM - 24..=FULL_DATAGRAM + 4;
    for size in [1, 2, 63, 512]
        .into_iter()
        .chain(around)
        .chain([1472, 2900, 30_000, 65_507])
    {
        udp_echo(namespace, address, size)?;
    }
    for size in [0, 1, 56, 1400, FULL_DATAGRAM, FULL_DATAGRAM + 1, 30_000] {
        ping(namespace, address, size)?;
    }
    Ok(())
}

fn check(fast_path: &str) -> Result<()> {
    let mixed = Mixed::new(&["--fast-path", fast_path])?;
    let [a, b, c] = &mixed.pods;
    for (from, to, twill) in [(a, c, 0), (c, a, 0), (b, c, 1), (c, b, 1)] {
        let what = format!(
            "{} to {}, --fast-path {fast_path}",
            from.label(),
            to.address()
        );
        let (packets, _) = mixed
            .counted(twill, || exchange(from, to))
            .with_context(|| what.clone())?;
        // Each of the echoes crosses at least once, and the larger ones in several fragments.
        ensure!(
            packets > 100,
            "{what}: BPF encapsulated {packets} packets only"
        );
    }
    exchange(a, b)?;
    exchange(b, a)?;

    // What the pod hands over in 64 KiB crosses in one piece, and not by the wire's MTU.
    let _echo = EchoServer::start(c.namespace())?;
    let (packets, bytes) = mixed.counted(0, || tcp_echo(a.namespace(), c.address(), 20_000_000))?;
    ensure!(
        bytes > 20_000_000,
        "BPF encapsulated {bytes} bytes of 20,000,000"
    );
    let mean = bytes / packets;
    ensure!(
        mean > 4 * 1500,
        "packets of {mean} bytes: GSO was taken apart"
    );
    Ok(())
}

#[test]
fn a_stock_node_talks_with_twill_nodes_by_permit() -> Result<()> {
    if !required() {
        return Ok(());
    }
    check("permit")
}

#[test]
fn a_stock_node_talks_with_twill_nodes_directly() -> Result<()> {
    if !required() {
        return Ok(());
    }
    check("direct")
}

#[test]
fn a_stock_node_talks_with_twill_nodes_without_a_fast_path() -> Result<()> {
    if !required() {
        return Ok(());
    }
    check("off")
}
