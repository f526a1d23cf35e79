//! Services as kube-proxy writes them, in each kind of rules: what is fast, and what goes the
//! stack's way and must be right all the same.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use anyhow::{Context as _, Result, bail, ensure};
use twill_testbed::world::{GATEWAY, NODE_A};

use crate::lab::{A, B, Lab, Options, both};
use crate::rules::{Dialect, ECHO, NODE_PORT, ONE, STICKY, TWO};
use crate::talk::{ANSWER, Flow, Server, receive};

fn services_work(lab: &Lab) -> Result<()> {
    let one = Server::backend(lab.pod(B, 0), "one")?;
    let _two = Server::backend(lab.pod(B, 1), "two")?;
    several_backends(lab).context("several backends")?;
    affinity(lab).context("session affinity")?;
    hairpin(lab).context("hairpin")?;
    one_port_two_services(lab).context("one port, two Services")?;
    node_port(lab).context("NodePort")?;
    masqueraded(lab).context("masqueraded")?;
    replaced_backend(lab, one).context("a backend replaced in mid-flow")
}

/// Both backends are drawn, and connections to both are fast.
fn several_backends(lab: &Lab) -> Result<()> {
    let pod = lab.pod(A, 0).namespace();
    for udp in [false, true] {
        let mut drawn = BTreeSet::new();
        for time in 0.. {
            ensure!(time < 40, "{drawn:?} are drawn only");
            let mut flow = if udp {
                Flow::udp(pod, 0, TWO)?
            } else {
                Flow::tcp(pod, 0, TWO)?
            };
            if drawn.insert(flow.ask()?.name) {
                lab.until_fast(&mut flow)?;
            }
            if drawn.len() == 2 {
                break;
            }
        }
    }
    if lab.has_programs() {
        let remotes = lab.permits(A)?.into_iter();
        let remotes = remotes.filter(|permit| permit.pod != permit.wire);
        let remotes: BTreeSet<_> = remotes
            .map(|permit| IpAddr::from(permit.wire.remote))
            .collect();
        let backends = [0, 1].map(|pod| IpAddr::V4(lab.pod(B, pod).address()));
        ensure!(remotes == BTreeSet::from(backends), "{remotes:?}");
    }
    Ok(())
}

/// A client stays with its backend, over connections that are fast and later ones.
fn affinity(lab: &Lab) -> Result<()> {
    let pod = lab.pod(A, 0).namespace();
    let mut first = Flow::tcp(pod, 0, STICKY)?;
    let name = first.ask()?.name;
    lab.until_fast(&mut first)?;
    for _ in 0..12 {
        let tcp = Flow::tcp(pod, 0, STICKY)?.ask()?.name;
        let udp = Flow::udp(pod, 0, STICKY)?.ask()?.name;
        ensure!(tcp == name && udp == name, "{name}, then {tcp} and {udp}");
    }
    Ok(())
}

/// To oneself through the Service: masqueraded, and never on the overlay.
fn hairpin(lab: &Lab) -> Result<()> {
    let pod = lab.pod(B, 0);
    for mut flow in [
        Flow::tcp(pod.namespace(), 0, ONE)?,
        Flow::udp(pod.namespace(), 0, ONE)?,
    ] {
        let answer = flow.ask()?;
        ensure!(*answer.seen.ip() != pod.address(), "seen as {answer:?}");
        flow.ask_times(50)?;
    }
    Ok(())
}

/// A resolver with a fixed port: replies come from the Service that was asked.
fn one_port_two_services(lab: &Lab) -> Result<()> {
    let pod = lab.pod(A, 0).namespace();
    let socket = pod.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5353)))??;
    socket.set_read_timeout(Some(ANSWER))?;
    let mut number = 0;
    let mut ask = |to: SocketAddrV4| -> Result<()> {
        number += 1;
        socket.send_to(format!("{number}\n").as_bytes(), to)?;
        let mut buffer = [0; 256];
        let (length, from) = receive(&socket, &mut buffer)?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        let right = text.trim_end().ends_with(&format!(" {number}"));
        ensure!(
            from == SocketAddr::V4(to) && right,
            "asked {to}, {from} answered {text}"
        );
        Ok(())
    };
    lab.make_fast(|| ask(ONE))?;
    lab.make_fast(|| {
        ask(TWO)?;
        ask(ONE)
    })
}

/// From outside to a node that has no backend: masqueraded to the overlay, and fast where the
/// backend is.
fn node_port(lab: &Lab) -> Result<()> {
    let outside = lab.cluster.underlay.switch();
    let to = SocketAddrV4::new(NODE_A, NODE_PORT);
    for mut flow in [Flow::tcp(outside, 0, to)?, Flow::udp(outside, 0, to)?] {
        let answer = flow.ask()?;
        ensure!(answer.name == "one" && *answer.seen.ip() != GATEWAY);
        let programs = lab.twill_nodes().iter().copied().filter(|node| *node == B);
        lab.make_fast_on(&programs.collect::<Vec<_>>(), || flow.ask().map(drop))?;
    }
    Ok(())
}

/// Out of the cluster: the node's address is what is seen.
fn masqueraded(lab: &Lab) -> Result<()> {
    let _outside = Server::start(lab.cluster.underlay.switch(), "outside", ECHO)?;
    let (pod, to) = (lab.pod(A, 0).namespace(), SocketAddrV4::new(GATEWAY, ECHO));
    for mut flow in [Flow::tcp(pod, 0, to)?, Flow::udp(pod, 0, to)?] {
        for _ in 0..50 {
            let seen = flow.ask()?.seen;
            ensure!(*seen.ip() == NODE_A, "seen as {seen}");
        }
    }
    Ok(())
}

/// A connection stays with its backend when the Service loses it, fast as before; the next goes
/// to the new one. When the backend is gone, the connection notices.
fn replaced_backend(lab: &Lab, one: Server) -> Result<()> {
    let pod = lab.pod(A, 0).namespace();
    let mut stays = Flow::tcp(pod, 0, ONE)?;
    lab.until_fast(&mut stays)?;
    lab.serve(&[lab.pod(B, 1).address()])?;
    let mut next = Flow::tcp(pod, 0, ONE)?;
    lab.make_fast(|| {
        let names = [stays.ask()?.name, next.ask()?.name];
        ensure!(names == ["one", "two"], "{names:?}");
        Ok(())
    })?;
    drop(one);
    if stays.ask().is_ok() {
        bail!("the backend that is gone answers");
    }
    lab.until_fast(&mut next)
}

#[test]
fn services_with_iptables_nft() -> Result<()> {
    both(Options::dialect(Dialect::IptablesNft), |lab| {
        services_work(lab)
    })
}

#[test]
fn services_with_iptables_legacy() -> Result<()> {
    both(Options::dialect(Dialect::IptablesLegacy), |lab| {
        services_work(lab)
    })
}

#[test]
fn services_with_nftables() -> Result<()> {
    both(Options::dialect(Dialect::Nftables), |lab| {
        services_work(lab)
    })
}
