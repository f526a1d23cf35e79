//! Two nodes with a pod each, whatever the kernel can do.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use twill_testbed::agent::Agent;
use twill_testbed::cluster::{Cluster, Member};
use twill_testbed::netns::{Namespace, Prefix};
use twill_testbed::topology::{Node, UnderlayOptions};
use twill_testbed::traffic::EchoServer;
use twill_testbed::traffic::echo::ECHO_PORT;
use twill_testbed::wait::{wait_for, wait_until};
use twill_testbed::world::{NODE_A, NODE_B};
use twill_tests::required;

use crate::talk::Talk;

/// Before `TWILL_PATIENCE`: an emulated processor is slow, and shared with another guest's.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The agents' permit time.
pub(crate) const PERMIT_TIME: Duration = Duration::from_secs(4);
/// The same for a flag.
pub(crate) const PERMIT_SECONDS: &str = "4";
/// Requests between two looks at the counters.
pub(crate) const ROUND: u64 = 20;
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
    /// Whether nothing of Twill's is in the kernel: the kernel carries, as with flannel.
    pub(crate) stock: bool,
}

/// Nodes `a` and `b`, with a server in the pod of `b`.
pub(crate) struct Lab {
    _server: EchoServer,
    pub(crate) cluster: Cluster,
    stock: bool,
}

/// Runs a scenario, and tells the agents' logs where it fails; nothing where the tier was not
/// asked for.
pub(crate) fn run(options: Options, scenario: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut lab = Lab::new(options)?;
    let done = scenario(&mut lab);
    lab.cluster.explained(done)
}

impl Lab {
    fn new(options: Options) -> Result<Self> {
        let Options {
            flags,
            prepare,
            stock,
        } = options;
        let mut cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
        let usual: &[&str] = if stock {
            &["--datapath", "kernel", "--fast-path", "off"]
        } else {
            &["--permit-time", PERMIT_SECONDS, "--resync-interval", "1"]
        };
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
            stock,
        };
        if lab.has_programs() {
            for member in &lab.cluster.members {
                let attached = wait_attached(&member.agent, member.pods.len());
                lab.cluster.explained(attached)?;
            }
        }
        Ok(lab)
    }

    /// Whether programs carry packets here.
    pub(crate) fn has_programs(&self) -> bool {
        !self.stock && has(ENCAP)
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
        let counts = self.cluster.members.iter();
        let counts = counts.map(|member| fast_counts(&member.agent));
        Ok(counts.collect::<Result<Vec<_>>>()?.concat())
    }

    /// [`Self::fast_counts`] where programs carry packets, else nothing.
    pub(crate) fn fast_counts_if_any(&self) -> Result<Vec<u64>> {
        if self.has_programs() {
            self.fast_counts()
        } else {
            Ok(Vec::new())
        }
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

/// Packets that went past a node's stack: out of its pods, and into them.
pub(crate) fn fast_counts(agent: &Agent) -> Result<[u64; 2]> {
    let counters = agent.counters()?;
    Ok([
        counters.packets("from_pod", "fast")?,
        counters.packets("from_uplink", "fast")?,
    ])
}

/// Waits until programs are on the veths of so many pods.
pub(crate) fn wait_attached(agent: &Agent, pods: usize) -> Result<()> {
    wait_until("programs are on every pod's veth", PATIENCE, || {
        let status = agent.status().unwrap_or_default();
        let attached = status["status"]["attached"].as_array().cloned();
        let on_pods = |program: &&Value| program["program"] == "from_pod";
        attached.unwrap_or_default().iter().filter(on_pods).count() == pods
    })
}
