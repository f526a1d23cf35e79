//! Conntrack under a fast flow: flushed, moved to another backend, and at its close.

use std::net::{Shutdown, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use twill_testbed::netns::Namespace;
use twill_testbed::wait::{pass, wait_for};
use twill_tests::required;

use crate::lane::{Kind, Lane, PERMIT, PERMIT_TIME, PORT, SECONDS, SERVICE, VIP, Who, wire_remote};
use crate::talk::{Server, Tcp, Udp};

/// Conntrack's entries of this protocol that the pod's port opened, one a line.
fn conntrack(host: &Namespace, protocol: &str, port: u16) -> Result<String> {
    let port = port.to_string();
    host.run(&["conntrack", "-L", "-p", protocol, "--orig-port-src", &port])
}

/// The TCP state in which both nodes' conntrack has the flow.
fn states(lane: &Lane, port: u16) -> Result<[String; 2]> {
    let state = |side| -> Result<String> {
        let text = conntrack(lane.host(side), "tcp", port)?;
        let state = text.split_whitespace().nth(3);
        Ok(state.unwrap_or("none").to_owned())
    };
    Ok([state(0)?, state(1)?])
}

#[test]
fn a13_conntrack_flushed_under_a_service_flow_keeps_port_and_backend() -> Result<()> {
    if !required() {
        return Ok(());
    }
    for who in [Who::Stock, PERMIT] {
        let lane = Lane::new(who)?;
        lane.explained(flushed(&lane))?;
    }
    Ok(())
}

fn flushed(lane: &Lane) -> Result<()> {
    let _server = Server::start(lane.pod(1).namespace(), "one", PORT)?;
    let (pod, address) = (lane.pod(0).namespace(), lane.pod(0).address());
    let mut udp = Udp::connect(pod, 5888, SERVICE)?;
    let mut tcp = Tcp::connect(pod, 5889, SERVICE)?;
    lane.make_fast(|| udp.ask().map(drop))?;
    lane.make_fast(|| tcp.ask().map(drop))?;
    for side in [0, 1] {
        lane.host(side).run(&["conntrack", "-F"])?;
    }
    // Past the permit's end, so that every kind of probe has been made.
    let end = Instant::now() + 2 * PERMIT_TIME;
    while Instant::now() < end {
        let seen = udp.ask().context("UDP after the flush")?.seen;
        ensure!(seen == SocketAddrV4::new(address, 5888), "UDP from {seen}");
        let seen = tcp.ask().context("TCP after the flush")?.seen;
        ensure!(seen == SocketAddrV4::new(address, 5889), "TCP from {seen}");
        pass(Duration::from_millis(5))?;
    }
    lane.make_fast(|| udp.ask().map(drop))
        .context("UDP again")?;
    lane.make_fast(|| tcp.ask().map(drop))
        .context("TCP again")?;
    // Where there is NAT, a reply that was taken for a new flow would hold the reply's tuple.
    let orphans = ["conntrack", "-L", "-p", "udp", "--orig-port-src", "8080"];
    let orphans = lane.host(0).run(&orphans)?;
    ensure!(orphans.trim().is_empty(), "orphan: {orphans}");
    Ok(())
}

#[test]
fn a13_a_service_flow_moves_to_the_new_backend_within_the_permit_time() -> Result<()> {
    if !required() {
        return Ok(());
    }
    for who in [Who::Stock, PERMIT] {
        let mut lane = Lane::new(who)?;
        let moved = moved(&mut lane);
        lane.explained(moved)?;
    }
    Ok(())
}

fn moved(lane: &mut Lane) -> Result<()> {
    let second = lane.add_pod(1, "2")?.address();
    let _one = Server::start(lane.pod(1).namespace(), "one", PORT)?;
    let _two = match &lane.kind {
        Kind::Twill(cluster) => Server::start(cluster.members[1].pods[1].namespace(), "two", PORT)?,
        Kind::Stock(_, more) => Server::start(more[0].namespace(), "two", PORT)?,
    };
    let mut udp = Udp::connect(lane.pod(0).namespace(), 5777, SERVICE)?;
    lane.make_fast(|| {
        let answer = udp.ask()?;
        ensure!(answer.name == "one", "{answer:?}");
        Ok(())
    })?;
    lane.serve(&[second])?;
    let vip = VIP.to_string();
    lane.host(0)
        .run(&["conntrack", "-D", "-p", "udp", "--orig-dst", &vip])?;
    let begin = Instant::now();
    wait_for("the new backend answers", SECONDS, || {
        let answer = udp.ask()?;
        Ok((answer.name == "two").then_some(()))
    })?;
    let took = begin.elapsed();
    ensure!(took < PERMIT_TIME, "the new backend after {took:?}");
    lane.make_fast(|| {
        let answer = udp.ask()?;
        ensure!(
            answer.name == "two" && answer.seen.port() == 5777,
            "{answer:?}"
        );
        Ok(())
    })
    .context("after the move")?;
    if lane.who != Who::Stock {
        let permit = lane.permit(0, 5777)?.context("no permit")?;
        ensure!(wire_remote(&permit) == second, "{permit:?}");
    }
    Ok(())
}

#[test]
fn a15_a_half_closed_connection_ends_in_conntrack_as_on_stock() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut found = Vec::new();
    for who in [Who::Stock, PERMIT] {
        let lane = Lane::new(who)?;
        found.push(lane.explained(half_closed(&lane))?);
    }
    assert_eq!(found[1], found[0], "Twill, then stock");
    assert!(found[0].iter().flatten().all(|state| state == "TIME_WAIT"));
    Ok(())
}

/// States of a plain and of a Service connection that the client closed first and the server
/// much later, after more data.
fn half_closed(lane: &Lane) -> Result<Vec<[String; 2]>> {
    use std::io::{Read as _, Write as _};
    let (pod, backend) = (lane.pod(0).namespace(), lane.pod(1));
    let listener = backend
        .namespace()
        .enter(|| std::net::TcpListener::bind(("0.0.0.0", PORT)))??;
    let mut found = Vec::new();
    for (port, to) in [
        (42031, SocketAddrV4::new(backend.address(), PORT)),
        (42032, SERVICE),
    ] {
        let mut client = crate::talk::connect_from(pod, port, to)?;
        let (mut server, _) = listener.accept()?;
        server.set_nodelay(true)?;
        server.set_read_timeout(Some(crate::talk::ANSWER))?;
        let mut byte = [0; 1];
        lane.make_fast(|| {
            client.write_all(b"x")?;
            server.read_exact(&mut byte)?;
            server.write_all(b"y")?;
            client.read_exact(&mut byte)?;
            Ok(())
        })?;
        client.shutdown(Shutdown::Write)?;
        ensure!(server.read(&mut byte)? == 0, "no FIN");
        for _ in 0..50 {
            server.write_all(b"y")?;
            client.read_exact(&mut byte)?;
        }
        server.shutdown(Shutdown::Both)?;
        ensure!(client.read(&mut byte)? == 0, "no FIN back");
        drop((client, server));
        // Conntrack has the last ACK when the kernel has sent it.
        let settled = wait_for("conntrack says TIME_WAIT", Duration::from_secs(2), || {
            let states = states(lane, port)?;
            Ok(states
                .iter()
                .all(|state| state == "TIME_WAIT")
                .then_some(states))
        });
        found.push(settled.or_else(|_| states(lane, port))?);
    }
    Ok(found)
}
