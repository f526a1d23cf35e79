//! This guest's node, and what it knows of the other one's.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, anyhow};
use twill_testbed::agent::Agent;
use twill_testbed::lease_server::{LeaseServer, url, usual_config};
use twill_testbed::netns::{Namespace, Prefix};
use twill_testbed::pod::Pod;
use twill_testbed::subnet_env::SubnetEnv;
use twill_testbed::topology::{Node, SERVER, attached_to, plugged, reach_behind};
use twill_testbed::traffic::EchoServer;
use twill_testbed::traffic::echo::ECHO_PORT;
use twill_testbed::wait::wait_until;
use twill_testbed::world::OVERLAY_LINK;

use crate::lab::{PATIENCE, PERMIT_SECONDS, fast_counts, wait_attached};

use super::side::Side;

/// A node with an agent and a pod with a server, whose uplink leads to the other guest's.
#[derive(Debug)]
pub(crate) struct Half {
    pub(crate) side: Side,
    /// The other guest's pod.
    far: Ipv4Addr,
    _server: EchoServer,
    pod: Pod,
    pub(crate) agent: Agent,
    _leases: Option<LeaseServer>,
    pub(crate) node: Node,
}

/// Runs a scenario in both guests. The agent's log is told where it fails here.
pub(crate) fn run(
    test: &str,
    flags: &[&str],
    scenario: impl FnOnce(&mut Half) -> Result<()>,
) -> Result<()> {
    if !twill_tests::required() {
        return Ok(());
    }
    let mut half = Half::new(test, flags)?;
    let done = scenario(&mut half);
    let done = done.map_err(|error| anyhow!("{error:#}\n\n{}", half.agent.log_tail()));
    // Neither takes its node away while the other still works with it.
    done.and_then(|()| half.side.exchange("done").map(drop))
}

impl Half {
    /// Ready when both nodes know each other and programs are on their pods' veths.
    fn new(test: &str, flags: &[&str]) -> Result<Self> {
        let mut side = Side::meet(test)?;
        let prefix = Prefix::unique();
        let node = plugged(&prefix, "node", side.address(), &Side::uplink()?)?;
        let leases = if side.is_first() {
            let host = attached_to(&prefix, "leases", &node)?;
            Some(LeaseServer::start_on(host, &usual_config())?)
        } else {
            reach_behind(&node, side.other_address())?;
            None
        };
        side.exchange("the lease server is there")?;
        let usual = ["--permit-time", PERMIT_SECONDS, "--resync-interval", "1"];
        let flags: Vec<&str> = usual.iter().chain(flags).copied().collect();
        let mut agent = Agent::new(&node, &url(SERVER), &flags);
        let started = agent.start_again().and_then(|()| agent.wait_ready());
        let env = started.with_context(|| agent.log_tail())?;
        // As in a cluster of one machine: the node masquerades, not the plugin.
        let env = SubnetEnv {
            ip_masq: true,
            ..env
        };
        let pod = Pod::add(&node, "1", &env)?;
        let server = EchoServer::start(pod.namespace())?;
        let theirs = side.exchange(&format!("{} {}", pod.address(), env.prefix()))?;
        let (far, subnet) = theirs.split_once(' ').context("no pod and no subnet")?;
        let far = far
            .parse()
            .with_context(|| format!("the other pod is {far}"))?;
        let mut half = Self {
            side,
            far,
            _server: server,
            pod,
            agent,
            _leases: leases,
            node,
        };
        half.wait_known(subnet)?;
        wait_attached(&half.agent, 1)?;
        half.side.exchange("the node is ready")?;
        Ok(half)
    }

    /// Waits until this node has a route to the other one's subnet.
    fn wait_known(&self, subnet: &str) -> Result<()> {
        wait_until("the other node is known", PATIENCE, || {
            let routes = ["ip", "route", "show", "dev", OVERLAY_LINK];
            let routes = self.node.namespace().run(&routes).unwrap_or_default();
            routes.contains(subnet)
        })
    }

    /// This guest's pod.
    pub(crate) fn pod(&self) -> &Namespace {
        self.pod.namespace()
    }

    /// Its address.
    pub(crate) fn pod_address(&self) -> Ipv4Addr {
        self.pod.address()
    }

    /// The other guest's pod.
    pub(crate) fn far(&self) -> Ipv4Addr {
        self.far
    }

    /// The server in it.
    pub(crate) fn echo(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.far, ECHO_PORT)
    }

    /// Packets that went past this node's stack: out of its pod, and into it.
    pub(crate) fn fast_counts(&self) -> Result<[u64; 2]> {
        fast_counts(&self.agent)
    }

    /// Packets that went past each node's stack, this one's first. Neither counts before the other
    /// has done what it had to.
    pub(crate) fn both_fast_counts(&mut self) -> Result<Vec<u64>> {
        self.side.exchange("now we count")?;
        let own = self.fast_counts()?;
        let theirs = self.side.exchange(&format!("{} {}", own[0], own[1]))?;
        let theirs = theirs.split(' ').map(str::parse);
        let theirs = theirs.collect::<Result<Vec<u64>, _>>();
        Ok([own.as_slice(), &theirs.context("the other's counters")?].concat())
    }
}
