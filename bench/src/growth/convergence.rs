//! How long an agent takes until the kernel has every route, and until it has one more.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use twill_testbed::agent::Agent;
use twill_testbed::daemon::Daemon;
use twill_testbed::lease_server::LeaseServer;
use twill_testbed::netns::Prefix;
use twill_testbed::route_log::RouteLog;
use twill_testbed::topology::{Node, behind};
use twill_testbed::wait::{check_interrupt, wait_for};
use twill_testbed::world::OVERLAY_LINK;

use crate::case::Shape;
use crate::cpu::ProcessUse;
use crate::leases::{ServerClient, Stranger};
use crate::report::seconds;
use crate::stats::median;
use crate::subject::Programs;
use crate::subject::flannel::{Etcd, start};
use crate::subject::twill::{agent, agent_on_etcd};
use crate::topology::{self, Setup};

/// How long an agent may take for the first and for the last of its leases.
const PATIENCE: Duration = Duration::from_mins(3);
/// How much longer for each lease: the kernel takes the longer for one the more there are.
const PATIENCE_EACH: Duration = Duration::from_millis(20);
/// Routes that are asked for while waiting; asking for all takes longer than some agents.
const SAMPLES: u32 = 64;
/// Leases that are added one by one afterwards.
const CHANGES: u32 = 9;

/// One agent with so many leases.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Convergence {
    /// `twill`, `twill (etcd)` or `flannel`, which has etcd always.
    pub agent: String,
    /// Leases that were there before it.
    pub leases: u32,
    /// From the start of its process to the last route, seconds.
    pub start_s: Option<f64>,
    /// From the start of its process to the last entry in the BPF maps, seconds; of Twill.
    pub mapped_s: Option<f64>,
    /// From the moment that the store is asked to take one more lease to its route, seconds: the
    /// median of some. The store's own time is in it.
    pub change_s: Option<f64>,
    /// CPU time of the agent for all of that, seconds.
    pub cpu_s: Option<f64>,
    /// The most memory of the agent, bytes.
    pub memory_peak_bytes: Option<u64>,
    /// What could not be measured, and why.
    pub problem: Option<String>,
}

/// Of Twill's agent, with its lease server.
pub(super) fn of_twill(leases: u32) -> Convergence {
    let mut found = Convergence::new("twill", leases);
    found.problem = twill(&mut found).err().map(|error| format!("{error:#}"));
    found
}

/// Of Twill's agent, with etcd.
pub(super) fn of_twill_on_etcd(leases: u32, etcd: &Path) -> Convergence {
    let mut found = Convergence::new("twill (etcd)", leases);
    let outcome = twill_on_etcd(&mut found, etcd);
    found.problem = outcome.err().map(|error| format!("{error:#}"));
    found
}

/// Of flanneld, with etcd.
pub(super) fn of_flannel(leases: u32, programs: &Programs) -> Convergence {
    let mut found = Convergence::new("flannel", leases);
    let outcome = flannel(&mut found, programs);
    found.problem = outcome.err().map(|error| format!("{error:#}"));
    found
}

impl Convergence {
    fn new(agent: &str, leases: u32) -> Self {
        Self {
            agent: agent.to_owned(),
            leases,
            start_s: None,
            mapped_s: None,
            change_s: None,
            cpu_s: None,
            memory_peak_bytes: None,
            problem: None,
        }
    }

    fn used(&mut self, daemon: &Daemon) -> Result<()> {
        let used = ProcessUse::of(daemon.pid()?)?;
        self.cpu_s = Some(seconds(used.cpu));
        self.memory_peak_bytes = Some(used.memory_peak_bytes);
        Ok(())
    }
}

fn nodes(leases: u32, label: &str) -> Result<(Prefix, [Node; 2], Node, Setup)> {
    let setup = Setup {
        shape: Shape::Gso,
        services: 0,
        leases,
        permits: 0,
        max_permits: None,
    };
    let (prefix, nodes) = topology::nodes(setup)?;
    let [a, b] = &nodes;
    let host = behind(&prefix, label, a, b)?;
    Ok((prefix, nodes, host, setup))
}

fn twill(found: &mut Convergence) -> Result<()> {
    let leases = found.leases;
    let (_prefix, [node, _other], host, setup) = nodes(leases, "leases")?;
    let server = LeaseServer::start_on(host, &setup.net_conf())?;
    let client = ServerClient::new(&server);
    client.fill(0..leases)?;
    let agent = agent(&node, &server, "permit", setup);
    let add = |number| client.fill(number..number + 1);
    follow_twill(found, &node, agent, add)
}

