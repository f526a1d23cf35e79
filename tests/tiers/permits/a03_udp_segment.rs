//! A3: datagrams that a pod sends by `UDP_SEGMENT` reach a socket with and one without
//! `UDP_GRO`, each of them.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use twill_testbed::traffic::again;

use crate::lab::{A, B, Kind, Lab, Options, run};
use crate::rules::{ECHO, ONE};
use crate::talk::Server;

const SEGMENT: usize = 1000;
const SEGMENTS: usize = 10;
const SENDS: usize = 100;
const PATIENCE: Duration = Duration::from_secs(2);

/// Receives `count` datagrams' bytes, in as many calls as the kernel wants, and checks them.
fn receive(socket: &UdpSocket, send: usize) -> Result<SocketAddrV4> {
    let mut buffer = vec![0; 65_536];
    let mut whole = Vec::new();
    loop {
        let (length, from) = again(|| socket.recv_from(&mut buffer))
            .with_context(|| format!("{} bytes of send {send} have come", whole.len()))?;
        whole.extend_from_slice(&buffer[..length]);
        if whole.len() >= SEGMENT * SEGMENTS {
            ensure!(whole == payload(send), "send {send} is not what was sent");
            return match from {
                std::net::SocketAddr::V4(from) => Ok(from),
                std::net::SocketAddr::V6(from) => anyhow::bail!("from {from}"),
            };
        }
    }
}

fn payload(send: usize) -> Vec<u8> {
    let numbers = send..send + SEGMENT * SEGMENTS;
    numbers.map(|number| number.to_le_bytes()[0]).collect()
}

fn bind(lab: &Lab, node: usize, port: u16) -> Result<UdpSocket> {
    let namespace = lab.pod(node, 0).namespace();
    let socket = namespace.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))??;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn all_arrive(lab: &Lab, server: &UdpSocket, to: SocketAddrV4, gro: bool) -> Result<()> {
    let client = bind(lab, A, 0)?;
    client.connect(to)?;
    setsockopt(server, sockopt::UdpGroSegment, &gro)?;
    let exchange = |payload: &[u8]| -> Result<()> {
        let mut buffer = [0; 2048];
        client.send(payload)?;
        let (_, from) = again(|| server.recv_from(&mut buffer)).context("request")?;
        server.send_to(&buffer[..1], from)?;
        again(|| client.recv(&mut buffer)).context("answer")?;
        Ok(())
    };
    lab.make_fast(|| exchange(b"fast"))?;
    let segments = lab.count(B, "from_uplink", "udp_segments")?;
    let sent_fast = lab.count(A, "from_pod", "fast")?;
    setsockopt(&client, sockopt::UdpGsoSegment, &i32::try_from(SEGMENT)?)?;
    for send in 0..SENDS {
        client.send(&payload(send))?;
        let from = receive(server, send)?;
        server.send_to(b"all", from)?;
        again(|| client.recv(&mut [0; 8])).context("acknowledgement")?;
    }
    if lab.kind == Kind::Twill {
        let whole = lab.count(B, "from_uplink", "udp_segments")? - segments;
        ensure!(whole > 50, "{whole} packets of several datagrams came");
        let fast = lab.count(A, "from_pod", "fast")? - sent_fast;
        ensure!(fast > 50, "{fast} packets were fast");
    }
    Ok(())
}

#[test]
fn a03_every_datagram_of_udp_segment_arrives() -> Result<()> {
    let scenario = |lab: &mut Lab| {
        // Once: a program that starts at this moment may hold a socket beyond its end.
        let server = bind(lab, B, ECHO)?;
        for to in [Server::address(lab.pod(B, 0)), ONE] {
            for gro in [false, true] {
                all_arrive(lab, &server, to, gro)
                    .with_context(|| format!("to {to}, UDP_GRO {gro}"))?;
            }
        }
        Ok(())
    };
    run(&Kind::ALL, Options::default(), scenario).map(drop)
}
