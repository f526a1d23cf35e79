//! Two nodes with a pod each, and load between the pods, a part of it to a Service, while something
//! happens to the first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use twill_testbed::agent::Agent;
use twill_testbed::cluster::{Cluster, Member};
use twill_testbed::netns::Prefix;
use twill_testbed::service::{self, SERVICE};
use twill_testbed::topology::UnderlayOptions;
use twill_testbed::traffic::{EchoServer, Load, Report};
use twill_testbed::wait::wait_for;
use twill_testbed::world::{NETWORK, NODE_A, NODE_B};

use crate::table;

/// "Within seconds", with room for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Programs of a node with one pod.
pub(crate) const PROGRAMS: usize = 5;

/// Flags of an agent that attaches its programs as on kernels without TCX.
pub(crate) const BY_FILTERS: &[&str] = &["--attach-by", "netlink"];

/// Flags of an agent in the mode `direct`.
pub(crate) const DIRECT: &[&str] = &["--fast-path", "direct"];

/// Flags of an agent that looks at everything once: what it does later, it does because it was told.
pub(crate) const ONCE: &[&str] = &["--resync-interval", "3600"];

/// Whether there is a scene: several loads at once would measure each other.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The right to be the only scene. Unlike a lock's guard it may go to another thread.
pub(crate) struct Alone;

impl Alone {
    pub(crate) fn wait() -> Self {
        while TAKEN.swap(true, Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(10));
        }
        Self
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        TAKEN.store(false, Ordering::Release);
    }
}

/// The scene.
pub(crate) struct Scene {
    _echo: EchoServer,
    pub(crate) cluster: Cluster,
    _alone: Alone,
}

impl Scene {
    /// Two nodes whose agents have these further flags, with every program attached.
    pub(crate) fn new(flags: &[&str]) -> Result<Self> {
        let scene = Self::unsettled(flags)?;
        for Member { agent, .. } in &scene.cluster.members {
            wait_attached(agent)?;
        }
        Ok(scene)
    }

    /// The same, where new pods' veths may be without programs yet.
    pub(crate) fn unsettled(flags: &[&str]) -> Result<Self> {
        let alone = Alone::wait();
        let mut cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
        for (label, address) in [("a", NODE_A), ("b", NODE_B)] {
            cluster.add_node_with(label, address, flags)?.add_pod("1")?;
        }
        cluster.wait_mesh()?;
        let backend = &cluster.members[1].pods[0];
        let echo = EchoServer::start(backend.namespace())?;
        for Member { node, .. } in &cluster.members {
            service::add(node, NETWORK, backend.address(), 0)?;
        }
        Ok(Self {
            _echo: echo,
            cluster,
            _alone: alone,
        })
    }

    /// The node that things happen to.
    pub(crate) fn node(&mut self) -> &mut Member {
        &mut self.cluster.members[0]
    }

    /// Does `work` in the middle of traffic that is fast, and waits until it is fast again: a line
    /// of the table.
    pub(crate) fn measure(
        &mut self,
        event: &str,
        work: impl FnOnce(&mut Cluster) -> Result<()>,
    ) -> Result<Report> {
        let [a, b] = self.cluster.members.as_slice() else {
            unreachable!("a scene has two nodes")
        };
        let (from, to) = (a.pods[0].namespace(), b.pods[0].address());
        let load = Load::start_beside(from, to, SERVICE)?;
        let measured = wait_fast(&a.agent, "before")
            .and_then(|()| wait_translated(&a.agent))
            .and_then(|()| work(&mut self.cluster))
            .and_then(|()| wait_fast(&self.cluster.members[0].agent, "afterwards"));
        let report = load.report();
        table::add(event, &report)?;
        self.cluster.explained(measured)?;
        Ok(report)
    }

    /// [`Self::measure`] of an event that nobody may notice.
    pub(crate) fn unnoticed(
        &mut self,
        event: &str,
        work: impl FnOnce(&mut Cluster) -> Result<()>,
    ) -> Result<()> {
        let report = self.measure(event, work)?;
        self.cluster.explained(report.check())
    }
}

/// Flows that were there live on; what was sent while there was no way is lost, as it must be.
pub(crate) fn lived_on(report: &Report) -> Result<()> {
    let whole = report.stream.error.is_none() && report.requests.error.is_none();
    ensure!(whole && report.datagrams.changed == 0, "{report:?}");
    Ok(())
}

/// Waits until every program is attached on a node with one pod.
pub(crate) fn wait_attached(agent: &Agent) -> Result<()> {
    wait_for("every program is attached", PATIENCE, || {
        let status = agent.status()?;
        let attached = status["pins"]["attached"].as_array().map(Vec::len);
        Ok((attached == Some(PROGRAMS)).then_some(()))
    })
}

/// Waits until packets of the node's pod skip its stack, in both directions.
pub(crate) fn wait_fast(agent: &Agent, when: &str) -> Result<()> {
    let fast = || -> Result<[u64; 2]> {
        let counters = agent.counters()?;
        Ok([
            counters.packets("from_pod", "fast")?,
            counters.packets("from_uplink", "fast")?,
        ])
    };
    let mut before = None;
    wait_for(&format!("flows are fast {when}"), PATIENCE, || {
        let now = fast()?;
        let [out, back] = *before.get_or_insert(now);
        // More than stragglers.
        ensure!(now[0] > out + 100 && now[1] > back + 100, "{now:?}");
        Ok(Some(()))
    })
}

/// Waits until flows to the Service are fast.
fn wait_translated(agent: &Agent) -> Result<()> {
    wait_for("flows to the Service are fast", PATIENCE, || {
        let peer = SERVICE.to_string();
        let told = agent.ctl(&["permits", "list", "--state", "live", "--peer", &peer])?;
        let permits = told["permits"].as_array().map_or(&[][..], Vec::as_slice);
        let fast = |protocol| {
            let mut permits = permits.iter();
            permits.any(|permit| permit["protocol"] == protocol && permit["nat"] == true)
        };
        ensure!(fast("tcp") && fast("udp"), "{told}");
        Ok(Some(()))
    })
}
