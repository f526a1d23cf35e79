//! Conntrack under a fast flow: flushed, moved to another backend, and at its close.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use twill_testbed::traffic::again;
use twill_testbed::wait::{pass, wait_for};

use crate::lab::{A, B, Kind, Lab, Options, PERMIT_TIME, SECONDS, both, run};
use crate::rules::ONE;
use crate::talk::{Ends, Flow, Server};

/// Conntrack's entries of this protocol that the pod's port opened, one a line.
fn conntrack(lab: &Lab, node: usize, protocol: &str, port: u16) -> Result<String> {
    lab.on(
        node,
        &format!("conntrack -L -p {protocol} --orig-port-src {port}"),
    )
}

/// The TCP state in which both nodes' conntrack has the flow.
fn states(lab: &Lab, port: u16) -> Result<[String; 2]> {
    let state = |node| -> Result<String> {
        let text = conntrack(lab, node, "tcp", port)?;
        let state = text.split_whitespace().nth(3);
        Ok(state.unwrap_or("none").to_owned())
    };
    Ok([state(A)?, state(B)?])
}

#[test]
fn a13_conntrack_flushed_under_a_service_flow_keeps_port_and_backend() -> Result<()> {
    both(Options::default(), |lab| flushed(lab))
}

fn flushed(lab: &Lab) -> Result<()> {
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    let (pod, address) = (lab.pod(A, 0).namespace(), lab.pod(A, 0).address());
    let mut udp = Flow::udp(pod, 5888, ONE)?;
    let mut tcp = Flow::tcp(pod, 5889, ONE)?;
    lab.until_fast(&mut udp)?;
    lab.until_fast(&mut tcp)?;
    lab.on_both("conntrack -F")?;
    // Past the permit's end, so that every kind of probe has been made.
    let end = Instant::now() + 2 * PERMIT_TIME;
    while Instant::now() < end {
        let seen = udp.ask().context("UDP after the flush")?.seen;
        ensure!(seen == SocketAddrV4::new(address, 5888), "UDP from {seen}");
        let seen = tcp.ask().context("TCP after the flush")?.seen;
        ensure!(seen == SocketAddrV4::new(address, 5889), "TCP from {seen}");
        pass(Duration::from_millis(5))?;
    }
    lab.until_fast(&mut udp).context("UDP again")?;
    lab.until_fast(&mut tcp).context("TCP again")?;
    // Where there is NAT, a reply that was taken for a new flow would hold the reply's tuple.
    let orphans = conntrack(lab, A, "udp", crate::rules::ECHO)?;
    ensure!(orphans.trim().is_empty(), "orphan: {orphans}");
    Ok(())
}

/// Marks conntrack's entries of the outer packets on both nodes.
const REMEMBER: &str = "nft add table inet outer
    nft add chain inet outer sent { type filter hook output priority 0 ; }
    nft add chain inet outer received { type filter hook input priority 0 ; }
    nft add rule inet outer sent udp dport 8472 ct mark set 1
    nft add rule inet outer received udp dport 8472 ct mark set 1";
/// From then on outer packets that would need an entry more are dropped, which is what a table
/// does that is full.
const NO_MORE: &str = "nft flush table inet outer
    nft add rule inet outer sent udp dport 8472 ct mark != 1 drop
    nft add rule inet outer received udp dport 8472 ct mark != 1 drop";

/// Every flow's outer packets have a source port of their own, and BPF leaves no entry of them
/// behind: whichever flow it is that asks for the outer permit, its packet must not need one.
#[test]
fn what_asks_netfilter_needs_no_new_entry_when_conntracks_table_is_full() -> Result<()> {
    run(&Kind::ALL, Options::default(), |lab| full(lab)).map(drop)
}

