//! Permits of flows that nobody measures: copies of one that netfilter has made.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::HashMap;
use twill_abi::maps::PERMITS_POD;
use twill_abi::{Be16, FlowTuple, PERMIT_LIVE, Permit};
use twill_testbed::agent::Agent;
use twill_testbed::wait::{check_interrupt, wait_for};

use crate::case::Traffic;
use crate::load::{Ends, Timing, measure};
use crate::pinned::open;

/// How long the first permit may take.
const PERMIT: Duration = Duration::from_secs(20);
/// Traffic that gets one.
const TRAFFIC: Timing = Timing {
    warm_up: Duration::ZERO,
    window: Duration::from_millis(200),
};
/// A permit that nobody renews does not end while others are measured.
const NEVER_NS: u64 = u64::MAX / 2;

/// Gives both agents' programs permits for so many flows more between these ends.
pub(super) fn fill(agents: &[Agent; 2], ends: Ends<'_>, count: u32) -> Result<()> {
    for agent in agents {
        let (tuple, permit) = first(agent, ends)?;
        let mut permits: HashMap<_, FlowTuple, Permit> =
            open(&agent.pins(), &PERMITS_POD)?.try_into()?;
        for number in 0..count {
            if number % 1024 == 0 {
                check_interrupt()?;
            }
            let tuple = of_number(tuple, number);
            let permit = Permit {
                pod: tuple,
                wire: tuple,
                out_until_ns: NEVER_NS,
                in_until_ns: NEVER_NS,
                probe_out_at_ns: NEVER_NS,
                probe_in_at_ns: NEVER_NS,
                look_at_ns: NEVER_NS,
                ..permit
            };
            permits.insert(tuple, permit, 0).context("write a permit")?;
        }
    }
    Ok(())
}

/// A permit of this node, as soon as traffic between these ends has one: then everything is in
/// place that packets go by.
pub(super) fn first(agent: &Agent, ends: Ends<'_>) -> Result<(FlowTuple, Permit)> {
    let permits: HashMap<_, FlowTuple, Permit> = open(&agent.pins(), &PERMITS_POD)?.try_into()?;
    wait_for("a flow has a permit", PERMIT, || {
        measure(Traffic::UdpTransactions { flows: 1 }, ends, TRAFFIC)?;
        let mut records = permits.iter().filter_map(Result::ok);
        Ok(records.find(|(_, permit)| permit.state == PERMIT_LIVE))
    })
}

/// The flow of this number: of another pod of the same node, by its address.
fn of_number(tuple: FlowTuple, number: u32) -> FlowTuple {
    const PODS: u32 = 16;
    let local = Ipv4Addr::from_bits(tuple.local.last_word().to_host() ^ (128 + number % PODS));
    let [_, _, high, low] = (number / PODS).to_be_bytes();
    FlowTuple {
        local: local.into(),
        local_port: Be16::from_bytes([high, low]),
        ..tuple
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_million_flows_have_tuples_of_their_own() {
        let tuple = FlowTuple {
            local: Ipv4Addr::new(10, 244, 1, 2).into(),
            remote: Ipv4Addr::new(10, 244, 2, 2).into(),
            local_port: Be16::from_host(40_000),
            remote_port: Be16::from_host(80),
            protocol: 17,
            reserved: [0; 3],
        };
        let copies = (0..1_000_000).map(|number| of_number(tuple, number));
        let keys: BTreeSet<_> = copies
            .map(|tuple| {
                (
                    tuple.local.last_word().to_host(),
                    tuple.local_port.to_host(),
                )
            })
            .collect();
        assert_eq!(keys.len(), 1_000_000);
        let own = tuple.local.last_word().to_host();
        assert!(keys.iter().all(|&(local, _)| local != own));
    }
}
