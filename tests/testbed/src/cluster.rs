//! Nodes that run Twill: underlay, lease server, agents, pods.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use ipnetwork::Ipv4Network;

use crate::agent::Agent;
use crate::lease_server::{LeaseServer, usual_config};
use crate::netns::Prefix;
use crate::pod::Pod;
use crate::subnet_env::{Delegate, SubnetEnv};
use crate::topology::{Node, Underlay, UnderlayOptions};
use crate::wait::wait_until;
use crate::world::OVERLAY_LINK;

/// How long the agents may take to know each other.
const MESH: Duration = Duration::from_mins(1);

/// A node with its agent, and the pods on it.
#[derive(Debug)]
pub struct Member {
    /// The pods, in the order they were added. Dropped before their node.
    pub pods: Vec<Pod>,
    /// The agent.
    pub agent: Agent,
    /// The node.
    pub node: Node,
    /// What the agent told CNI plugins.
    pub env: SubnetEnv,
}

impl Member {
    /// Adds a pod, wired by the bridge plugin.
    pub fn add_pod(&mut self, label: &str) -> Result<&Pod> {
        self.add_pod_by(Delegate::Bridge, label)
    }

    /// Adds a pod, wired by this plugin.
    pub fn add_pod_by(&mut self, delegate: Delegate, label: &str) -> Result<&Pod> {
        let pod = Pod::add_by(delegate, &self.node, label, &self.env)?;
        Ok(self.pods.push_mut(pod))
    }

    /// Subnets that the node's kernel sends to the overlay: those of its peers.
    pub fn overlay_routes(&self) -> Result<Vec<Ipv4Network>> {
        let routes = ["ip", "-json", "route", "show", "dev", OVERLAY_LINK];
        let routes: serde_json::Value = serde_json::from_str(&self.node.namespace().run(&routes)?)?;
        let routes = routes.as_array().context("no list of routes")?;
        routes
            .iter()
            .map(|route| {
                let subnet = route["dst"].as_str().context("a route without `dst`")?;
                Ok(subnet.parse()?)
            })
            .collect()
    }
}

/// Several nodes of one overlay network.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes, in the order they were added.
    pub members: Vec<Member>,
    /// The lease server.
    pub lease_server: LeaseServer,
    /// The network between them.
    pub underlay: Underlay,
}

impl Cluster {
    /// An underlay and a lease server, no nodes yet.
    pub fn new(prefix: Prefix, options: UnderlayOptions) -> Result<Self> {
        Self::with_config(prefix, options, &usual_config())
    }

    /// The same with this text as `net-conf.json`.
    pub fn with_config(prefix: Prefix, options: UnderlayOptions, config: &str) -> Result<Self> {
        let underlay = Underlay::with(prefix, options)?;
        Ok(Self {
            members: Vec::new(),
            lease_server: LeaseServer::start_with(&underlay, config)?,
            underlay,
        })
    }

    /// Nodes with an agent and a pod `1` each, once they all know each other.
    pub fn of(nodes: &[(&str, Ipv4Addr)]) -> Result<Self> {
        let mut cluster = Self::new(Prefix::unique(), UnderlayOptions::default())?;
        for (label, address) in nodes {
            cluster.add_node(label, *address)?.add_pod("1")?;
        }
        cluster.wait_mesh()?;
        Ok(cluster)
    }

    /// Adds a node and starts its agent; returns once the agent is ready.
    pub fn add_node(&mut self, label: &str, address: Ipv4Addr) -> Result<&mut Member> {
        self.add_node_with(label, address, &[])
    }

    /// [`Self::add_node`] whose agent is given further flags.
    pub fn add_node_with(
        &mut self,
        label: &str,
        address: Ipv4Addr,
        flags: &[&str],
    ) -> Result<&mut Member> {
        let node = self.underlay.join(label, address)?;
        self.add_agent(node, flags)
    }

    /// Starts an agent with these flags on a node that was made, and perhaps prepared, before;
    /// returns once it is ready.
    pub fn add_agent(&mut self, node: Node, flags: &[&str]) -> Result<&mut Member> {
        let agent = Agent::new(&node, &self.lease_server.url(), flags);
        self.add_prepared(node, agent)
    }

    /// The same with an agent that was prepared as well and is not started yet.
    pub fn add_prepared(&mut self, node: Node, mut agent: Agent) -> Result<&mut Member> {
        let started = agent.start_again().and_then(|()| agent.wait_ready());
        self.explained(started).with_context(|| agent.log_tail())?;
        // Pods leave the node under their own addresses, as where the node masquerades what
        // goes outside: a flow whose source the bridge plugin rewrites is never fast.
        let env = SubnetEnv {
            ip_masq: true,
            ..agent.subnet_env()?
        };
        let member = Member {
            pods: Vec::new(),
            agent,
            node,
            env,
        };
        Ok(self.members.push_mut(member))
    }

    /// Waits until every node has a route to every other node's subnet.
    pub fn wait_mesh(&self) -> Result<()> {
        for member in &self.members {
            let others = || self.members.iter().filter(|other| other.env != member.env);
            let what = format!("{} knows its peers", member.node.namespace().name());
            let waited = wait_until(&what, MESH, || {
                let routes = member.overlay_routes().unwrap_or_default();
                others().all(|other| routes.contains(&other.env.prefix()))
            });
            self.explained(waited)?;
        }
        Ok(())
    }

    /// Adds the end of every log to an error, after its own words.
    pub fn explained<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            let agents = self.members.iter().map(|member| member.agent.log_tail());
            let logs: Vec<_> = std::iter::once(self.lease_server.log_tail())
                .chain(agents)
                .collect();
            anyhow!("{error:#}\n\n{}", logs.join("\n\n"))
        })
    }
}
