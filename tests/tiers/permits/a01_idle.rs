//! A1: a server that speaks first leaves conntrack's entry of a fast flow in a state that ends
//! after 300 s of silence, where the stock path keeps it for days.

use std::io::{Read as _, Write as _};
use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::wait::{pass, wait_for};

use crate::lab::{A, B, Lab, Options, SECONDS, both, twill};
use crate::rules::ONE;
use crate::talk::{Ends, Server};

const SETTINGS: [&str; 2] = [
    "net.netfilter.nf_conntrack_tcp_timeout_unacknowledged",
    "net.netfilter.nf_conntrack_tcp_timeout_max_retrans",
];
const GREETING: &[u8] = b"220 at your service";
/// Short enough to sit out; the kernel's own is 300.
const SHORT: &str = "3";
const IDLE: Duration = Duration::from_secs(5);

/// Makes the timeouts short: they are the node's, and Twill lets them be.
fn shorten(lab: &Lab) -> Result<()> {
    for node in [A, B] {
        for setting in SETTINGS {
            lab.host(node).set_sysctl(setting, SHORT)?;
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
    for node in [A, B] {
        for setting in SETTINGS {
            let value = lab.host(node).sysctl(setting)?;
            ensure!(value == SHORT, "{setting} is {value}");
        }
    }
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

/// Ports of nothing else.
const OUTSIDE: u16 = 6871;
const TEMPLATE: u16 = 6872;
/// What the kernel gives a connection with unanswered data.
const STOCK: u64 = 300;

/// A pod's connection to something that is no pod, whose other side has vanished.
fn vanished(lab: &mut Lab) -> Result<()> {
    let listener = Ends::listen_on(lab.host(B), OUTSIDE)?;
    let to = SocketAddrV4::new(lab.member(B).node.address(), OUTSIDE);
    let mut ends = Ends::open(lab.pod(A, 0).namespace(), 5103, to, &listener)?;
    ends.exchange()?;
    ensure!(seconds_left(lab, A, 5103)? > STOCK, "not established");
    lab.on(
        B,
        &format!("iptables -I INPUT -p tcp --dport {OUTSIDE} -j DROP"),
    )?;
    ends.client.write_all(b"nobody answers")?;
    wait_for("conntrack gives it up in time", SECONDS, || {
        Ok((seconds_left(lab, A, 5103)? <= STOCK).then_some(()))
    })
}

#[test]
fn a01_connections_outside_the_overlay_end_as_on_a_stock_node() -> Result<()> {
    both(Options::default(), vanished)
}

/// What a rule of the raw table says of a flow is left to it, and the flow to the kernel.
fn template(lab: &mut Lab) -> Result<()> {
    lab.on_both(&format!(
        "iptables -t raw -A PREROUTING -p tcp --dport {TEMPLATE} -j CT --ctevents new"
    ))?;
    let listener = Ends::listen_on(lab.pod(B, 0).namespace(), TEMPLATE)?;
    let to = SocketAddrV4::new(lab.pod(B, 0).address(), TEMPLATE);
    let mut ends = Ends::open(lab.pod(A, 0).namespace(), 5104, to, &listener)?;
    let before = lab.fast_counts()?;
    for _ in 0..100 {
        ends.exchange()?;
    }
    ensure!(lab.fast_counts()? == before, "it was fast");
    // It would be, and long-lived, without that rule.
    let listener = Ends::listen(lab.pod(B, 0))?;
    let to = Server::address(lab.pod(B, 0));
    let mut ends = Ends::open(lab.pod(A, 0).namespace(), 5105, to, &listener)?;
    lab.make_fast(|| ends.exchange())
}

#[test]
fn a01_a_flow_with_a_template_of_somebody_else_gets_no_policy_and_no_permit() -> Result<()> {
    twill(Options::default(), template)
}
