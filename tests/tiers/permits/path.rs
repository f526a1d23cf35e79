//! A17: a path to the peer that is narrower than the uplink.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use twill_testbed::world::NODE_B;
use twill_tests::required;

use crate::lane::{Lane, PERMIT, PORT, Who};
use crate::talk::{Server, Udp};

#[test]
fn a17_with_a_narrower_path_every_size_arrives_as_on_stock() -> Result<()> {
    if !required() {
        return Ok(());
    }
    for who in [Who::Stock, PERMIT, Who::Twill("direct")] {
        let lane = Lane::new(who)?;
        lane.explained(every_size(&lane))?;
    }
    Ok(())
}

/// The MTU is locked: `bpf_fib_lookup` answers as for forwarding, where the kernel goes by a
/// route's MTU only then (`ip_mtu_from_fib_result`), or by what ICMP has told.
fn every_size(lane: &Lane) -> Result<()> {
    lane.host(0)
        .run_lines(&format!("ip route add {NODE_B}/32 dev eth0 mtu lock 1400"))?;
    let _server = Server::start(lane.pod(1).namespace(), "one", PORT)?;
    let to = SocketAddrV4::new(lane.pod(1).address(), PORT);
    let mut udp = Udp::connect(lane.pod(0).namespace(), 6100, to)?;
    lane.make_fast(|| udp.ask().map(drop))?;
    // What the programs remember of the way is a second old at most; then only fragments of
    // what is too long may leave, and the wire takes nothing longer.
    let switch = lane.switch();
    switch.run_lines("ip link set dev a mtu 1400")?;
    udp.socket
        .set_read_timeout(Some(Duration::from_millis(300)))?;
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_millis(1100) {
        udp.ask()?;
    }
    let before = lane.fast_or_none()?;
    // Inner IP packets of 1322 to 1402 bytes; 1350 is what fits one outer packet of 1400.
    for size in (1294..1374).step_by(4) {
        for time in 0..3 {
            udp.ask_long(size)
                .with_context(|| format!("datagram {time} of {size} bytes"))?;
        }
    }
    if let Some(before) = before {
        let after = lane.fast_packets()?;
        ensure!(after[0] > before[0] + 12, "short ones are fast");
        let over = lane.count(0, "from_pod", "over_path_mtu")?;
        ensure!(over >= 15, "{over} over the path's MTU");
    }
    Ok(())
}
