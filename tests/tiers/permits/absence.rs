//! What flows live through: the daemon dead, a pod replaced, netfilter's rules gone.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use twill_testbed::traffic::ping;
use twill_testbed::wait::{pass, wait_for, wait_until};
use twill_tests::required;

use crate::lane::{Lane, PERMIT, PERMIT_TIME, PORT, SECONDS, SERVICE, Who};
use crate::talk::{Server, Tcp, Udp};

#[test]
fn with_the_daemon_dead_permits_are_learned_probed_and_renewed() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut lane = Lane::new(PERMIT)?;
    let result = dead(&mut lane);
    lane.explained(result)
}

fn dead(lane: &mut Lane) -> Result<()> {
    let _server = Server::start(lane.pod(1).namespace(), "one", PORT)?;
    lane.wait_attached()?;
    for member in lane.members() {
        member.agent.kill()?;
    }
    let pod = lane.pod(0).namespace();
    let mut tcp = Tcp::connect(pod, 5100, SERVICE)?;
    let mut udp = Udp::connect(pod, 5101, SERVICE)?;
    lane.make_fast(|| tcp.ask().map(drop))?;
    lane.make_fast(|| udp.ask().map(drop))?;
    let end = Instant::now() + 2 * PERMIT_TIME;
    while Instant::now() < end {
        tcp.ask()?;
        udp.ask()?;
        pass(Duration::from_millis(5))?;
    }
    for port in [5100, 5101] {
        let permit = lane.permit(0, port)?.context("no permit")?;
        // One is the learning of each direction; every half permit time asks both again, on a
        // busy machine a little later.
        ensure!(permit.renewals >= 5 && permit.probes >= 4, "{permit:?}");
        let age = permit.out_until_ns - permit.since_ns;
        ensure!(
            Duration::from_nanos(age) > 2 * PERMIT_TIME,
            "not one life: {permit:?}"
        );
    }
    lane.make_fast(|| tcp.ask().map(drop))?;
    drop(tcp);
    wait_until("the close was seen", SECONDS, || {
        lane.permit(0, 5100)
            .is_ok_and(|permit| permit.is_none_or(|p| p.state == twill_abi::PERMIT_TOMBSTONE))
    })
}

#[test]
fn a_pods_address_given_to_a_new_pod_is_the_new_pods_at_once() -> Result<()> {
    if !required() {
        return Ok(());
    }
    for who in [Who::Stock, PERMIT, Who::Twill("direct")] {
        let mut lane = Lane::new(who)?;
        let result = replaced(&mut lane);
        lane.explained(result)?;
    }
    Ok(())
}

fn replaced(lane: &mut Lane) -> Result<()> {
    let old = Server::start(lane.pod(1).namespace(), "old", PORT)?;
    let to = SocketAddrV4::new(lane.pod(1).address(), PORT);
    let mut udp = Udp::connect(lane.pod(0).namespace(), 5200, to)?;
    let mut tcp = Tcp::connect(lane.pod(0).namespace(), 5201, to)?;
    lane.make_fast(|| udp.ask().map(drop))?;
    lane.make_fast(|| tcp.ask().map(drop))?;
    drop(old);
    lane.replace_pod(1, "new")?;
    let _new = Server::start(lane.pod(1).namespace(), "new", PORT)?;
    udp.socket
        .set_read_timeout(Some(Duration::from_millis(100)))?;
    // The node still has the old pod's MAC address until the new one asks for the gateway's.
    announce(lane, 1)?;
    let begin = Instant::now();
    wait_for("the new pod answers", SECONDS, || {
        let answer = udp.ask()?;
        ensure!(answer.name == "new", "the dead pod answers");
        Ok(Some(()))
    })?;
    ensure!(
        begin.elapsed() < Duration::from_secs(2),
        "after {:?}",
        begin.elapsed()
    );
    // The new pod knows nothing of the old one's connection.
    ensure!(
        tcp.ask().is_err(),
        "the new pod goes on with the old one's connection"
    );
    let mut again = Tcp::connect(lane.pod(0).namespace(), 5202, to)?;
    ensure!(again.ask()?.name == "new");
    lane.make_fast(|| again.ask().map(drop))
        .context("TCP to the new pod")?;
    lane.make_fast(|| udp.ask().map(drop))
        .context("UDP to the new pod")?;

    // And the other way round: the asking pod is replaced, its successor uses the same port.
    drop((udp, tcp, again));
    lane.replace_pod(0, "heir")?;
    announce(lane, 0)?;
    let mut udp = Udp::connect(lane.pod(0).namespace(), 5200, to)?;
    udp.socket
        .set_read_timeout(Some(Duration::from_millis(100)))?;
    wait_for("the heir is answered", SECONDS, || udp.ask().map(Some))?;
    lane.make_fast(|| udp.ask().map(drop)).context("the heir")
}

/// Lets the node learn the new pod's MAC address, as the pod's first packet does.
fn announce(lane: &Lane, side: usize) -> Result<()> {
    let [a, b, c, _] = lane.pod(side).address().octets();
    ping(lane.pod(side).namespace(), [a, b, c, 1].into(), 8).map(drop)
}

#[test]
fn with_all_of_nftables_flushed_permits_run_out_and_come_back_with_the_rules() -> Result<()> {
    if !required() {
        return Ok(());
    }
    for who in [Who::Stock, PERMIT] {
        let mut lane = Lane::with(who, &["--resync-interval", "1"])?;
        let result = flushed(&mut lane);
        lane.explained(result)?;
    }
    Ok(())
}

fn flushed(lane: &mut Lane) -> Result<()> {
    let _server = Server::start(lane.pod(1).namespace(), "one", PORT)?;
    let to = SocketAddrV4::new(lane.pod(1).address(), PORT);
    let mut tcp = Tcp::connect(lane.pod(0).namespace(), 5300, to)?;
    let mut service = Tcp::connect(lane.pod(0).namespace(), 5301, SERVICE)?;
    lane.make_fast(|| tcp.ask().map(drop))?;
    lane.make_fast(|| service.ask().map(drop))?;
    for member in lane.members() {
        member.agent.stop()?;
    }
    for side in [0, 1] {
        lane.host(side).run(&["nft", "flush", "ruleset"])?;
    }
    let end = Instant::now() + PERMIT_TIME + Duration::from_millis(500);
    while Instant::now() < end {
        tcp.ask().context("while nothing marks")?;
    }
    if lane.who != Who::Stock {
        let before = lane.fast_packets()?;
        for _ in 0..20 {
            tcp.ask().context("slow")?;
        }
        ensure!(lane.fast_packets()? == before, "fast without a rule");
    }
    lane.serve(&[lane.pod(1).address()])?;
    for member in lane.members() {
        member.agent.start_again()?;
        member.agent.wait_ready()?;
    }
    tcp.ask().context("with the rules back")?;
    service
        .ask()
        .context("the Service's, with the rules back")?;
    lane.make_fast(|| tcp.ask().map(drop))
        .context("fast again")?;
    lane.make_fast(|| service.ask().map(drop))
        .context("the Service's fast again")?;
    // Flushed under a living daemon: the table comes back by itself.
    for side in [0, 1] {
        lane.host(side).run(&["nft", "flush", "ruleset"])?;
    }
    lane.serve(&[lane.pod(1).address()])?;
    let end = Instant::now() + 2 * PERMIT_TIME;
    while Instant::now() < end {
        tcp.ask().context("under a living daemon")?;
        pass(Duration::from_millis(5))?;
    }
    lane.make_fast(|| tcp.ask().map(drop)).context("put back")
}
