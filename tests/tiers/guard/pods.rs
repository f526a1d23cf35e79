//! A pod makes VXLAN to a node's port, to reach another pod past every rule.

use std::net::{Ipv4Addr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use twill_testbed::packet::{Ethernet, Ipv4, Udp, Vxlan};
use twill_testbed::wait::wait_until;
use twill_testbed::world::{NODE_A, VNI};
use twill_tests::required;

use crate::arena::{A, Arena, B, SECONDS};
use crate::kinds::VXLAN_PORT;
use crate::watch::{PORT, Watch};

/// A pod sends VXLAN to an address of the victim.
fn nested(arena: &Arena, from: usize, to: Ipv4Addr, word: &str) -> Result<()> {
    let text = format!("{word}|");
    let target = arena.target();
    let packet = Ipv4::new(target.peer_pod, target.pod);
    let packet = packet.udp(&Udp::new(4_000, PORT), text.as_bytes());
    let frame = Ethernet::ipv4([2, 0, 0, 0, 6, 6], target.vtep_mac).over(&packet);
    let vxlan = Vxlan::new(VNI).over(&frame);
    let socket = arena.pod(from).enter(|| UdpSocket::bind("0.0.0.0:0"))??;
    socket.send_to(&vxlan, (to, VXLAN_PORT))?;
    Ok(())
}

/// Each way of a pod to the victim's port: its name, whose pod, to which address.
fn ways(arena: &Arena) -> [(&'static str, usize, Ipv4Addr); 3] {
    let gateway = arena.victim().env.subnet.ip();
    [
        ("to the gateway", A, gateway),
        ("to the node", A, NODE_A),
        // Node B runs no guard, so that the victim's own sees it.
        ("through the overlay", B, gateway),
    ]
}

#[test]
fn a_pod_does_not_speak_to_the_nodes_port() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut arena = Arena::of(2, &["--guard=off"])?;
    let peer = &mut arena.cluster.members[B].agent;
    peer.stop()?;
    peer.set_flags(&["--guard=off"]);
    peer.start_again()?;
    peer.wait_ready()?;
    let watch = Watch::start(arena.pod(A))?;
    for flags in [
        &["--guard=off"][..],
        &["--guard=enforce", "--allow-pod-vxlan"],
    ] {
        if flags.len() > 1 {
            arena.restart(flags)?;
        }
        watch.forget();
        for (name, from, to) in ways(&arena) {
            wait_until(&format!("{flags:?}: {name} arrives"), SECONDS, || {
                nested(&arena, from, to, name).is_ok() && watch.count(name) > 0
            })?;
        }
    }
    arena.restart(&["--guard=enforce"])?;
    watch.forget();
    let counted = |program: &str| {
        arena
            .victim()
            .agent
            .counters()?
            .packets(program, "pod_vxlan")
    };
    let before = (counted("from_pod")?, counted("guard")?);
    for (name, from, to) in ways(&arena) {
        nested(&arena, from, to, name)?;
    }
    let after = (before.0 + 2, before.1 + 1);
    wait_until("each is counted", SECONDS, || {
        let now = counted("from_pod").and_then(|pod| Ok((pod, counted("guard")?)));
        now.is_ok_and(|now| now == after)
    })?;
    arena.settle(&watch)?;
    for (name, ..) in ways(&arena) {
        ensure!(watch.count(name) == 0, "{name} arrived");
    }
    by_filters(arena, &watch)
}

/// Where the kernel takes no TCX links a pod that is never fast is watched all the same, by a
/// filter, once one costs it nothing; until then status names it.
fn by_filters(mut arena: Arena, watch: &Watch) -> Result<()> {
    let host = arena.victim().node.namespace().clone();
    let veths = ["ip", "-json", "link", "show", "master", "cni0"];
    let veths: serde_json::Value = serde_json::from_str(&host.run(&veths)?)?;
    let veth = veths[0]["ifname"].as_str().context("no veth")?;
    let tbf = format!("dev {veth} root tbf rate 1gbit burst 1mb latency 50ms");
    host.run_lines(&format!("tc qdisc replace {tbf}"))?;
    arena.restart(&["--guard=enforce", "--attach-by", "netlink"])?;
    let said = |says: &serde_json::Value| arena.guard().is_ok_and(|it| it["unwatched"] == *says);
    let why = format!("{veth}: its qdisc tbf would lose packets to a new clsact qdisc");
    wait_until("the pod is named", SECONDS, || said(&json!([why])))?;
    let text = arena.victim().agent.ctl_text(&["status"])?;
    ensure!(
        text.contains("not watched") && text.contains(&why),
        "{text}"
    );
    host.run(&["tc", "qdisc", "add", "dev", veth, "clsact"])?;
    wait_until("the pod is watched", SECONDS, || said(&json!([])))?;
    watch.forget();
    nested(&arena, A, NODE_A, "by a filter")?;
    arena.settle(watch)?;
    ensure!(watch.count("by a filter") == 0, "it arrived");
    Ok(())
}
