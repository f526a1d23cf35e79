//! What the programs of a lab's nodes remember and count, read from their maps.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use twill_abi::maps::{COUNTERS_MAP, PENDING, PERMITS_POD, PERMITS_WIRE, VTEP_COUNTERS};
use twill_abi::{FlowTuple, Mapping, PERMIT_LIVE, Pending, Permit};
use twill_agent::datapath::maps::{MapsError, monotonic_ns};
use twill_agent::datapath::permits::Permits;
use twill_agent::datapath::pins::Pins;
use twill_agent::datapath::stats::Counters;

use super::Lab;

impl Lab {
    /// Packets that a program of a node counted for a reason; 0 on stock nodes.
    pub(crate) fn count(&self, node: usize, program: &str, reason: &str) -> Result<u64> {
        if !self.twill_nodes().contains(&node) {
            return Ok(0);
        }
        let maps = [COUNTERS_MAP.name, VTEP_COUNTERS.name].map(|name| self.map(node, name));
        let [by_reason, by_vtep] = maps;
        let counts = Counters::open(by_reason?, by_vtep?)?.all()?;
        let count = counts
            .iter()
            .find(|count| count.program.label() == program && count.reason.label() == reason);
        let count = count.with_context(|| format!("no counter {program}/{reason}"))?;
        Ok(count.packets)
    }

    /// Packets that went past the stacks so far: of each node that runs Twill those out of its
    /// pods and those into them.
    pub(crate) fn fast_counts(&self) -> Result<Vec<u64>> {
        self.fast_counts_of(self.twill_nodes())
    }

    /// [`Self::fast_counts`] of some nodes.
    pub(super) fn fast_counts_of(&self, nodes: &[usize]) -> Result<Vec<u64>> {
        let mut counts = Vec::new();
        for node in nodes {
            counts.push(self.count(*node, "from_pod", "fast")?);
            counts.push(self.count(*node, "from_uplink", "fast")?);
        }
        Ok(counts)
    }

    /// Every record of a node, closed and expired ones too; none on stock nodes.
    pub(crate) fn permits(&self, node: usize) -> Result<Vec<Permit>> {
        if !self.twill_nodes().contains(&node) {
            return Ok(Vec::new());
        }
        let pins = self.pins(node)?;
        let open = |name: &'static str| {
            let opened = MapData::from_pin(pins.map(name)).and_then(Map::from_map_data);
            opened.map_err(|source| MapsError::Open { map: name, source })
        };
        Ok(Permits::open(open)?.list()?.into_values().collect())
    }

    /// The record of the flow with this port on the pod's side.
    pub(crate) fn permit(&self, node: usize, local_port: u16) -> Result<Option<Permit>> {
        let mut permits = self.permits(node)?.into_iter();
        Ok(permits.find(|permit| permit.pod.local_port.to_host() == local_port))
    }

    /// Whether a node may carry the flow with this port, of either end, fast at this moment, both
    /// ways.
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

    /// What a node's pods sent, and what became of it.
    pub(crate) fn notes(&self, node: usize) -> Result<Vec<Pending>> {
        let map: HashMap<_, u32, Pending> = self.map(node, PENDING.name)?.try_into()?;
        let notes = map.iter().filter_map(Result::ok);
        Ok(notes.map(|(_, note)| note).collect())
    }

    /// Forgets the flows of a node, as an LRU map under pressure would.
    pub(crate) fn evict(&self, node: usize) -> Result<()> {
        let permits = self.permits(node)?;
        if permits.is_empty() {
            return Ok(());
        }
        let mut pod: HashMap<_, FlowTuple, Permit> =
            self.map(node, PERMITS_POD.name)?.try_into()?;
        let mut wire: HashMap<_, FlowTuple, Mapping> =
            self.map(node, PERMITS_WIRE.name)?.try_into()?;
        for permit in permits {
            pod.remove(&permit.pod)?;
            if permit.wire != permit.pod {
                wire.remove(&permit.wire)?;
            }
        }
        Ok(())
    }

    /// A map of a node's agent, by its pin.
    pub(crate) fn map(&self, node: usize, name: &str) -> Result<Map> {
        let opened = MapData::from_pin(self.pins(node)?.map(name)).and_then(Map::from_map_data);
        opened.with_context(|| format!("open the map {name} of node {node}"))
    }

    fn pins(&self, node: usize) -> Result<Pins> {
        let instance = self.member(node).agent.instance().parse()?;
        Ok(Pins::new(Path::new("/sys/fs/bpf"), &instance))
    }
}
