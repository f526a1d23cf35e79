//! Twill itself: two agents, a lease server, and what the agents' programs counted.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use twill_testbed::agent::Agent;
use twill_testbed::counters::Counters;
use twill_testbed::lease_server::LeaseServer;
use twill_testbed::pod::Pod;
use twill_testbed::subnet_env::SubnetEnv;
use twill_testbed::topology::{Node, behind};
use twill_testbed::wait::wait_until;
use twill_testbed::world::OVERLAY_LINK;

use super::Network;
use super::crowd;
use super::kernel::pod_to_pod;
use crate::case::{Subject, Target};
use crate::cpu::ProcessUse;
use crate::leases;
use crate::load::Ends;
use crate::topology::{self, Setup};

/// How long the agents may take to know each other.
const MESH: Duration = Duration::from_mins(1);
/// Room in the maps beside what there is of nodes and flows that do not exist.
const ROOM: u32 = 64;

pub(super) struct Twill {
    // Pods go before agents, agents before nodes: fields are dropped in order.
    pods: [Pod; 2],
    agents: [Agent; 2],
    _lease_server: LeaseServer,
    _nodes: [Node; 2],
}

impl Twill {
    pub(super) fn new(subject: Subject, setup: Setup) -> Result<Self> {
        let mode = subject
            .fast_path()
            .with_context(|| format!("{subject} is no mode of Twill's"))?;
        let (prefix, nodes) = topology::nodes(setup)?;
        let [a, b] = &nodes;
        let host = behind(&prefix, "leases", a, b)?;
        let lease_server = LeaseServer::start_on(host, &setup.net_conf())?;
        let mut agents = [a, b].map(|node| agent(node, &lease_server, mode, setup));
        for agent in &mut agents {
            agent.start_again()?;
        }
        let mut envs = Vec::new();
        for agent in &mut agents {
            envs.push(agent.wait_ready_for(MESH)?);
            check_mode(agent)?;
        }
        let &[env_a, env_b] = envs.as_slice() else {
            bail!("two agents, and not two subnets");
        };
        for (agent, node, other) in [(&agents[0], a, env_b), (&agents[1], b, env_a)] {
            wait_until("the nodes know each other", MESH, || {
                knows(agent, node, other).unwrap_or(false)
            })?;
        }
        let pods = [Pod::add(a, "1", &env_a)?, Pod::add(b, "1", &env_b)?];
        topology::add_services([a, b], pods[1].address(), setup)?;
        topology::widen_ports(&pods)?;
        let ends = pod_to_pod(&pods, Target::Pod);
        if setup.permits > 0 {
            crowd::fill(&agents, ends, setup.permits).context("make permits")?;
        }
        if setup.leases > 0 {
            for (agent, node) in agents.iter_mut().zip(&nodes) {
                crowd::first(agent, ends)?;
                add_leases(agent, node, setup.leases).context("make leases")?;
            }
        }
        Ok(Self {
            pods,
            agents,
            _lease_server: lease_server,
            _nodes: nodes,
        })
    }
}

/// Leases of so many other nodes, in the kernel's tables and in the programs' maps. By the agents
/// themselves two times a hundred thousand were not done in a quarter of an hour
/// ([`leases::fill_kernel`] says why); what that costs is for `--converge` to tell. The agent is
/// away, or it would clear away what its lease server does not know; its programs stay.
fn add_leases(agent: &mut Agent, node: &Node, count: u32) -> Result<()> {
    agent.stop()?;
    leases::fill_kernel(node, count)?;
    leases::fill_maps(&agent.pins(), count)
}

/// Whether the kernel and the programs have the other node.
fn knows(agent: &Agent, node: &Node, other: SubnetEnv) -> Result<bool> {
    let subnet = other.prefix().to_string();
    let route = ["ip", "route", "show", &subnet, "dev", OVERLAY_LINK];
    let mapped = agent.status()?["pins"]["routes"].as_u64();
    Ok(!node.namespace().run(&route)?.is_empty() && mapped >= Some(1))
}

/// An agent, not started yet, with room for all that the nodes are built with.
pub(crate) fn agent(node: &Node, server: &LeaseServer, mode: &str, setup: Setup) -> Agent {
    let flags = flags(mode, setup);
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    Agent::new(node, &server.url(), &flags)
}

/// The same with its leases in etcd.
pub(crate) fn agent_on_etcd(node: &Node, endpoints: &str, mode: &str, setup: Setup) -> Agent {
    let flags = flags(mode, setup);
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    Agent::on_etcd(node, endpoints, &flags)
}

