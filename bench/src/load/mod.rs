//! The load generator: traffic by plain sockets and threads, between two network namespaces.
//!
//! netperf is in no Debian release that this runs on and iperf3 knows streams only, so
//! transactions, connections and datagrams are made here, and streams as well, so that one
//! clock and one warm-up hold for all. [`crate::crosscheck`] holds it against the tools.
//!
//! Clients run on the first half of the CPUs and servers on the second: two nodes share no
//! CPU, and where the scheduler happens to put two threads is no property of a datapath.

mod connections;
mod crew;
mod datagrams;
mod latency;
mod place;
mod sockets;
mod streams;
mod transactions;

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;

pub use self::latency::Percentiles;
pub use self::place::Place;

pub(crate) use self::crew::{Side, cpus_of};

use self::crew::{Crew, Role};
use crate::case::{Traffic, Unit};
use crate::cpu::CpuTime;

/// Who talks to whom.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// Where the client's sockets are.
    pub client: Place<'a>,
    /// Where the server's sockets are.
    pub server: Place<'a>,
    /// The address that the client talks to: the server's, or a Service's.
    pub to: Ipv4Addr,
}

/// How long one measurement takes.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Traffic flows and is not counted.
    pub warm_up: Duration,
    /// Traffic is counted.
    pub window: Duration,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The figure, in the unit of the traffic.
    pub per_second: f64,
    /// Times from request to answer, where there are any.
    pub latency: Option<Percentiles>,
    /// Datagrams, requests or connections that were sent, the warm-up's as well.
    pub sent: u64,
    /// Those of them that did not arrive or were not answered.
    pub lost: u64,
    /// TCP segments that the client's side sent again, the warm-up's as well.
    pub retransmits: u64,
    /// What the machine's CPUs did in the window.
    pub cpu: CpuTime,
    /// How long the window really was.
    pub window: Duration,
}

/// Makes this traffic and measures it. Ends early, with an error, on an interrupt.
pub fn measure(traffic: Traffic, ends: Ends<'_>, timing: Timing) -> Result<Measured> {
    let before = ends.client.retransmits()?;
    let mut crew = Crew::default();
    match traffic {
        Traffic::Stream { flows } => streams::start(&mut crew, ends, flows, Role::Measured)?,
        Traffic::TcpTransactions { flows } => transactions::start_tcp(&mut crew, ends, flows)?,
        Traffic::UdpTransactions { flows } => transactions::start_udp(&mut crew, ends, flows)?,
        Traffic::Connections => connections::start(&mut crew, ends)?,
        Traffic::Datagrams { bytes } => datagrams::start(&mut crew, ends, bytes)?,
        Traffic::LoadedTransactions => {
            streams::start(&mut crew, ends, 1, Role::Beside)?;
            transactions::start_udp(&mut crew, ends, 1)?;
        }
    }
    let mut measured = crew.measure(timing)?;
    measured.retransmits = ends.client.retransmits()?.saturating_sub(before);
    Ok(measured)
}

/// Bits in a byte, for [`Unit::Bits`]; everything else is counted one by one.
pub(crate) const fn scale(unit: Unit) -> f64 {
    match unit {
        Unit::Bits => 8.0,
        Unit::Transactions | Unit::Connections | Unit::Packets => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Case;

    /// Every kind of traffic over the loopback: it flows, nothing is lost, it ends.
    #[test]
    fn every_case_flows_and_ends() {
        let ends = Ends {
            client: Place::Here,
            server: Place::Here,
            to: Ipv4Addr::LOCALHOST,
        };
        let timing = Timing {
            warm_up: Duration::from_millis(50),
            // Long enough that a machine busy with other tests gives everybody a turn.
            window: Duration::from_millis(400),
        };
        let measure = |case: Case| {
            measure(case.traffic(), ends, timing)
                .unwrap_or_else(|error| panic!("{case}: {error:#}"))
        };
        for &case in Case::ALL {
            let mut measured = measure(case);
            // A machine that stands still for longer than an answer is waited for looks like a
            // loss; it does not do so three times.
            for _ in 0..2 {
                if measured.lost > 0 {
                    measured = measure(case);
                }
            }
            assert!(measured.per_second > 0.0, "{case}: {measured:?}");
            assert!(measured.sent > 0, "{case}: {measured:?}");
            let is_answered = case.traffic() != Case::Udp64.traffic();
            if is_answered && case != Case::Udp1400 {
                assert_eq!(measured.lost, 0, "{case}: {measured:?}");
            }
            let expected = !matches!(
                case.traffic(),
                Traffic::Stream { .. } | Traffic::Datagrams { .. }
            );
            assert_eq!(measured.latency.is_some(), expected, "{case}");
        }
    }

    #[test]
    fn a_server_that_is_not_there_is_an_error() {
        let ends = Ends {
            client: Place::Here,
            server: Place::Here,
            // No connection goes there, and no packet either.
            to: Ipv4Addr::BROADCAST,
        };
        let timing = Timing {
            warm_up: Duration::from_millis(5),
            window: Duration::from_millis(20),
        };
        let error = measure(Traffic::Stream { flows: 1 }, ends, timing).unwrap_err();
        assert!(
            format!("{error:#}").contains("255.255.255.255"),
            "{error:#}"
        );
    }
}
