//! What the demo found, as the document for scripts.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use twill_testbed::traffic::Report;

/// All of it; parts that were not reached are absent.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Findings {
    pub(crate) ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    pub(crate) seconds: f64,
    pub(crate) nodes: Vec<NodeFinding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reach: Option<Reach>,
    pub(crate) encapsulated: Vec<Encapsulated>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) throughput: Option<Comparison>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agent_killed: Option<AgentKilled>,
}

impl Findings {
    /// How it ended.
    pub(crate) fn end(&mut self, outcome: &Result<()>, took: Duration) {
        self.ok = outcome.is_ok();
        self.error = outcome.as_ref().err().map(|error| format!("{error:#}"));
        self.seconds = took.as_secs_f64();
    }
}

/// A node with its lease.
#[derive(Debug, Serialize)]
pub(crate) struct NodeFinding {
    pub(crate) node: String,
    pub(crate) underlay: Ipv4Addr,
    pub(crate) subnet: String,
    pub(crate) vtep_mac: String,
    /// `bpf` or `kernel`: who encapsulates.
    pub(crate) mode: String,
    /// Why not BPF.
    pub(crate) reason: Option<String>,
    pub(crate) pods: Vec<Ipv4Addr>,
}

/// Pods that reached each other.
#[derive(Debug, Serialize)]
pub(crate) struct Reach {
    /// Ordered pairs of different pods; each was tried by ping and by TCP.
    pub(crate) pairs: usize,
    /// Those on different nodes.
    pub(crate) pairs_across_nodes: usize,
}

/// Who encapsulated a node's packets.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Encapsulated {
    pub(crate) node: String,
    /// Packets that BPF encapsulated; a GSO packet is one.
    pub(crate) by_bpf: u64,
    /// Packets that the kernel's vxlan device sent.
    pub(crate) by_kernel: u64,
    /// Why `to_overlay` passed packets on to the kernel.
    pub(crate) passed_on: BTreeMap<String, u64>,
}

/// Throughput over Twill and over the plain kernel device.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    /// Bits per second, in the order of the rounds.
    pub(crate) twill: Vec<f64>,
    /// The same over the plain kernel device.
    pub(crate) kernel: Vec<f64>,
    pub(crate) twill_median: f64,
    pub(crate) kernel_median: f64,
    /// Median of each round's quotient of Twill and kernel.
    pub(crate) ratio_median: f64,
    /// Packets that BPF encapsulated in the rounds over Twill.
    pub(crate) by_bpf: u64,
    /// Packets that the kernel encapsulated in the rounds over Twill.
    pub(crate) by_kernel: u64,
}

/// Traffic while one node had no agent.
#[derive(Debug, Serialize)]
pub(crate) struct AgentKilled {
    pub(crate) node: String,
    /// Packets that the node's BPF encapsulated while the agent was dead.
    pub(crate) by_bpf: u64,
    /// Traffic from before the kill until after the agent's return.
    pub(crate) traffic: Report,
}
