//! A node with its lease in etcd and a pod, looked after by a real flanneld or by Twill.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail, ensure};
use twill_testbed::agent::Agent;
use twill_testbed::flanneld::Flanneld;
use twill_testbed::pod::Pod;
use twill_testbed::subnet_env::SubnetEnv;
use twill_testbed::topology::Node;
use twill_testbed::world::OVERLAY_LINK;

use super::lab::{Lab, PATIENCE};
use super::nodes::wait_route;

const FLAGS: [&str; 1] = ["--ip-masq"];

/// Who looks after a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Flanneld,
    Twill,
}

#[derive(Debug)]
enum Running {
    Flanneld(Flanneld),
    Twill(Agent),
}

/// A node with a pod, and who looks after it, if somebody does.
pub(crate) struct Member {
    // Pods go first, then daemons, then their nodes: fields are dropped in order.
    pub(crate) pod: Option<Pod>,
    running: Option<Running>,
    env: Option<SubnetEnv>,
    pub(crate) node: Node,
    endpoints: String,
}

impl Member {
    /// A node that nobody looks after yet.
    pub(crate) fn new(lab: &Lab, label: &str, address: Ipv4Addr) -> Result<Self> {
        Ok(Self {
            pod: None,
            running: None,
            env: None,
            node: lab.underlay.join(label, address)?,
            endpoints: lab.etcd.endpoints(),
        })
    }

    /// One with an agent that is ready.
    pub(crate) fn of_twill(lab: &Lab, label: &str, address: Ipv4Addr) -> Result<Self> {
        let mut member = Self::new(lab, label, address)?;
        member.start(Kind::Twill)?;
        Ok(member)
    }

    /// Starts the daemon, and adds the pod the first time.
    pub(crate) fn start(&mut self, kind: Kind) -> Result<()> {
        let (running, env) = match kind {
            Kind::Flanneld => {
                let daemon = Flanneld::start(&self.node, &self.endpoints, &FLAGS)?;
                let env = daemon.subnet_env()?;
                (Running::Flanneld(daemon), env)
            }
            Kind::Twill => {
                let mut agent = Agent::on_etcd(&self.node, &self.endpoints, &FLAGS);
                agent.start_again()?;
                let env = agent.wait_ready_for(PATIENCE)?;
                (Running::Twill(agent), env)
            }
        };
        self.running = Some(running);
        if let Some(before) = self.env.replace(env) {
            ensure!(before == env, "subnet.env was {before:?} and is {env:?}");
        }
        if self.pod.is_none() {
            self.pod = Some(Pod::add(&self.node, "1", &env)?);
        }
        Ok(())
    }

    /// Ends the daemon in order.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.stopped().map(drop)
    }

    /// Ends the daemon in order, and leaves what the other one is to find.
    pub(crate) fn hand_over(&mut self) -> Result<()> {
        if let Some(agent) = self.stopped()? {
            agent.ctl_text(&["handover"])?;
        }
        Ok(())
    }

    /// The agent that was ended, with its pins, if it was one.
    fn stopped(&mut self) -> Result<Option<Agent>> {
        match self.running.take().context("nobody runs")? {
            Running::Flanneld(daemon) => daemon.stop().map(|()| None),
            Running::Twill(mut agent) => {
                let ended = agent.stop()?;
                ensure!(ended.success(), "twilld: {ended}");
                Ok(Some(agent))
            }
        }
    }

    /// The node dies, and with it, in its time, its lease.
    pub(crate) fn die(&mut self, lab: &Lab) -> Result<()> {
        match self.running.take().context("nobody runs")? {
            Running::Flanneld(daemon) => daemon.kill()?,
            Running::Twill(mut agent) => agent.kill()?,
        }
        let (_, lease) = lab.get(&self.key()?)?.context("no lease")?;
        let revoke = ["lease", "revoke", &format!("{lease:x}")];
        lab.etcd.ctl(&revoke).map(drop)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Another network: what was in subnet.env may change.
    pub(crate) fn forget_env(&mut self) {
        self.env = None;
    }

    /// The agent, where Twill looks after the node.
    pub(crate) fn agent(&mut self) -> Result<&mut Agent> {
        match &mut self.running {
            Some(Running::Twill(agent)) => Ok(agent),
            other => bail!("no agent but {other:?}"),
        }
    }

    /// What CNI plugins were told, once they were.
    pub(crate) fn env(&self) -> Result<SubnetEnv> {
        self.env.context("no subnet.env yet")
    }

    pub(crate) fn has_env(&self) -> bool {
        self.env.is_some()
    }

    pub(crate) fn subnet(&self) -> Result<String> {
        Ok(self.env()?.prefix().to_string())
    }

    /// The subnet's key in etcd.
    pub(crate) fn key(&self) -> Result<String> {
        Ok(self.subnet()?.replace('/', "-"))
    }

    pub(crate) fn pod(&self) -> Result<&Pod> {
        self.pod.as_ref().context("no pod")
    }

    /// Waits until the route to the other one's pods is there, or is not.
    pub(crate) fn wait_route(&self, other: &Self, there: bool) -> Result<()> {
        wait_route(&self.node, &other.subnet()?, there)
    }

    /// What the kernel has for the other nodes, as people see it.
    pub(crate) fn tables(&self) -> Result<[Vec<String>; 3]> {
        let lines = |words: &[&str]| -> Result<Vec<String>> {
            let text = self.node.namespace().run(words)?;
            let mut lines: Vec<_> = text.lines().map(|line| line.trim().to_owned()).collect();
            lines.sort();
            Ok(lines)
        };
        Ok([
            lines(&["ip", "route", "show", "dev", OVERLAY_LINK])?,
            lines(&["ip", "neigh", "show", "dev", OVERLAY_LINK])?,
            lines(&["bridge", "fdb", "show", "dev", OVERLAY_LINK])?,
        ])
    }
}
