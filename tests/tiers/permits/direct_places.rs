//! Mode `direct` and where pods are: frames that come to pods which they are not for, and pods
//! that are replaced while no daemon is there to see it.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use twill_testbed::pod::Pod;
use twill_testbed::wait::wait_for;

use crate::lab::{A, B, Kind, Lab, Options, SECONDS, run};
use crate::places::announce;
use crate::talk::{ANSWER, Flow, Server, receive};

/// A SYN is repeated after a second: no connection took one.
const AT_ONCE: Duration = Duration::from_millis(800);
const FLOWS: u16 = 20;
const DATAGRAMS: u8 = 5;

fn bind(pod: &Pod, port: u16) -> Result<UdpSocket> {
    let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port));
    Ok(pod.namespace().enter(bind)??)
}

/// A bridge that learns nothing delivers every frame to every pod.
fn flooded(lab: &Lab) -> Result<()> {
    let (from, to) = (lab.pod(A, 0), lab.pod(B, 0));
    for pod in [0, 1] {
        let veth = lab.veth(B, pod)?;
        lab.on(
            B,
            &format!("ip link set {veth} type bridge_slave learning off fdb_flush"),
        )?;
    }
    let receiver = bind(to, 5990)?;
    receiver.set_read_timeout(Some(ANSWER))?;
    for port in 6000..6000 + FLOWS {
        let sender = bind(from, port)?;
        sender.connect((to.address(), 5990))?;
        for number in 0..DATAGRAMS {
            sender.send(&[number])?;
            let mut buffer = [0; 16];
            let received = receive(&receiver, &mut buffer);
            let (length, from) =
                received.with_context(|| format!("datagram {number} from port {port}"))?;
            ensure!(
                (&buffer[..length], from.port()) == (&[number][..], port),
                "another datagram, from {from}"
            );
        }
    }
    let _server = Server::backend(to, "one")?;
    for port in 6100..6100 + FLOWS {
        connects_at_once(from, Server::address(to), port, "one")?;
    }
    if lab.kind == Kind::Direct {
        let flooded = &lab.pod(B, 1).namespace().link_json("eth0")?["stats64"]["rx"]["packets"];
        let flooded = flooded.as_u64().context("no count")?;
        ensure!(flooded > 20, "{flooded} frames came to the other pod");
        // They are direct all the same, each in the veth of its own pod.
        let index = &to.namespace().link_json("eth0")?["link_index"];
        let permits = lab.permits(B)?;
        let ports = 6000..6000 + FLOWS;
        let mut direct = permits
            .iter()
            .filter(|permit| ports.contains(&permit.pod.remote_port.to_host()));
        ensure!(direct.clone().count() >= 10, "few are direct: {permits:?}");
        let astray = direct.find(|permit| *index != permit.ifindex);
        ensure!(astray.is_none(), "at another pod's veth: {astray:?}");
    }
    Ok(())
}

fn connects_at_once(from: &Pod, to: SocketAddrV4, port: u16, name: &str) -> Result<()> {
    let begin = Instant::now();
    let mut flow = Flow::tcp(from.namespace(), port, to)?;
    let answer = flow.ask()?;
    let took = begin.elapsed();
    ensure!(took < AT_ONCE, "connected from port {port} after {took:?}");
    ensure!(answer.name == name, "{answer:?}");
    Ok(())
}

#[test]
fn where_a_bridge_forgets_pods_flows_go_to_their_own() -> Result<()> {
    run(&Kind::ALL, Options::default(), |lab| flooded(lab)).map(drop)
}

/// Nobody ends what is known of a pod that is gone, nor puts programs on the next one's veth.
fn replaced(lab: &mut Lab) -> Result<()> {
    let old = Server::backend(lab.pod(B, 0), "old")?;
    let to = Server::address(lab.pod(B, 0));
    let mut udp = Flow::udp(lab.pod(A, 0).namespace(), 5250, to)?;
    let mut tcp = Flow::tcp(lab.pod(A, 0).namespace(), 5251, to)?;
    lab.until_fast(&mut udp)?;
    lab.until_fast(&mut tcp)?;
    // Once more, for the place to be known.
    Flow::tcp(lab.pod(A, 0).namespace(), 5252, to)?.ask()?;
    lab.cluster.members[B].agent.kill()?;
    drop(old);
    lab.replace_pod(B, "new")?;
    let _new = Server::backend(lab.pod(B, 0), "new")?;
    announce(lab, B)?;
    let begin = Instant::now();
    udp.set_patience(Duration::from_millis(100));
    let answer = wait_for("the new pod answers", SECONDS, || udp.ask().map(Some))?;
    ensure!(answer.name == "new", "{answer:?}");
    let took = begin.elapsed();
    ensure!(took < Duration::from_secs(4), "after {took:?}");
    for port in 5260..5265 {
        connects_at_once(lab.pod(A, 0), to, port, "new")?;
    }
    ensure!(
        tcp.ask().is_err(),
        "the new pod goes on with the old one's connection"
    );
    udp.set_patience(ANSWER);
    udp.ask_times(100)
}

#[test]
fn with_the_daemon_dead_a_pods_successor_gets_what_is_sent_to_its_address() -> Result<()> {
    run(&Kind::ALL, Options::default(), replaced).map(drop)
}
