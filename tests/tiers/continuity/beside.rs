//! Nodes of the kernel's own vxlan, set up as flannel does it, to which the same happens at the
//! same moment: what they lose is the network's loss, and nobody can lose less.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use twill_testbed::cluster::Cluster;
use twill_testbed::command::{apart, checked};
use twill_testbed::netns::Namespace;
use twill_testbed::stock::Pair;
use twill_testbed::topology::UnderlayOptions;
use twill_testbed::traffic::{EchoServer, Load, Report};

use crate::scene::Scene;
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
}

/// What an event cost here and there.
pub(crate) struct Both {
    pub(crate) ours: Report,
    pub(crate) stock: Report,
}

impl Both {
    /// No flow is broken, and [`Self::no_more_lost`].
    pub(crate) fn no_worse(&self, beyond: u64) -> Result<()> {
        let ours = &self.ours;
        let whole = ours.stream.error.is_none() && ours.requests.error.is_none();
        ensure!(whole && ours.datagrams.changed == 0, "{ours:?}");
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

impl Scene {
    /// [`Scene::measure`] of an event that happens to stock nodes as well, under a load of their
    /// own: two lines of the table.
    pub(crate) fn measure_beside(
        &mut self,
        stock: &Stock,
        event: &str,
        work: impl FnOnce(&mut Cluster, &Pair) -> Result<()>,
    ) -> Result<Both> {
        let [a, b] = &stock.pair.pods;
        let load = Load::start(a.namespace(), b.address())?;
        let ours = self.measure(event, |cluster| work(cluster, &stock.pair))?;
        let stock = load.report();
        table::add(&format!("{event}: the kernel alone, beside it"), &stock)?;
        Ok(Both { ours, stock })
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
