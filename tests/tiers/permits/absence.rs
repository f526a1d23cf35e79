//! What flows live through: the daemon dead, netfilter's rules gone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use twill_testbed::wait::{pass, wait_until};

use crate::lab::{A, B, Lab, Options, PERMIT_TIME, SECONDS, both, twill};
use crate::rules::ONE;
use crate::talk::{Flow, Server};

#[test]
fn with_the_daemon_dead_permits_are_learned_probed_and_renewed() -> Result<()> {
    twill(Options::default(), dead)
}

fn dead(lab: &mut Lab) -> Result<()> {
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    for member in &mut lab.cluster.members {
        member.agent.kill()?;
    }
    let pod = lab.pod(A, 0).namespace();
    let mut tcp = Flow::tcp(pod, 5100, ONE)?;
    let mut udp = Flow::udp(pod, 5101, ONE)?;
    lab.until_fast(&mut tcp)?;
    lab.until_fast(&mut udp)?;
    // A quarter more than four probes take: the fourth has to be answered, too.
    let end = Instant::now() + 2 * PERMIT_TIME + PERMIT_TIME / 4;
    while Instant::now() < end {
        tcp.ask()?;
        udp.ask()?;
        pass(Duration::from_millis(5))?;
    }
    for port in [5100, 5101] {
        let permit = lab.permit(A, port)?.context("no permit")?;
        // One is the learning of each direction; every half permit time asks both again, on a
        // busy machine a little later.
        ensure!(permit.renewals >= 5 && permit.probes >= 4, "{permit:?}");
        let age = permit.out_until_ns - permit.since_ns;
        ensure!(
            Duration::from_nanos(age) > 2 * PERMIT_TIME,
            "not one life: {permit:?}"
        );
    }
    lab.until_fast(&mut tcp)?;
    drop(tcp);
    wait_until("the close was seen", SECONDS, || {
        lab.permit(A, 5100)
            .is_ok_and(|permit| permit.is_none_or(|p| p.state == twill_abi::PERMIT_TOMBSTONE))
    })
}

#[test]
fn with_all_of_nftables_flushed_permits_run_out_and_come_back_with_the_rules() -> Result<()> {
    both(Options::default(), flushed)
}

fn flushed(lab: &mut Lab) -> Result<()> {
    let backends = [lab.pod(B, 0).address()];
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    let (pod, to) = (lab.pod(A, 0).namespace(), Server::address(lab.pod(B, 0)));
    let mut tcp = Flow::tcp(pod, 5300, to)?;
    let mut service = Flow::tcp(pod, 5301, ONE)?;
    lab.until_fast(&mut tcp)?;
    lab.until_fast(&mut service)?;
    for member in &mut lab.cluster.members {
        member.agent.stop()?;
    }
    // The acknowledgement of the last answer may be delayed: without it the server would send
    // the answer once more, past a NAT that is not there.
    pass(Duration::from_millis(300))?;
    lab.on_both("nft flush ruleset")?;
    let end = Instant::now() + PERMIT_TIME + Duration::from_millis(500);
    while Instant::now() < end {
        tcp.ask().context("while nothing marks")?;
    }
    if lab.has_programs() {
        let before = lab.fast_counts()?;
        tcp.ask_times(20).context("slow")?;
        ensure!(lab.fast_counts()? == before, "fast without a rule");
    }
    lab.serve(&backends)?;
    for member in &mut lab.cluster.members {
        member.agent.start_again()?;
        member.agent.wait_ready()?;
    }
    tcp.ask().context("with the rules back")?;
    service
        .ask()
        .context("the Service's, with the rules back")?;
    lab.until_fast(&mut tcp).context("fast again")?;
    lab.until_fast(&mut service)
        .context("the Service's fast again")?;
    // Flushed under a living daemon: the table comes back by itself.
    lab.on_both("nft flush ruleset")?;
    lab.serve(&backends)?;
    let end = Instant::now() + 2 * PERMIT_TIME;
    while Instant::now() < end {
        tcp.ask().context("under a living daemon")?;
        pass(Duration::from_millis(5))?;
    }
    lab.until_fast(&mut tcp).context("put back")
}
