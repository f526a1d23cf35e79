//! A17: a route to the peer that carries an MTU, not locked: the kernel's device keeps to it.

use anyhow::{Context as _, Result, ensure};
use twill_testbed::wait::wait_until;
use twill_testbed::world::NODE_B;

use crate::lab::{A, B, Kind, Lab, Options, SECONDS, run};
use crate::talk::{Flow, Server};

/// What IP and UDP put before a datagram, and VXLAN around it, bytes.
const HEADERS: usize = 28;
const ENCAP: usize = 50;

#[test]
fn a17_a_route_s_mtu_is_kept_to_and_followed() -> Result<()> {
    run(&Kind::ALL, Options::default(), |lab| follow(lab)).map(drop)
}

fn follow(lab: &Lab) -> Result<()> {
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    let to = Server::address(lab.pod(B, 0));
    let mut udp = Flow::udp(lab.pod(A, 0).namespace(), 6170, to)?;
    lab.until_fast(&mut udp)?;
    for (change, mtu) in [("add", 1400), ("replace", 1300)] {
        lab.on(
            A,
            &format!("ip route {change} {NODE_B}/32 dev eth0 mtu {mtu}"),
        )?;
        known(lab, &mut udp, mtu).with_context(|| format!("a route with MTU {mtu}"))?;
        check(lab, &mut udp, mtu).with_context(|| format!("a route with MTU {mtu}"))?;
    }
    // Without a word of it the uplink's own holds again.
    set_wire(lab, 1500)?;
    lab.on(A, &format!("ip route replace {NODE_B}/32 dev eth0"))?;
    udp.pad_to(1500 - ENCAP - HEADERS, 0);
    lab.until_fast(&mut udp)
}

/// Waits until the programs know: datagrams that are a byte too long are slow, for that reason.
fn known(lab: &Lab, udp: &mut Flow, mtu: usize) -> Result<()> {
    if !lab.has_programs() {
        return Ok(());
    }
    udp.pad_to(mtu - ENCAP - HEADERS + 1, 0);
    wait_until("what is too long is slow", SECONDS, || {
        let before = over(lab).unwrap_or_default();
        udp.ask().is_ok() && over(lab).is_ok_and(|now| now > before)
    })
}

/// The longest IP packet that the wire brings from the first node.
fn set_wire(lab: &Lab, mtu: usize) -> Result<()> {
    let switch = lab.cluster.underlay.switch();
    switch.run_lines(&format!("ip link set dev a mtu {mtu}"))
}

/// The wire takes nothing longer than `mtu` from the first node: what is longer arrives in
/// fragments or not at all.
fn check(lab: &Lab, udp: &mut Flow, mtu: usize) -> Result<()> {
    set_wire(lab, mtu)?;
    let longest = mtu - ENCAP - HEADERS;
    let (before, over_before) = (lab.fast_counts()?, over(lab)?);
    let sizes = [
        longest - 20,
        longest - 1,
        longest,
        longest + 1,
        longest + 20,
    ];
    for size in sizes {
        udp.pad_to(size, 0);
        udp.ask_times(5)
            .with_context(|| format!("datagrams of {size} bytes"))?;
    }
    if lab.has_programs() {
        let fast = lab.fast_counts()?[A] - before[A];
        ensure!(fast >= 10, "{fast} of 15 that fit were fast");
        let slow = over(lab)? - over_before;
        ensure!(
            slow == 10,
            "{slow} of 10 that do not fit were slow for that"
        );
    }
    Ok(())
}

fn over(lab: &Lab) -> Result<u64> {
    if lab.has_programs() {
        lab.count(A, "from_pod", "over_path_mtu")
    } else {
        Ok(0)
    }
}
