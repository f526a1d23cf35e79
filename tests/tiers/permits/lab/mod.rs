//! Two nodes with two pods each and kube-proxy's rules: with Twill, and stock beside them.

mod pods;
mod proof;
mod records;

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::cluster::{Cluster, Member};
use twill_testbed::lease_server::usual_config;
use twill_testbed::netns::{Namespace, Prefix};
use twill_testbed::subnet_env::Delegate;
use twill_testbed::topology::{Node, UnderlayOptions};
use twill_testbed::wait::wait_until;
use twill_testbed::world::{NODE_A, NODE_B};
use twill_tests::required;

use crate::rules::{self, Dialect};

/// The permit time of these tests: as short as makes sense, so that they are quick.
pub(crate) const PERMIT_TIME: Duration = Duration::from_secs(2);
/// What a busy machine may add to a time.
pub(crate) const SLACK: Duration = Duration::from_millis(700);
/// "Within seconds".
pub(crate) const SECONDS: Duration = Duration::from_secs(15);

/// The first node.
pub(crate) const A: usize = 0;
/// The second node.
pub(crate) const B: usize = 1;

/// Who carries packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Twill, with permits.
    Twill,
    /// Twill, in the mode `direct`.
    Direct,
    /// The kernel, as with flannel: no program, no table, no setting of ours.
    Stock,
}

impl Kind {
    /// The kernel, and what is Twill's default.
    pub(crate) const BOTH: [Self; 2] = [Self::Stock, Self::Twill];
    /// The kernel, and every mode.
    pub(crate) const ALL: [Self; 3] = [Self::Stock, Self::Twill, Self::Direct];

    /// The flags of its agents, and further ones.
    pub(crate) fn flags_with<'a>(self, more: &[&'a str]) -> Vec<&'a str> {
        [self.flags(), more].concat()
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Twill => &["--permit-time", "2", "--resync-interval", "1"],
            Self::Direct => &[
                "--permit-time",
                "2",
                "--resync-interval",
                "1",
                "--fast-path",
                "direct",
            ],
            Self::Stock => &["--datapath", "kernel", "--fast-path", "off"],
        }
    }
}

/// Nodes `a` and `b` with two pods each.
pub(crate) struct Lab {
    pub(crate) kind: Kind,
    pub(crate) cluster: Cluster,
    dialect: Dialect,
    stock_sender: bool,
}

/// How the nodes of a lab are made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// The kind of rule set.
    pub(crate) dialect: Dialect,
    /// The wires between the nodes.
    pub(crate) underlay: UnderlayOptions,
    /// Further flags of the agents that run Twill.
    pub(crate) flags: &'static [&'static str],
    /// Another permit time than [`PERMIT_TIME`], seconds.
    pub(crate) permit_seconds: Option<&'static str>,
    /// The CNI plugin that wires the pods.
    pub(crate) delegate: Delegate,
    /// Whether the first node is stock in any case.
    pub(crate) stock_sender: bool,
    /// The MTU in the network config, bytes.
    pub(crate) backend_mtu: Option<u32>,
    /// What is done to a node before its agent starts.
    pub(crate) prepare: Option<fn(&Node) -> Result<()>>,
}

impl Options {
    /// Agents with further flags.
    pub(crate) fn flags(flags: &'static [&'static str]) -> Self {
        Self {
            flags,
            ..Self::default()
        }
    }

    /// Another kind of rule set.
    pub(crate) fn dialect(dialect: Dialect) -> Self {
        Self {
            dialect,
            ..Self::default()
        }
    }
}

/// Runs `scenario` on nodes of each kind, at the same time, and gives what it gave, in their
/// order. Where the tier was not asked for it does nothing and gives nothing.
pub(crate) fn run<T: Send>(
    kinds: &[Kind],
    options: Options,
    scenario: impl Fn(&mut Lab) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    if !required() {
        return Ok(Vec::new());
    }
    let run = |kind: Kind| -> Result<T> {
        let mut lab = Lab::new(kind, options).with_context(|| format!("with {kind:?}"))?;
        let result = scenario(&mut lab);
        let result = lab.cluster.explained(result);
        result.with_context(|| format!("with {kind:?}"))
    };
    thread::scope(|scope| {
        let running: Vec<_> = kinds
            .iter()
            .map(|kind| scope.spawn(move || run(*kind)))
            .collect();
        let ended = running.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        // Every thread is waited for before the first error is told.
        ended.collect::<Vec<_>>().into_iter().collect()
    })
}

/// [`run`] on stock nodes and with permits.
pub(crate) fn both(
    options: Options,
    scenario: impl Fn(&mut Lab) -> Result<()> + Sync,
) -> Result<()> {
    run(&Kind::BOTH, options, scenario).map(drop)
}

/// [`run`] with permits only: what stock nodes have nothing to show for.
pub(crate) fn twill(
    options: Options,
    scenario: impl Fn(&mut Lab) -> Result<()> + Sync,
) -> Result<()> {
    run(&[Kind::Twill], options, scenario).map(drop)
}