fn full(lab: &Lab) -> Result<()> {
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    let (pod, to) = (lab.pod(A, 0).namespace(), Server::address(lab.pod(B, 0)));
    lab.on_both(REMEMBER)?;
    let mut flows = Vec::new();
    for port in 5880..5884 {
        flows.push(Flow::udp(pod, port, to)?);
        flows.push(Flow::tcp(pod, port, to)?);
    }
    for flow in &mut flows {
        lab.until_fast(flow)?;
    }
    let mut ask_all = |time| -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            flows.iter_mut().try_for_each(|flow| flow.ask().map(drop))?;
        }
        Ok(())
    };
    ask_all(PERMIT_TIME)?;
    lab.on_both(NO_MORE)?;
    ask_all(3 * PERMIT_TIME)
}

#[test]
fn a13_a_service_flow_moves_to_the_new_backend_within_the_permit_time() -> Result<()> {
    both(Options::default(), |lab| moved(lab))
}

fn moved(lab: &Lab) -> Result<()> {
    let second = lab.pod(B, 1).address();
    let _one = Server::backend(lab.pod(B, 0), "one")?;
    let _two = Server::backend(lab.pod(B, 1), "two")?;
    let mut udp = Flow::udp(lab.pod(A, 0).namespace(), 5777, ONE)?;
    lab.make_fast(|| {
        let answer = udp.ask()?;
        ensure!(answer.name == "one", "{answer:?}");
        Ok(())
    })?;
    lab.serve(&[second])?;
    lab.on(A, &format!("conntrack -D -p udp --orig-dst {}", ONE.ip()))?;
    let begin = Instant::now();
    wait_for("the new backend answers", SECONDS, || {
        let answer = udp.ask()?;
        Ok((answer.name == "two").then_some(()))
    })?;
    let took = begin.elapsed();
    ensure!(took < PERMIT_TIME, "the new backend after {took:?}");
    lab.make_fast(|| {
        let answer = udp.ask()?;
        ensure!(
            answer.name == "two" && answer.seen.port() == 5777,
            "{answer:?}"
        );
        Ok(())
    })
    .context("after the move")?;
    if lab.has_programs() {
        let permit = lab.permit(A, 5777)?.context("no permit")?;
        ensure!(IpAddr::from(permit.wire.remote) == second, "{permit:?}");
    }
    Ok(())
}

#[test]
fn a15_a_half_closed_connection_ends_in_conntrack_as_on_stock() -> Result<()> {
    let found = run(&Kind::BOTH, Options::default(), |lab| half_closed(lab))?;
    if let [stock, twill] = &found[..] {
        ensure!(stock == twill, "stock {stock:?}, Twill {twill:?}");
        let mut states = stock.iter().flatten();
        ensure!(states.all(|state| state == "TIME_WAIT"), "{stock:?}");
    }
    Ok(())
}

/// States of a plain and of a Service connection that the client closed first and the server
/// much later, after more data.
fn half_closed(lab: &Lab) -> Result<Vec<[String; 2]>> {
    let listener = Ends::listen(lab.pod(B, 0))?;
    let mut found = Vec::new();
    for (port, to) in [(42031, Server::address(lab.pod(B, 0))), (42032, ONE)] {
        let mut ends = Ends::open(lab.pod(A, 0).namespace(), port, to, &listener)?;
        lab.make_fast(|| ends.exchange())?;
        ends.client.shutdown(Shutdown::Write)?;
        ensure!(again(|| ends.server.read(&mut [0; 1]))? == 0, "no FIN");
        for _ in 0..50 {
            ends.server_speaks().context("half closed")?;
        }
        let mut data = vec![7; 20_000];
        ends.server.write_all(&data)?;
        ends.client.read_exact(&mut data)?;
        ends.server.shutdown(Shutdown::Both)?;
        ensure!(again(|| ends.client.read(&mut [0; 1]))? == 0, "no FIN back");
        drop(ends);
        // Conntrack has the last ACK when the kernel has sent it.
        let settled = wait_for("conntrack says TIME_WAIT", Duration::from_secs(2), || {
            let states = states(lab, port)?;
            Ok(states
                .iter()
                .all(|state| state == "TIME_WAIT")
                .then_some(states))
        });
        found.push(settled.or_else(|_| states(lab, port))?);
    }
    Ok(found)
}
