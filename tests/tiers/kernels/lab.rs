//! Two nodes with a pod each, whatever the kernel can do.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use twill_testbed::cluster::{Cluster, Member};
use twill_testbed::netns::{Namespace, Prefix};
use twill_testbed::topology::{Node, UnderlayOptions};
use twill_testbed::traffic::EchoServer;
use twill_testbed::traffic::echo::ECHO_PORT;
use twill_testbed::wait::{wait_for, wait_until};
use twill_testbed::world::{NODE_A, NODE_B};
use twill_tests::required;

use crate::talk::Talk;

/// An emulated processor is slow, and shared with another guest's.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);
/// Requests between two looks at the counters.
const ROUND: u64 = 20;
/// Names of the features that the guest found, one a line, as in docs/kernels.md.
const FEATURES: &str = "TWILL_KERNEL_HAS";
/// Without it nothing is attached.
pub(crate) const ENCAP: &str = "encap by BPF";

/// Whether the kernel has a feature.
pub(crate) fn has(feature: &str) -> bool {
    let found = std::env::var(FEATURES).unwrap_or_default();
    // A guest that names none must not pass for a kernel that lacks everything.
    assert!(
        !found.is_empty(),
        "{FEATURES} is not set: this runs in guests"
    );
    found.lines().any(|name| name == feature)
}

/// How the nodes are made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// Further flags of the agents.
    pub(crate) flags: &'static [&'static str],
    /// What is done to a node before its agent starts.
    pub(crate) prepare: Option<fn(&Node) -> Result<()>>,
}

/// Nodes `a` and `b`, with a server in the pod of `b`.
pub(crate) struct Lab {
    _server: EchoServer,
    pub(crate) cluster: Cluster,
}

/// Runs a scenario, and tells the agents' logs where it fails; nothing where the tier was not
/// asked for.
pub(crate) fn run(options: Options, scenario: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(options)?;
    lab.cluster.explained(scenario(&lab))
}

impl Lab {
    fn new(Options { flags, prepare }: Options) -> Result<Self> {
        let mut cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
        let usual = ["--permit-time", "4", "--resync-interval", "1"];
        let flags: Vec<&str> = usual.iter().chain(flags).copied().collect();
        for (label, address) in [("a", NODE_A), ("b", NODE_B)] {
            let node = cluster.underlay.join(label, address)?;
            if let Some(prepare) = prepare {
                prepare(&node)?;
            }
            cluster.add_agent(node, &flags)?.add_pod("1")?;
        }
        cluster.wait_mesh()?;
        let server = EchoServer::start(cluster.members[1].pods[0].namespace())?;
        let lab = Self {
            _server: server,
            cluster,
        };
        if has(ENCAP) {
            lab.cluster.explained(lab.wait_attached())?;
        }
        Ok(lab)
    }

    /// The first node.
    pub(crate) fn a(&self) -> &Member {
        &self.cluster.members[0]
    }

    /// The second node.
    pub(crate) fn b(&self) -> &Member {
        &self.cluster.members[1]
    }

    /// Where the client is.
    pub(crate) fn client(&self) -> &Namespace {
        self.a().pods[0].namespace()
    }

    /// The pod with the server.
    pub(crate) fn server(&self) -> Ipv4Addr {
        self.b().pods[0].address()
    }

    /// The server itself.
    pub(crate) fn echo(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.server(), ECHO_PORT)
    }

    /// What an agent says of itself.
    pub(crate) fn status(member: &Member) -> Result<Value> {
        Ok(member.agent.status()?["status"].clone())
    }

    /// Waits until programs are on every pod's veth.
    fn wait_attached(&self) -> Result<()> {
        for member in &self.cluster.members {
            wait_until("programs are on the pod's veth", PATIENCE, || {
                let attached = Self::status(member).unwrap_or_default()["attached"].clone();
                let attached = attached.as_array().cloned().unwrap_or_default();
                let on_pods = |program: &&Value| program["program"] == "from_pod";
                attached.iter().filter(on_pods).count() == member.pods.len()
            })?;
        }
        Ok(())
    }

    /// Asks until most of a round of requests and answers went past both nodes' stacks. A
    /// question that is not answered well is an error.
    pub(crate) fn until_fast(&self, talk: &mut Talk) -> Result<()> {
        let mut asked = Ok(());
        wait_for("requests and answers are fast", PATIENCE, || {
            let before = self.fast_counts()?;
            asked = (0..ROUND).try_for_each(|_| talk.ask());
            let after = self.fast_counts()?;
            let mut pairs = before.iter().zip(&after);
            let fast = pairs.all(|(before, after)| after - before > ROUND / 2);
            Ok((fast || asked.is_err()).then_some(()))
        })?;
        asked
    }

    /// Packets that went past the stacks: of each node those out of its pod, those into it.
    pub(crate) fn fast_counts(&self) -> Result<Vec<u64>> {
        let mut counts = Vec::new();
        for member in &self.cluster.members {
            let counters = member.agent.counters()?;
            counts.push(counters.packets("from_pod", "fast")?);
            counts.push(counters.packets("from_uplink", "fast")?);
        }
        Ok(counts)
    }

    /// How an agent attached a program.
    pub(crate) fn attached_by(member: &Member, program: &str) -> Result<String> {
        let status = Self::status(member)?;
        let attached = status["attached"].as_array().context("nothing attached")?;
        let found = attached.iter().find(|one| one["program"] == program);
        let by = found.and_then(|one| one["by"].as_str());
        let by = by.with_context(|| format!("{program} is not attached: {attached:?}"))?;
        ensure!(!by.is_empty(), "attached by nothing");
        Ok(by.to_owned())
    }
}