impl Lab {
    /// Makes the nodes, once they know each other and programs are on every pod's veth.
    fn new(kind: Kind, options: Options) -> Result<Self> {
        let mut config: serde_json::Value = serde_json::from_str(&usual_config())?;
        if let Some(mtu) = options.backend_mtu {
            config["Backend"]["MTU"] = mtu.into();
        }
        let underlay = options.underlay;
        let mut cluster = Cluster::with_config(Prefix::unique(), underlay, &config.to_string())?;
        for (label, address) in [("a", NODE_A), ("b", NODE_B)] {
            let stock = kind == Kind::Stock || options.stock_sender && address == NODE_A;
            let mut flags = if stock { Kind::Stock } else { kind }.flags().to_vec();
            if !stock {
                flags.extend(options.flags);
                if let (Some(value), Some(seconds)) = (flags.get_mut(1), options.permit_seconds) {
                    *value = seconds;
                }
            }
            let node = cluster.underlay.join(label, address)?;
            if let Some(prepare) = options.prepare {
                prepare(&node)?;
            }
            let member = cluster.add_agent(node, &flags)?;
            member.add_pod_by(options.delegate, "1")?;
            member.add_pod_by(options.delegate, "2")?;
        }
        cluster.wait_mesh()?;
        let lab = Self {
            kind,
            cluster,
            dialect: options.dialect,
            stock_sender: options.stock_sender,
        };
        lab.serve(&[lab.pod(B, 0).address()])?;
        lab.cluster.explained(lab.wait_attached())?;
        Ok(lab)
    }

    /// Puts kube-proxy's rules in force on both nodes, in place of those that were there: the
    /// Service [`rules::ONE`] has these backends.
    pub(crate) fn serve(&self, backends: &[Ipv4Addr]) -> Result<()> {
        let pods = [self.pod(B, 0).address(), self.pod(B, 1).address()];
        let services = rules::services(backends, &pods);
        for member in &self.cluster.members {
            rules::install(member.node.namespace(), self.dialect, &services)?;
        }
        Ok(())
    }

    /// Waits until programs are on every pod's veth.
    pub(crate) fn wait_attached(&self) -> Result<()> {
        for node in self.twill_nodes() {
            let member = self.member(*node);
            wait_until("programs are on every pod's veth", SECONDS, || {
                let status = member.agent.ctl(&["status"]).unwrap_or_default();
                let pins = status["pins"]["attached"].as_array();
                let veths: Result<Vec<_>> = member
                    .pods
                    .iter()
                    .map(|pod| Ok(pod.namespace().link_json("eth0")?["link_index"].clone()))
                    .collect();
                let (Some(pins), Ok(veths)) = (pins, veths) else {
                    return false;
                };
                veths.iter().all(|veth| {
                    let on = pins.iter().filter(|pin| pin["ifindex"] == *veth);
                    on.count() == 2
                })
            })?;
        }
        Ok(())
    }

    /// A node, [`A`] or [`B`].
    pub(crate) fn member(&self, node: usize) -> &Member {
        &self.cluster.members[node]
    }

    /// The host's namespace of a node.
    pub(crate) fn host(&self, node: usize) -> &Namespace {
        self.member(node).node.namespace()
    }

    /// Runs a program in a node's namespace, words parted by blanks.
    pub(crate) fn on(&self, node: usize, line: &str) -> Result<String> {
        let words: Vec<_> = line.split_whitespace().collect();
        self.host(node).run(&words)
    }

    /// Runs programs in both nodes' namespaces, one a line.
    pub(crate) fn on_both(&self, lines: &str) -> Result<()> {
        [A, B]
            .iter()
            .try_for_each(|node| self.host(*node).run_lines(lines))
    }

    /// Whether programs carry packets, in any mode.
    pub(crate) fn has_programs(&self) -> bool {
        self.kind != Kind::Stock
    }

    /// The nodes with programs.
    pub(crate) fn twill_nodes(&self) -> &'static [usize] {
        match (self.kind, self.stock_sender) {
            (Kind::Stock, _) => &[],
            (Kind::Twill | Kind::Direct, true) => &[B],
            (Kind::Twill | Kind::Direct, false) => &[A, B],
        }
    }

    /// Ends every permit of every node.
    pub(crate) fn flush(&self) -> Result<()> {
        for node in self.twill_nodes() {
            let agent = &self.member(*node).agent;
            agent.ctl_text(&["permits", "flush", "--all"])?;
        }
        Ok(())
    }
}

/// What every comparison rests on: a stock node has nothing of ours.
#[test]
fn a_stock_node_is_stock() -> Result<()> {
    let scenario = |lab: &mut Lab| {
        for node in [A, B] {
            let liberal = "net.netfilter.nf_conntrack_tcp_be_liberal";
            let liberal = lab.host(node).sysctl(liberal)?;
            ensure!(liberal == "0", "be_liberal is {liberal}");
            let tables = lab.on(node, "nft list tables")?;
            ensure!(!tables.contains("inet twill"), "{tables}");
            let pins = lab.member(node).agent.pins();
            ensure!(!pins.exists(), "there are pins");
        }
        Ok(())
    };
    run(&[Kind::Stock], Options::default(), scenario).map(drop)
}
