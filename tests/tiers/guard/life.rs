//! Nodes join, the daemon dies, the store goes away: nobody who belongs here is cut off.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use twill_abi::GUARD_HEARTBEAT_NS;
use twill_testbed::netns::Namespace;
use twill_testbed::traffic::ping::ping;
use twill_testbed::wait::wait_until;
use twill_testbed::world::NODE_C;
use twill_tests::required;

use crate::arena::{A, Arena, B, C, SECONDS};
use crate::watch::{PORT, Watch};

/// How soon the guard must know that a connection to the store broke: it asks with each sign of
/// life, every two seconds, and this is how old the last one may be at most.
const NOTICED: Duration = Duration::from_nanos(GUARD_HEARTBEAT_NS);

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
    let mut arena = Arena::of(2, &["--guard=enforce"])?;
    arena.cluster.add_node("c", NODE_C)?.add_pod("1")?;
    arena.cluster.wait_mesh()?;
    let to = arena.address(A);
    wait_until("the new node's pod has an answer", SECONDS, || {
        ping(arena.pod(C), to, 56).is_ok()
    })?;
    ensure!(arena.guard()?["drops"] == true, "{}", arena.guard()?);
    Ok(())
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
