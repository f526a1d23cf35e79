//! The guard by XDP in virtio-net's driver: what nodes send arrives as ever, what a stranger
//! sends never does.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use twill_core::vtep::MacAddr;
use twill_testbed::packet::{Ethernet, Ipv4, Udp, Vxlan};
use twill_testbed::traffic::again;
use twill_testbed::wait::wait_until;
use twill_testbed::world::{NODE_A, PORT, STRANGER, UNDERLAY_PREFIX, UPLINK, VNI};

use crate::lab::PATIENCE;

use super::carry::{round, until_fast};
use super::half::{Half, run};

/// Where forged packets go in the first guest's pod.
const TARGET: u16 = 7777;
/// How many the stranger sends.
const FORGED: u64 = 20;
/// What nobody may hear, and what everybody may.
const WORDS: [&[u8]; 2] = [b"stranger", b"node"];

#[test]
fn a_stranger_is_dropped_in_the_driver() -> Result<()> {
    let flags = ["--guard=enforce", "--guard-attach=native"];
    run("a_stranger_is_dropped_in_the_driver", &flags, |half| {
        wait_until("the guard drops, in the driver", PATIENCE, || {
            let guard = guard(half).unwrap_or_default();
            guard["by"] == "xdp-native" && guard["drops"] == true
        })
        .with_context(|| format!("the guard says {:?}", guard(half)))?;
        half.side.exchange("the guard is there")?;
        until_fast(half)?;
        if half.side.is_first() {
            round(half).context("with XDP on the way")?;
        }
        let status = half.agent.status()?["status"].take();
        let mac = status["mac"].as_str().context("no MAC address")?;
        let theirs = half.side.exchange(mac)?;
        let pod = half.pod_address();
        if half.side.is_first() {
            watched(half, pod)
        } else {
            let mac: MacAddr = theirs.parse().with_context(|| theirs.clone())?;
            attack(half, mac.0)
        }
    })
}

/// What `twillctl status` says of the guard.
fn guard(half: &Half) -> Result<Value> {
    Ok(half.agent.status()?["status"]["guard"].take())
}

/// The first guest: the node's packets are heard, the stranger's are counted.
fn watched(half: &mut Half, pod: Ipv4Addr) -> Result<()> {
    let socket = half.pod().enter(|| UdpSocket::bind((pod, TARGET)))??;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let unknown = |half: &Half| half.agent.counters()?.packets("guard", "unknown_vtep");
    let before = unknown(half)?;
    half.side.exchange("somebody listens")?;
    half.side.exchange("everything is sent")?;
    let mut heard = [0_u64; 2];
    let mut buffer = [0; 64];
    let until = Instant::now() + PATIENCE;
    while heard[1] == 0 && Instant::now() < until {
        match again(|| socket.recv(&mut buffer)) {
            Ok(length) => match WORDS.iter().position(|word| *word == &buffer[..length]) {
                Some(word) => heard[word] += 1,
                None => bail!("somebody says {:?}", &buffer[..length]),
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    let counted = unknown(half)? - before;
    ensure!(heard[0] == 0 && heard[1] > 0, "heard: {heard:?}");
    ensure!(
        counted == FORGED,
        "{counted} of {FORGED} forged packets counted"
    );
    Ok(())
}

/// The second guest: the same packet into the other's pod, first from an address that is no
/// node's, and then from its own.
fn attack(half: &mut Half, vtep_mac: [u8; 6]) -> Result<()> {
    let node = half.node.namespace();
    let address = format!("{STRANGER}/{UNDERLAY_PREFIX}");
    node.run(&["ip", "addr", "add", &address, "dev", UPLINK])?;
    let inner = Ipv4::new(half.pod_address(), half.far());
    let packets = WORDS.map(|word| {
        let packet = inner.udp(&Udp::new(4_000, TARGET), word);
        let frame = Ethernet::ipv4([2, 0, 0, 0, 6, 6], vtep_mac).over(&packet);
        Vxlan::new(VNI).over(&frame)
    });
    half.side.exchange("somebody attacks")?;
    for (from, packet, times) in [
        (STRANGER, &packets[0], FORGED),
        (half.side.address(), &packets[1], 1),
    ] {
        let socket = node.enter(|| UdpSocket::bind((from, 0)))??;
        for _ in 0..times {
            socket.send_to(packet, SocketAddrV4::new(NODE_A, PORT))?;
        }
    }
    half.side.exchange("everything is sent").map(drop)
}
