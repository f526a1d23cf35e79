//! A flow that netfilter has never accepted gets no permit, whatever its pod sends: marks, one
//! hash with a flow that is accepted, another pod's address, replies forged on the other node.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use twill_testbed::forge::RawIp;
use twill_testbed::packet::{Ipv4, Udp};
use twill_testbed::wait::wait_until;

use crate::lab::{A, B, Lab, Options, SECONDS, both};
use crate::rules::ECHO;
use crate::talk::{Flow, Server};

/// The port that nobody may send to.
const BANNED: u16 = 7100;
/// The hostile pod's one flow that is accepted.
const OWN: u16 = 7200;
/// Of its packets to the banned port: of a socket with our mark, in another's name, of a socket
/// whose hash an accepted flow has too.
const MARKED: u16 = 7201;
const SPOOFED: u16 = 7202;
const HASHED: u16 = 7203;
const TIMES: u64 = 50;

/// What the rule has dropped.
fn dropped(lab: &Lab) -> Result<u64> {
    let rule = lab.on(A, "iptables -vxnL FORWARD 1")?;
    let packets = rule.split_whitespace().next().context("no counter")?;
    Ok(packets.parse()?)
}

fn in_vain(lab: &Lab) -> Result<()> {
    let (victim, hostile) = (lab.pod(A, 0), lab.pod(A, 1));
    let (to, accomplice) = (lab.pod(B, 0), lab.pod(B, 1));
    let _echo = Server::backend(to, "one")?;
    let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, BANNED));
    let banned = to.namespace().enter(bind)??;
    banned.set_nonblocking(true)?;
    lab.on(
        A,
        &format!("iptables -I FORWARD -p udp --dport {BANNED} -j DROP"),
    )?;
    let mut own = Flow::udp(hostile.namespace(), OWN, Server::address(to))?;
    lab.until_fast(&mut own)?;

    let marked = SocketAddrV4::new(to.address(), BANNED);
    let marked = Flow::udp(hostile.namespace(), MARKED, marked)?;
    setsockopt(marked.datagrams()?, sockopt::Mark, &0x1000)?;
    let raw = RawIp::open(hostile.namespace())?;
    let one_hash = RawIp::connected(hostile.namespace(), to.address())?;
    let forger = RawIp::open(accomplice.namespace())?;
    let packet = |from: Ipv4Addr, port, to_port| {
        let header = Ipv4::new(from, to.address());
        header.udp(&Udp::new(port, to_port), b"0\n")
    };
    let reply = Ipv4::new(to.address(), hostile.address());
    let reply = reply.udp(&Udp::new(BANNED, HASHED), b"0\n");
    for _ in 0..TIMES {
        marked.datagrams()?.send(b"0\n")?;
        raw.send(to.address(), &packet(victim.address(), SPOOFED, BANNED))?;
        one_hash.send(to.address(), &packet(hostile.address(), OWN, ECHO))?;
        one_hash.send(to.address(), &packet(hostile.address(), HASHED, BANNED))?;
        forger.send(hostile.address(), &reply)?;
        own.ask()?;
    }
    wait_until("the rule has dropped all of it", SECONDS, || {
        dropped(lab).is_ok_and(|dropped| dropped == 3 * TIMES)
    })
    .with_context(|| format!("it dropped {:?}", dropped(lab)))?;
    match banned.recv(&mut [0; 16]) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        other => bail!("the banned port received {other:?}"),
    }
    for node in lab.twill_nodes() {
        let permits = lab.permits(*node)?;
        let illicit = permits.iter().find(|permit| {
            let ports = [permit.pod.local_port, permit.pod.remote_port];
            ports.iter().any(|port| port.to_host() == BANNED) && permit.out_until_ns > 0
        });
        ensure!(illicit.is_none(), "node {node} has {illicit:?}");
    }
    // What is accepted beside it is as fast as before.
    lab.until_fast(&mut own)
}

#[test]
fn a_flow_that_was_never_accepted_gets_no_permit_whatever_its_pod_sends() -> Result<()> {
    both(Options::default(), |lab| in_vain(lab))
}