fn twill_on_etcd(found: &mut Convergence, etcd: &Path) -> Result<()> {
    let leases = found.leases;
    let (_prefix, [node, _other], host, setup) = nodes(leases, "etcd")?;
    let etcd = Etcd::start(host, etcd)?;
    etcd.configure(&setup.net_conf())?;
    let client = etcd.gateway();
    client.fill(0..leases)?;
    let agent = agent_on_etcd(&node, &etcd.url(), "permit", setup);
    let add = |number| client.fill(number..number + 1);
    follow_twill(found, &node, agent, add)
}

fn follow_twill(
    found: &mut Convergence,
    node: &Node,
    mut agent: Agent,
    add: impl Fn(u32) -> Result<()>,
) -> Result<()> {
    let leases = found.leases;
    let began = Instant::now();
    agent.start_again()?;
    let routes = wait_for_routes(node, leases, agent.daemon()?)?;
    found.start_s = Some(seconds(routes.duration_since(began)));
    let mapped = wait_for("the BPF map has all leases", patience(leases), || {
        let asked = Instant::now();
        let mapped = agent.status()?["pins"]["routes"].as_u64();
        Ok((mapped == Some(leases.into())).then_some(asked))
    })?;
    found.mapped_s = Some(seconds(mapped.duration_since(began)));
    found.change_s = Some(changes(node, leases, add)?);
    check_tables(node, leases)?;
    found.used(agent.daemon()?)
}

fn flannel(found: &mut Convergence, programs: &Programs) -> Result<()> {
    let leases = found.leases;
    let (_prefix, [node, _other], host, setup) = nodes(leases, "etcd")?;
    let etcd = Etcd::start(host, &programs.etcd)?;
    etcd.configure(&setup.net_conf())?;
    let client = etcd.gateway();
    client.fill(0..leases)?;
    let began = Instant::now();
    let mut daemon = start(&node, &programs.flanneld, &etcd)?;
    let routes = wait_for_routes(&node, leases, &mut daemon)?;
    found.start_s = Some(seconds(routes.duration_since(began)));
    let add = |number| client.fill(number..number + 1);
    found.change_s = Some(changes(&node, leases, add)?);
    check_tables(&node, leases)?;
    found.used(&daemon)
}

fn patience(leases: u32) -> Duration {
    PATIENCE + PATIENCE_EACH * leases
}

/// A route is the last thing that an agent makes of a lease: neighbours and FDB entries are there.
fn check_tables(node: &Node, leases: u32) -> Result<()> {
    for (name, words) in [
        ("neighbours", ["ip", "neigh", "show", "dev", OVERLAY_LINK]),
        (
            "FDB entries",
            ["bridge", "fdb", "show", "dev", OVERLAY_LINK],
        ),
    ] {
        let count = node.namespace().run(&words)?.lines().count();
        if count < leases as usize {
            bail!("{count} {name} for {leases} leases");
        }
    }
    Ok(())
}

/// Waits until the node has a route to every stranger, and says when that was seen.
fn wait_for_routes(node: &Node, leases: u32, daemon: &mut Daemon) -> Result<Instant> {
    let samples = SAMPLES.min(leases);
    let asked = (0..samples).map(|sample| {
        let number = u64::from(sample) * u64::from(leases) / u64::from(samples);
        let number = u32::try_from(number).unwrap_or(leases);
        Stranger::number(number.min(leases - 1)).subnet
    });
    let asked: Vec<_> = asked.map(|subnet| format!("route get {subnet}")).collect();
    let path = node.directory().join("asked");
    fs::write(&path, asked.join("\n")).with_context(|| format!("write {}", path.display()))?;
    let path = path.display().to_string();
    let what = format!("the node has {leases} routes");
    daemon.wait_for(&what, patience(leases), || {
        let seen = Instant::now();
        // An error is a route that is not there yet.
        let told = node.namespace().run(&["ip", "-batch", &path]);
        let there = |text: &String| text.matches(OVERLAY_LINK).count() == samples as usize;
        if !told.as_ref().is_ok_and(there) {
            return Ok(None);
        }
        let routes = ["ip", "route", "show", "dev", OVERLAY_LINK];
        let count = node.namespace().run(&routes)?.lines().count();
        Ok((count >= leases as usize).then_some(seen))
    })
}

/// From the moment that the store is asked to take one more lease to its route: the median of some,
/// seconds. Its answer comes too late for a beginning: an agent may hear of the lease first.
fn changes(node: &Node, first: u32, add: impl Fn(u32) -> Result<()>) -> Result<f64> {
    let log = RouteLog::start(node.namespace())?;
    let mut times = Vec::new();
    for number in first..first + CHANGES {
        check_interrupt()?;
        let asked = Instant::now();
        add(number)?;
        let there = log.wait_for(&Stranger::number(number).prefix(), PATIENCE)?;
        times.push(seconds(there.duration_since(asked)));
    }
    match median(&times) {
        Some(median) => Ok(median),
        None => bail!("no lease was changed"),
    }
}