fn flags(mode: &str, setup: Setup) -> Vec<String> {
    let mut flags = vec![format!("--fast-path={mode}"), "--ip-masq".to_owned()];
    if setup.leases > 0 {
        let room = (setup.leases + ROOM).next_power_of_two();
        flags.push(format!("--max-vteps={room}"));
        flags.push(format!("--max-routes={room}"));
    }
    let permits = (setup.permits > 0).then(|| (setup.permits + ROOM).next_power_of_two());
    if let Some(room) = setup.max_permits.or(permits) {
        flags.push(format!("--max-permits={room}"));
    }
    flags
}

/// Whether BPF is in use: the kernel path under Twill's name is no result.
pub(crate) fn check_mode(agent: &Agent) -> Result<()> {
    let told = agent.status()?;
    let status = &told["status"];
    if status["mode"] == "bpf" {
        return Ok(());
    }
    let reason = status["reason"].as_str().unwrap_or("no reason is told");
    Err(anyhow!("BPF is not in use on this kernel: {reason}"))
}

impl Network for Twill {
    fn ends(&self, target: Target) -> Ends<'_> {
        pod_to_pod(&self.pods, target)
    }

    fn carried(&self) -> Result<Option<Carried>> {
        let [a, b] = &self.agents;
        let (a, b) = (Carried::of(&a.counters()?), Carried::of(&b.counters()?));
        Ok(Some(a.and(b)))
    }

    fn agents(&mut self) -> Result<Vec<ProcessUse>> {
        let agents = self.agents.iter_mut();
        agents
            .map(|agent| ProcessUse::of(agent.daemon()?.pid()?))
            .collect()
    }
}

/// Packets that met the programs, and those of them that BPF carried.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Carried {
    /// At the pods' veths and, inside VXLAN, at the uplinks: past the host's stack.
    pub past_the_stack: Share,
    /// At the overlay device: encapsulated after the host's stack.
    pub encapsulated: Share,
}

/// So many of so many.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Share {
    /// So many.
    pub part: u64,
    /// Of so many.
    pub all: u64,
}

impl Share {
    /// From 0 to 1; nothing of nothing is 0.
    pub fn value(self) -> f64 {
        if self.all == 0 {
            return 0.0;
        }
        crate::stats::float(self.part) / crate::stats::float(self.all)
    }

    const fn and(self, other: Self) -> Self {
        Self {
            part: self.part + other.part,
            all: self.all + other.all,
        }
    }

    const fn since(self, earlier: Self) -> Self {
        Self {
            part: self.part.saturating_sub(earlier.part),
            all: self.all.saturating_sub(earlier.all),
        }
    }
}

impl Carried {
    fn of(counters: &Counters) -> Self {
        let share = |program| {
            let mut share = Share::default();
            for count in counters.of(program) {
                if is_beside(&count.reason) {
                    continue;
                }
                share.all += count.packets;
                if count.reason == "fast" {
                    share.part += count.packets;
                }
            }
            share
        };
        Self {
            past_the_stack: share("from_pod").and(share("from_uplink")),
            encapsulated: share("to_overlay"),
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            past_the_stack: self.past_the_stack.and(other.past_the_stack),
            encapsulated: self.encapsulated.and(other.encapsulated),
        }
    }

    /// What came since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            past_the_stack: self.past_the_stack.since(earlier.past_the_stack),
            encapsulated: self.encapsulated.since(earlier.encapsulated),
        }
    }
}

/// Reasons that say nothing about the way of an overlay packet: counted beside the packet's
/// own reason, or no overlay packet.
fn is_beside(reason: &str) -> bool {
    matches!(
        reason,
        "learned" | "never_fast" | "outer_confirmed" | "not_vxlan" | "not_ip"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_overlay_packets() {
        let counters: Counters = serde_json::from_value(serde_json::json!({ "counters": [
            { "program": "from_pod", "reason": "fast", "packets": 90, "bytes": 0 },
            { "program": "from_pod", "reason": "no_permit", "packets": 10, "bytes": 0 },
            { "program": "from_uplink", "reason": "fast", "packets": 80, "bytes": 0 },
            { "program": "from_uplink", "reason": "probe", "packets": 20, "bytes": 0 },
            { "program": "from_uplink", "reason": "not_vxlan", "packets": 500, "bytes": 0 },
            { "program": "to_overlay", "reason": "fast", "packets": 3, "bytes": 0 },
            { "program": "to_overlay", "reason": "learned", "packets": 3, "bytes": 0 },
            { "program": "to_pod", "reason": "fast", "packets": 7, "bytes": 0 },
        ] }))
        .unwrap();
        let carried = Carried::of(&counters);
        assert_eq!(
            carried.past_the_stack,
            Share {
                part: 170,
                all: 200
            }
        );
        assert_eq!(carried.encapsulated, Share { part: 3, all: 3 });
        let twice = carried.and(carried);
        assert_eq!(twice.since(carried), carried);
        assert!((carried.past_the_stack.value() - 0.85).abs() < 1e-9);
        assert!(Share::default().value().abs() < 1e-9);
    }
}
