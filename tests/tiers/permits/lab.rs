//! Two nodes with pods and kube-proxy's rules: with Twill's permits, and stock beside them.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData};
use twill_abi::{PERMIT_LIVE, Permit};
use twill_agent::datapath::maps::{MapsError, monotonic_ns};
use twill_agent::datapath::permits::Permits;
use twill_agent::datapath::pins::Pins;
use twill_testbed::agent::Agent;
use twill_testbed::cluster::{Cluster, Member};
use twill_testbed::netns::Prefix;
use twill_testbed::pod::Pod;
use twill_testbed::topology::UnderlayOptions;
use twill_testbed::wait::wait_until;
use twill_testbed::world::{NODE_A, NODE_B};

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
    /// The kernel, as with flannel: no program, no table, no setting of ours.
    Stock,
}

impl Kind {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Twill => &["--permit-time", "2", "--resync-interval", "2"],
            Self::Stock => &["--datapath", "kernel", "--fast-path", "off"],
        }
    }
}

/// Nodes `a` and `b` with two pods each.
pub(crate) struct Lab {
    pub(crate) kind: Kind,
    pub(crate) cluster: Cluster,
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
    /// Whether the first node is stock in any case.
    pub(crate) stock_sender: bool,
}

/// Runs `scenario` on nodes with Twill and on stock nodes, at the same time.
pub(crate) fn both(
    options: Options,
    scenario: impl Fn(&mut Lab) -> Result<()> + Sync,
) -> Result<()> {
    let run = |kind: Kind| -> Result<()> {
        let mut lab = Lab::new(kind, options)?;
        let result = scenario(&mut lab);
        let result = lab.cluster.explained(result);
        result.with_context(|| format!("with {kind:?}"))
    };
    thread::scope(|scope| {
        let stock = scope.spawn(|| run(Kind::Stock));
        let twill = run(Kind::Twill);
        let stock = match stock.join() {
            Ok(stock) => stock,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        twill.and(stock)
    })
}

impl Lab {
    /// Makes the nodes, once they know each other and programs are on every pod's veth.
    pub(crate) fn new(kind: Kind, options: Options) -> Result<Self> {
        let mut cluster = Cluster::new(Prefix::unique(), options.underlay)?;
        let kinds = [
            if options.stock_sender {
                Kind::Stock
            } else {
                kind
            },
            kind,
        ];
        for ((label, address), kind) in [("a", NODE_A), ("b", NODE_B)].into_iter().zip(kinds) {
            let mut flags = kind.flags().to_vec();
            if kind == Kind::Twill {
                flags.extend(options.flags);
            }
            let member = cluster.add_node_with(label, address, &flags)?;
            // Masquerading is flannel's, and its rules are in the rule set, not the CNI plugin's.
            member.env.ip_masq = true;
            member.add_pod("1")?;
            member.add_pod("2")?;
        }
        cluster.wait_mesh()?;
        let backends: Vec<_> = cluster.members[B].pods.iter().map(Pod::address).collect();
        for member in &cluster.members {
            rules::install(member.node.namespace(), options.dialect, &backends)?;
        }
        let lab = Self {
            kind,
            cluster,
            stock_sender: options.stock_sender,
        };
        lab.cluster.explained(lab.wait_attached())?;
        Ok(lab)
    }

    fn wait_attached(&self) -> Result<()> {
        for member in self.twill_nodes().iter().map(|node| self.member(*node)) {
            wait_until("programs are on every pod's veth", SECONDS, || {
                let status = member.agent.ctl(&["status"]).unwrap_or_default();
                let pins = status["pins"]["attached"].as_array();
                let on = |program: &str| {
                    pins.is_some_and(|pins| {
                        let on = pins.iter().filter(|pin| pin["program"] == program);
                        on.count() == member.pods.len()
                    })
                };
                on("from_pod") && on("to_pod")
            })?;
        }
        Ok(())
    }

    /// A node, [`A`] or [`B`].
    pub(crate) fn member(&self, node: usize) -> &Member {
        &self.cluster.members[node]
    }

    /// A pod of a node, 0 or 1.
    pub(crate) fn pod(&self, node: usize, pod: usize) -> &Pod {
        &self.member(node).pods[pod]
    }

    /// Runs a program in a node's namespace, words parted by blanks.
    pub(crate) fn on(&self, node: usize, line: &str) -> Result<String> {
        let words: Vec<_> = line.split_whitespace().collect();
        self.member(node).node.namespace().run(&words)
    }

    /// What a program of a node counted for a reason; 0 on stock nodes.
    pub(crate) fn count(&self, node: usize, program: &str, reason: &str) -> Result<u64> {
        if !self.twill_nodes().contains(&node) {
            return Ok(0);
        }
        self.member(node).agent.counters()?.packets(program, reason)
    }

    /// Every permit record of a node, closed and expired ones too; none on stock nodes.
    pub(crate) fn permits(&self, node: usize) -> Result<Vec<Permit>> {
        if !self.twill_nodes().contains(&node) {
            return Ok(Vec::new());
        }
        Ok(open_permits(&self.member(node).agent)?
            .list()?
            .into_values()
            .collect())
    }

    /// Whether a node may carry the flow with this port fast at this moment, both ways.
    pub(crate) fn is_live(&self, node: usize, port: u16) -> Result<bool> {
        let now = monotonic_ns()?;
        let permits = self.permits(node)?;
        Ok(permits.iter().any(|permit| {
            let ports = [permit.pod.local_port, permit.pod.remote_port];
            ports.iter().any(|own| own.to_host() == port)
                && permit.state == PERMIT_LIVE
                && permit.out_until_ns > now
                && permit.in_until_ns > now
        }))
    }

    /// Packets that were carried past the stacks so far: of each node that runs Twill those out
    /// of its pods and those into them.
    pub(crate) fn fast_counts(&self) -> Result<Vec<u64>> {
        let mut counts = Vec::new();
        for node in self.twill_nodes() {
            let counters = self.member(*node).agent.counters()?;
            counts.push(counters.packets("from_pod", "fast")?);
            counts.push(counters.packets("from_uplink", "fast")?);
        }
        Ok(counts)
    }

    /// The nodes with programs.
    pub(crate) fn twill_nodes(&self) -> &'static [usize] {
        match (self.kind, self.stock_sender) {
            (Kind::Stock, _) => &[],
            (Kind::Twill, true) => &[B],
            (Kind::Twill, false) => &[A, B],
        }
    }

    /// Ends every permit of every node.
    pub(crate) fn flush(&self) -> Result<()> {
        for node in self.twill_nodes() {
            self.member(*node)
                .agent
                .ctl_text(&["permits", "flush", "--all"])?;
        }
        Ok(())
    }
}

/// The permit maps of an agent, through its pins.
fn open_permits(agent: &Agent) -> Result<Permits> {
    let instance = agent
        .instance()
        .parse()
        .map_err(|error| anyhow::anyhow!("instance {}: {error}", agent.instance()))?;
    let pins = Pins::new(Path::new("/sys/fs/bpf"), &instance);
    let open = |name: &'static str| {
        let opened = |source| MapsError::Open { map: name, source };
        let data = MapData::from_pin(pins.map(name)).map_err(opened)?;
        Map::from_map_data(data).map_err(opened)
    };
    Ok(Permits::open(open)?)
}

/// Puts rules in force on nodes and gives the time at which they were.
pub(crate) fn forbid(lab: &Lab, rules: &[(usize, &str)]) -> Result<Instant> {
    for (node, rule) in rules {
        lab.on(*node, rule)?;
    }
    Ok(Instant::now())
}
