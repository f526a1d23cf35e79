//! Nodes of a real flanneld and of Twill on one etcd, and hosts that go from one to the other.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::agent::Agent;
use twill_testbed::flanneld::Flanneld;
use twill_testbed::pod::Pod;
use twill_testbed::subnet_env::SubnetEnv;
use twill_testbed::topology::Node;
use twill_testbed::traffic::{EchoServer, Load, ping};
use twill_testbed::wait::wait_until;
use twill_testbed::world::{NODE_A, NODE_B, NODE_C, OVERLAY_LINK, VTEP_MAC_A};
use twill_tests::required;

use super::lab::{Lab, PATIENCE, USUAL};
use super::nodes::{device_mac, register, wait_route, written};

const NODE_D: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 4);
const FLAGS: [&str; 1] = ["--ip-masq"];

/// Who looks after a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Flanneld,
    Twill,
}

#[derive(Debug)]
enum Running {
    Flanneld(Flanneld),
    Twill(Agent),
}

/// A node with a pod, and who looks after it, if somebody does.
struct Member<'a> {
    // Pods go first, then daemons, then their nodes: fields are dropped in order.
    pod: Option<Pod>,
    running: Option<Running>,
    env: Option<SubnetEnv>,
    node: Node,
    lab: &'a Lab,
}

impl<'a> Member<'a> {
    fn new(lab: &'a Lab, label: &str, address: Ipv4Addr) -> Result<Self> {
        Ok(Self {
            pod: None,
            running: None,
            env: None,
            node: lab.underlay.join(label, address)?,
            lab,
        })
    }

    /// Starts the daemon, and adds the pod the first time.
    fn start(&mut self, kind: Kind) -> Result<()> {
        let endpoints = self.lab.etcd.endpoints();
        let (running, env) = match kind {
            Kind::Flanneld => {
                let daemon = Flanneld::start(&self.node, &endpoints, &FLAGS)?;
                let env = daemon.subnet_env()?;
                (Running::Flanneld(daemon), env)
            }
            Kind::Twill => {
                let mut agent = Agent::on_etcd(&self.node, &endpoints, &FLAGS);
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

    /// Ends the daemon in order, and leaves what the other one is to find.
    fn hand_over(&mut self) -> Result<()> {
        match self.running.take().context("nobody runs")? {
            Running::Flanneld(daemon) => daemon.stop()?,
            Running::Twill(mut agent) => {
                let ended = agent.stop()?;
                ensure!(ended.success(), "twilld: {ended}");
                agent.ctl_text(&["handover"])?;
            }
        }
        Ok(())
    }

    /// The node dies, and with it, in its time, its lease.
    fn die(&mut self) -> Result<()> {
        match self.running.take().context("nobody runs")? {
            Running::Flanneld(daemon) => daemon.kill()?,
            Running::Twill(mut agent) => agent.kill()?,
        }
        let (_, lease) = self.lab.get(&self.key()?)?.context("no lease")?;
        let revoke = ["lease", "revoke", &format!("{lease:x}")];
        self.lab.etcd.ctl(&revoke).map(drop)
    }

    fn subnet(&self) -> Result<String> {
        Ok(self.env.context("no subnet")?.prefix().to_string())
    }

    fn key(&self) -> Result<String> {
        Ok(self.subnet()?.replace('/', "-"))
    }

    fn pod(&self) -> Result<&Pod> {
        self.pod.as_ref().context("no pod")
    }

    /// What the kernel has for the other nodes, as people see it.
    fn tables(&self) -> Result<[Vec<String>; 3]> {
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

/// Waits until those that run know each other, and no others, and their pods talk.
fn settle(members: &[Member<'_>]) -> Result<()> {
    let (there, gone): (Vec<&Member<'_>>, Vec<_>) = (members.iter())
        .filter(|member| member.env.is_some())
        .partition(|member| member.running.is_some());
    for member in &there {
        for other in there
            .iter()
            .filter(|other| other.node.address() != member.node.address())
        {
            wait_route(&member.node, &other.subnet()?, true)?;
        }
        for other in &gone {
            wait_route(&member.node, &other.subnet()?, false)?;
        }
    }
    for from in &there {
        for to in there
            .iter()
            .filter(|to| to.node.address() != from.node.address())
        {
            let (namespace, address) = (from.pod()?.namespace(), to.pod()?.address());
            ping(namespace, address, 1000)
                .with_context(|| format!("from {} to {}", from.node.label(), to.node.label()))?;
        }
    }
    Ok(())
}

#[test]
fn nodes_of_a_real_flanneld_and_of_twill_come_and_go() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    let mut members = [("a", NODE_A), ("b", NODE_B), ("c", NODE_C), ("d", NODE_D)]
        .into_iter()
        .map(|(label, address)| Member::new(&lab, label, address))
        .collect::<Result<Vec<_>>>()?;
    // Each kind comes to an empty network's first node and to both kinds.
    let kinds = [Kind::Twill, Kind::Flanneld, Kind::Flanneld, Kind::Twill];
    for n in 0..members.len() {
        members[n].start(kinds[n])?;
        settle(&members)?;
    }
    // Each kind sees each kind go and come back, alone and two at a time.
    for away in [&[1_usize][..], &[0], &[2, 3], &[0, 1]] {
        for &n in away {
            members[n].die()?;
        }
        settle(&members)?;
        for &n in away.iter().rev() {
            members[n].start(kinds[n])?;
        }
        settle(&members)?;
    }
    // A lease that ends by itself ends for both.
    let stranger = written(Ipv4Addr::new(192, 0, 2, 99), VTEP_MAC_A);
    register(&lab, "10.244.254.0-24", &stranger, 5)?;
    for there in [true, false] {
        for member in &members {
            wait_route(&member.node, "10.244.254.0/24", there)?;
        }
    }
    settle(&members)
}

#[test]
fn a_host_goes_from_a_real_flanneld_to_twill_and_back() -> Result<()> {
    moves([Kind::Flanneld, Kind::Twill, Kind::Flanneld])
}

#[test]
fn a_host_goes_from_twill_to_a_real_flanneld_and_back() -> Result<()> {
    moves([Kind::Twill, Kind::Flanneld, Kind::Twill])
}

/// One node is looked after by each of these in turn, its peer by a flanneld; all that
/// time its pod talks to the peer's.
fn moves(kinds: [Kind; 3]) -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    let mut members = [
        Member::new(&lab, "a", NODE_A)?,
        Member::new(&lab, "c", NODE_C)?,
    ];
    members[1].start(Kind::Flanneld)?;
    let [first, others @ ..] = kinds;
    members[0].start(first)?;
    settle(&members)?;
    let (keys, mac) = (lab.etcd.leases()?, device_mac(&members[0].node)?);
    let tables = members[0].tables()?;

    let _echo = EchoServer::start(members[1].pod()?.namespace())?;
    let load = Load::start(members[0].pod()?.namespace(), members[1].pod()?.address())?;
    for kind in others {
        members[0].hand_over()?;
        assert_eq!(members[0].tables()?, tables, "before {kind:?}");
        members[0].start(kind)?;
        settle(&members)?;
        // The same subnet under the same key, with the same value: the node is the one it was.
        assert_eq!(lab.etcd.leases()?, keys, "with {kind:?}");
        assert_eq!(device_mac(&members[0].node)?, mac, "with {kind:?}");
        wait_until("the tables are as before", PATIENCE, || {
            members[0].tables().is_ok_and(|now| now == tables)
        })
        .with_context(|| format!("{kind:?}: {:?} instead of {tables:?}", members[0].tables()))?;
    }
    load.report().check()
}
