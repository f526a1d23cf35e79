//! Nodes of the kernel's own vxlan, set up as flannel does it, to which the same happens at the
//! same moment: what they lose is the network's loss, and nobody can lose less.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use twill_testbed::cluster::Cluster;
use twill_testbed::command::{apart, checked};
use twill_testbed::netns::Namespace;
use twill_testbed::stock::Pair;
use twill_testbed::topology::UnderlayOptions;
use twill_testbed::traffic::{EchoServer, Load, Report};

use crate::scene::{Scene, lived_on};
use crate::table;

/// Two stock nodes with a pod each.
pub(crate) struct Stock {
    _echo: EchoServer,
    pub(crate) pair: Pair,
}

impl Stock {
    pub(crate) fn new() -> Result<Self> {
        let pair = Pair::new(UnderlayOptions::default())?;
        Ok(Self {
            _echo: EchoServer::start(pair.pods[1].namespace())?,
            pair,
        })
    }

    /// What an event costs these nodes, under a load of their own, and the ones that `ours` reports
    /// of, at the same time: a line of the table.
    pub(crate) fn beside(
        &self,
        event: &str,
        ours: impl FnOnce(&Pair) -> Result<Report>,
    ) -> Result<Both> {
        let [a, b] = &self.pair.pods;
        let load = Load::start(a.namespace(), b.address())?;
        let ours = ours(&self.pair)?;
        let stock = load.report();
        table::add(&format!("{event}: the kernel alone, beside it"), &stock)?;
        Ok(Both { ours, stock })
    }
}

/// Gives devices of a node the qdiscs that filters take, by `tc` alone: those of its pods, and
/// these.
pub(crate) fn add_clsact(node: &Namespace, more: &[&str]) -> Result<()> {
    let veths = ["ip", "-json", "link", "show", "master", "cni0"];
    let veths: Value = serde_json::from_str(&node.run(&veths)?)?;
    let veths = veths.as_array().context("no list of links")?;
    let names = veths.iter().map(|veth| veth["ifname"].as_str());
    for name in names.chain(more.iter().map(|name| Some(*name))) {
        let name = name.context("a link without name")?;
        node.run(&["tc", "qdisc", "add", "dev", name, "clsact"])?;
    }
    Ok(())
}

/// What an event cost here and there.
pub(crate) struct Both {
    pub(crate) ours: Report,
    pub(crate) stock: Report,
}

impl Both {
    /// No flow is broken, and [`Self::no_more_lost`].
    pub(crate) fn no_worse(&self, beyond: u64) -> Result<()> {
        lived_on(&self.ours)?;
        self.no_more_lost(beyond)
    }

    /// Twill's nodes lost no more than the stock ones and `beyond` datagrams, of which there is one
    /// each millisecond and its answer.
    pub(crate) fn no_more_lost(&self, beyond: u64) -> Result<()> {
        let [ours, stock] = [&self.ours, &self.stock].map(|report| report.datagrams.lost);
        ensure!(
            ours <= stock + beyond,
            "{ours} datagrams were lost, and {stock} by the kernel alone"
        );
        Ok(())
    }
}

/// What an event cost pods and, over the same uplinks, the nodes that they are on.
pub(crate) struct Hosted {
    pods: Report,
    hosts: Report,
}

impl Hosted {
    /// No pod's flow is broken, pods did not hear of each other for no longer than their nodes and
    /// `beyond`, in milliseconds, and lost nothing but what they sent meanwhile: one each
    /// millisecond at most.
    pub(crate) fn no_longer(&self, beyond: u64) -> Result<()> {
        lived_on(&self.pods)?;
        let [pods, hosts] = [&self.pods, &self.hosts].map(|report| &report.datagrams);
        let longest = hosts.longest_gap_ms + beyond;
        ensure!(
            pods.longest_gap_ms <= longest && pods.lost <= longest,
            "pods: {pods:?}, the hosts themselves: {hosts:?}"
        );
        Ok(())
    }
}

impl Scene {
    /// [`Scene::measure`] beside a load between the nodes themselves, which meets no program: two
    /// lines of the table. Where the network is away for a while, this says for how long: of two
    /// other nodes one may lose its ARP request and wait a second for the next, by chance.
    pub(crate) fn measure_beside_hosts(
        &mut self,
        event: &str,
        work: impl FnOnce(&mut Cluster) -> Result<()>,
    ) -> Result<Hosted> {
        let [a, b] = [0, 1].map(|side| &self.cluster.members[side].node);
        let _echo = EchoServer::start(b.namespace())?;
        let load = Load::start(a.namespace(), b.address())?;
        let pods = self.measure(event, work)?;
        let hosts = load.report();
        table::add(&format!("{event}: the hosts themselves, beside it"), &hosts)?;
        Ok(Hosted { pods, hosts })
    }

    /// [`Scene::measure`] of an event that happens to stock nodes as well, under a load of their
    /// own: two lines of the table.
    pub(crate) fn measure_beside(
        &mut self,
        stock: &Stock,
        event: &str,
        work: impl FnOnce(&mut Cluster, &Pair) -> Result<()>,
    ) -> Result<Both> {
        stock.beside(event, |pair| {
            self.measure(event, |cluster| work(cluster, pair))
        })
    }
}

/// Gives several namespaces lines for `ip -batch`, all at once: the programs run by then.
pub(crate) fn at_once(namespaces: &[&Namespace], lines: &str) -> Result<()> {
    let mut running = Vec::new();
    for namespace in namespaces {
        let mut command = Command::new("ip");
        command
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        apart(&mut command);
        let child = namespace.spawn(&mut command)?;
        running.push((command, child));
    }
    let lines: Vec<&str> = lines.lines().map(str::trim).collect();
    let lines = lines.join("\n") + "\n";
    for (_, child) in &mut running {
        let mut stdin = child.stdin.take().context("no standard input")?;
        stdin.write_all(lines.as_bytes())?;
    }
    for (command, child) in running {
        checked(&command, &child.wait_with_output()?)?;
    }
    Ok(())
}
