//! A17: a path to the peer that is narrower than the uplink.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use twill_testbed::world::NODE_B;

use crate::lab::{A, B, Kind, Lab, Options, run};
use crate::talk::{Flow, Server};

#[test]
fn a17_with_a_narrower_path_every_size_arrives_as_on_stock() -> Result<()> {
    run(&Kind::ALL, Options::default(), |lab| every_size(lab)).map(drop)
}

/// The MTU is locked: `bpf_fib_lookup` answers as for forwarding, where the kernel goes by a
/// route's MTU only then (`ip_mtu_from_fib_result`), or by what ICMP has told.
fn every_size(lab: &Lab) -> Result<()> {
    lab.host(A)
        .run_lines(&format!("ip route add {NODE_B}/32 dev eth0 mtu lock 1400"))?;
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    let to = Server::address(lab.pod(B, 0));
    let mut udp = Flow::udp(lab.pod(A, 0).namespace(), 6100, to)?;
    lab.until_fast(&mut udp)?;
    // What the programs remember of the way is a second old at most; then only fragments of
    // what is too long may leave, and the wire takes nothing longer.
    let switch = lab.cluster.underlay.switch();
    switch.run_lines("ip link set dev a mtu 1400")?;
    udp.set_patience(Duration::from_millis(300));
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(1100) {
        udp.ask()?;
    }
    let before = lab.fast_counts()?;
    // Inner IP packets of 1322 to 1402 bytes; 1350 is what fits one outer packet of 1400.
    for size in (1294..1374).step_by(4) {
        udp.pad_to(size, 0);
        udp.ask_times(3)
            .with_context(|| format!("datagrams of {size} bytes"))?;
    }
    if lab.has_programs() {
        let after = lab.fast_counts()?;
        ensure!(after[0] > before[0] + 12, "short ones are fast");
        let over = lab.count(A, "from_pod", "over_path_mtu")?;
        ensure!(over >= 15, "{over} over the path's MTU");
    }
    Ok(())
}
