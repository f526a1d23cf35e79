//! A1: a server that speaks first leaves conntrack's entry of a fast flow in a state that ends
//! after 300 s of silence, where the stock path keeps it for days.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::wait::{pass, wait_until};

use crate::lab::{A, B, Kind, Lab, Options, SECONDS, both};
use crate::rules::ONE;
use crate::talk::Ends;

const SETTINGS: [&str; 2] = [
    "net.netfilter.nf_conntrack_tcp_timeout_unacknowledged",
    "net.netfilter.nf_conntrack_tcp_timeout_max_retrans",
];
const ESTABLISHED: &str = "net.netfilter.nf_conntrack_tcp_timeout_established";
const GREETING: &[u8] = b"220 at your service";
/// Short enough to sit out; the kernel's own is 300.
const SHORT: &str = "3";
const IDLE: Duration = Duration::from_secs(5);

/// Makes the timeouts short: on stock nodes they stay so, Twill puts its own in force again.
fn shorten(lab: &Lab) -> Result<()> {
    for member in &lab.cluster.members {
        let node = member.node.namespace();
        for setting in SETTINGS {
            node.set_sysctl(setting, SHORT)?;
            if lab.kind == Kind::Twill {
                wait_until(&format!("{setting} is put right"), SECONDS, || {
                    let own = node.sysctl(setting).ok();
                    own.is_some() && own == node.sysctl(ESTABLISHED).ok()
                })?;
            }
        }
    }
    Ok(())
}

/// Seconds that conntrack gives the flow with this source port, on a node.
fn seconds_left(lab: &Lab, node: usize, port: u16) -> Result<u64> {
    let told = lab.on(node, &format!("conntrack -L -p tcp --orig-port-src {port}"))?;
    let left = told.split_whitespace().nth(2);
    left.and_then(|left| left.parse().ok())
        .with_context(|| format!("conntrack -L tells {told:?}"))
}

fn outlives_silence(lab: &Lab) -> Result<()> {
    shorten(lab)?;
    let listener = Ends::listen(lab.pod(B, 0))?;
    let mut flows = Vec::new();
    for port in [5101, 5102] {
        let mut ends = Ends::open(lab.pod(A, 0).namespace(), port, ONE, &listener)?;
        ends.server.write_all(GREETING)?;
        let mut greeting = [0; GREETING.len()];
        ends.client.read_exact(&mut greeting)?;
        ensure!(greeting == GREETING);
        lab.make_fast(|| ends.exchange())?;
        flows.push((port, ends));
    }
    pass(IDLE)?;
    for (port, ends) in &mut flows {
        for node in [A, B] {
            let left = seconds_left(lab, node, *port)?;
            ensure!(left > 100_000, "conntrack of node {node} gives {left} s");
        }
        // Who breaks the silence makes no difference.
        if *port == 5101 {
            ends.server_speaks().context("after the silence")?;
        }
        ends.exchange().context("after the silence")?;
        lab.make_fast(|| ends.exchange())?;
    }
    Ok(())
}

#[test]
fn a01_a_flow_whose_server_speaks_first_outlives_silence() -> Result<()> {
    both(Options::default(), |lab| outlives_silence(lab))
}
