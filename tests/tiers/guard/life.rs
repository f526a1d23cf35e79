//! Nodes join, the daemon dies, the store goes away: nobody who belongs here is cut off.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use twill_abi::GUARD_HEARTBEAT_NS;
use twill_testbed::netns::Namespace;
use twill_testbed::packet::Vxlan;
use twill_testbed::traffic::ping::ping;
use twill_testbed::wait::wait_until;
use twill_testbed::world::{NODE_A, NODE_C, STRANGER, VNI};
use twill_tests::required;

use crate::arena::{A, Arena, B, C, SECONDS};
use crate::kinds::{Forged, VXLAN_PORT};
use crate::watch::{PORT, Watch};

/// How soon the guard must know that a connection to the store broke: it asks with each sign of
/// life, every two seconds, and this is how old the last one may be at most.
const NOTICED: Duration = Duration::from_nanos(GUARD_HEARTBEAT_NS);

/// From the moment that a node is ready, how soon a pod that is made on it then has an answer: its
/// lease has to get to the other node, which takes no second, and the pod has to be made.
const JOINED: Duration = Duration::from_secs(5);
/// VNI of somebody's overlay.
const OTHERS_VNI: u32 = VNI + 5;

/// A pod speaks until it is heard in another.
fn heard(from: &Namespace, to: Ipv4Addr, word: &str, watch: &Watch) -> Result<()> {
    let socket = from.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
    let text = format!("{word}|");
    wait_until(&format!("{word} is heard"), SECONDS, || {
        socket.send_to(text.as_bytes(), (to, PORT)).is_ok() && watch.count(word) > 0
    })
}

#[test]
fn a_node_that_joins_is_heard_at_once() -> Result<()> {
    if !required() {
        return Ok(());
    }
    // Nothing here waits for a look at everything.
    let flags = ["--guard=enforce", "--resync-interval", "3600"];
    let mut arena = Arena::of(2, &flags)?;
    arena.cluster.add_node("c", NODE_C)?;
    let ready = Instant::now();
    arena.cluster.members[C].add_pod("1")?;
    let to = arena.address(A);
    let heard = wait_until("the new node's pod has an answer", JOINED, || {
        ping(arena.pod(C), to, 56).is_ok()
    });
    arena.cluster.explained(heard)?;
    let took = ready.elapsed();
    ensure!(took < JOINED, "it was cut off for {took:?}");
    ensure!(arena.guard()?["drops"] == true, "{}", arena.guard()?);
    another_overlay_is_left_alone(&arena)
}

/// Somebody starts an overlay of his own at our port: its packets are none of ours.
fn another_overlay_is_left_alone(arena: &Arena) -> Result<()> {
    let host = arena.victim().node.namespace();
    let mut forged = Forged::new(&arena.target());
    forged.outer.source = STRANGER;
    forged.vxlan = Vxlan::new(OTHERS_VNI);
    let frame = [forged.frame("others")];
    let counters = || arena.victim().agent.counters();
    let refused = counters()?.packets("guard", "wrong_vni")?;
    arena.send(&frame)?;
    wait_until("it is refused where nobody has that VNI", SECONDS, || {
        counters().is_ok_and(|now| now.packets("guard", "wrong_vni").ok() == Some(refused + 1))
    })?;
    host.run_lines(&format!(
        "ip link add other type vxlan id {OTHERS_VNI} local {NODE_A} dstport {VXLAN_PORT} nolearning
         ip link set other up"
    ))?;
    wait_until("it arrives where somebody has", SECONDS, || {
        let received = || -> Result<Option<u64>> {
            arena.send(&frame)?;
            Ok(host.link_json("other")?["stats64"]["rx"]["packets"].as_u64())
        };
        received().is_ok_and(|received| received > Some(0))
    })
}

#[test]
fn with_the_daemon_dead_peers_talk_on_and_a_new_node_is_not_cut_off() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut arena = Arena::of(2, &["--guard=enforce"])?;
    let to = arena.address(A);
    let watch = Watch::start(arena.pod(A))?;
    arena.send(&[arena.stranger("early")])?;
    arena.settle(&watch)?;
    ensure!(watch.count("early") == 0, "the guard does not drop");
    arena.cluster.members[A].agent.kill()?;
    heard(arena.pod(B), to, "peer", &watch)?;
    let node = arena.cluster.underlay.join("c", NODE_C)?;
    arena.cluster.add_agent(node, &[])?.add_pod("1")?;
    // The dead daemon does not learn of the lease; one way is what is left, as with flannel.
    heard(arena.pod(C), to, "new node", &watch).context("the new node was cut off")?;
    watch.forget();
    heard(arena.pod(B), to, "peer", &watch)?;
    ping(arena.pod(B), to, 56)?;
    Ok(())
}

#[test]
fn without_the_store_nobody_is_a_stranger() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut arena = Arena::of(2, &["--guard=enforce"])?;
    let watch = Watch::start(arena.pod(A))?;
    arena.cluster.lease_server.kill()?;
    wait_until("a broken connection is noticed", NOTICED, || {
        arena.guard().is_ok_and(|guard| guard["drops"] == false)
    })?;
    let waits = arena.guard()?["waits"].take();
    ensure!(
        waits.as_str().is_some_and(|why| why.contains("store")),
        "{waits}"
    );
    let frame = [arena.stranger("unheard")];
    wait_until("what may be a new node is heard", SECONDS, || {
        arena.send(&frame).is_ok() && watch.count("unheard") > 0
    })?;
    arena.cluster.lease_server.start_again()?;
    wait_until("the guard drops again", SECONDS, || {
        arena.guard().is_ok_and(|guard| guard["drops"] == true)
    })?;
    arena.settle(&watch)?;
    watch.forget();
    arena.send(&frame)?;
    arena.settle(&watch)?;
    ensure!(watch.count("unheard") == 0, "dropped again, and yet heard");
    Ok(())
}
