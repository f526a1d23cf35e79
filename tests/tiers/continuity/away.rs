//! The daemon is away for long, and the network below changes meanwhile.

use std::time::Duration;

use anyhow::{Result, ensure};
use twill_testbed::cluster::Cluster;
use twill_testbed::wait::pass;
use twill_testbed::world::{GATEWAY, UPLINK};
use twill_tests::required;

use crate::scene::{Scene, wait_fast};

/// How long the daemon is away, with timeouts shortened as much.
const COMPRESSED: Duration = Duration::from_secs(20);
/// How long with `--long`, where no timeout is touched.
const WHOLE: Duration = Duration::from_mins(10);
/// The gateway's next MAC address.
const OTHER_MAC: &str = "02:00:c0:00:02:fd";

/// Lets the nodes reach each other through the gateway only.
fn route_by_gateway(cluster: &Cluster) -> Result<()> {
    let switch = cluster.underlay.switch();
    switch.set_sysctl("net.ipv4.ip_forward", "1")?;
    for key in ["all", "default", "switch"] {
        switch.set_sysctl(&format!("net.ipv4.conf.{key}.send_redirects"), "0")?;
    }
    let [a, b] = [0, 1].map(|side| &cluster.members[side].node);
    for (node, other) in [(a, b), (b, a)] {
        let other = other.address();
        node.namespace().run_lines(&format!(
            "ip route add {other}/32 via {GATEWAY} dev {UPLINK}"
        ))?;
    }
    Ok(())
}

/// Shortens what conntrack and the neighbour table forget by: minutes pass as seconds.
fn compress(cluster: &Cluster) -> Result<()> {
    for member in &cluster.members {
        let node = member.node.namespace();
        let neighbours = format!("net.ipv4.neigh.{UPLINK}");
        for (key, value) in [
            (format!("{neighbours}.base_reachable_time_ms"), "1000"),
            (format!("{neighbours}.delay_first_probe_time"), "1"),
            (format!("{neighbours}.gc_stale_time"), "2"),
            ("net.netfilter.nf_conntrack_udp_timeout".to_owned(), "8"),
            (
                "net.netfilter.nf_conntrack_udp_timeout_stream".to_owned(),
                "8",
            ),
        ] {
            node.set_sysctl(&key, value)?;
        }
    }
    Ok(())
}

#[test]
fn traffic_follows_its_gateway_while_the_daemon_is_away() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let long = std::env::var_os("TWILL_LONG").is_some();
    let away = if long { WHOLE } else { COMPRESSED };
    let mut scene = Scene::new(&[])?;
    route_by_gateway(&scene.cluster)?;
    if !long {
        compress(&scene.cluster)?;
    }
    for member in &mut scene.cluster.members {
        // Starts with the shortened timeouts: permits must end before conntrack entries.
        member.agent.stop()?;
        member.agent.start_again()?;
        member.agent.wait_ready()?;
    }
    let minutes = if long { "10 min" } else { "10 min, compressed" };
    scene.unnoticed(
        &format!("daemon away for {minutes}, neighbours flushed"),
        |cluster| {
            for member in &mut cluster.members {
                member.agent.kill()?;
            }
            for _ in 0..4 {
                pass(away / 4)?;
                for member in &cluster.members {
                    let node = member.node.namespace();
                    node.run(&["ip", "neigh", "flush", "dev", UPLINK])?;
                }
                wait_fast(&cluster.members[0].agent, "without the daemon")?;
            }
            Ok(())
        },
    )?;

    // The gateway announces its new address; nothing answers at the old one any more.
    let event = "gateway's MAC address changed, daemon away";
    let report = scene.measure(event, |cluster| {
        let switch = cluster.underlay.switch();
        switch.set_sysctl("net.ipv4.conf.switch.arp_notify", "1")?;
        switch.run(&["ip", "link", "set", "dev", "switch", "address", OTHER_MAC])?;
        for member in &cluster.members {
            let node = member.node.namespace();
            let gateway = GATEWAY.to_string();
            let shown = node.run(&["ip", "neigh", "show", &gateway, "dev", UPLINK])?;
            ensure!(shown.contains(OTHER_MAC), "not announced: {shown}");
        }
        pass(Duration::from_secs(3))
    })?;
    // The kernel follows at once, the programs as soon as they ask it again: once a second.
    let gap = report.datagrams.longest_gap_ms;
    ensure!(gap < 1_500, "no datagram came for {gap} ms");
    ensure!(report.broken_flows() == 0, "broken flows: {report:?}");
    Ok(())
}
