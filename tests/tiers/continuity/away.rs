//! The daemon is away for long, and the network below changes meanwhile.

use std::time::Duration;

use anyhow::{Result, ensure};
use twill_testbed::cluster::Cluster;
use twill_testbed::netns::Namespace;
use twill_testbed::topology::{Node, Underlay};
use twill_testbed::wait::{pass, wait_for};
use twill_testbed::world::{GATEWAY, UPLINK};
use twill_tests::required;

use crate::beside::{Stock, at_once};
use crate::scene::{PATIENCE, Scene, wait_fast};

/// How long the daemon is away, with timeouts shortened as much.
const COMPRESSED: Duration = Duration::from_secs(20);
/// How long with `--long`, where no timeout is touched.
const WHOLE: Duration = Duration::from_mins(10);
/// How many datagrams more than by the kernel alone may be lost to a next hop that was remembered,
/// with room for a busy machine.
const BEYOND: u64 = 10;
/// The same where the kernel has to find out itself, by timers that it draws by lot: half a permit
/// time, in which one packet goes the kernel's way, and what its timers differ by.
const BEYOND_UNANNOUNCED: u64 = 2_000 + 3_000;
/// The gateway's next MAC addresses.
const OTHER_MAC: &str = "02:00:c0:00:02:fd";
const SILENT_MAC: &str = "02:00:c0:00:02:fc";

/// Lets the nodes reach each other through the gateway only.
fn route_by_gateway(underlay: &Underlay, [a, b]: [&Node; 2]) -> Result<()> {
    let switch = underlay.switch();
    switch.set_sysctl("net.ipv4.ip_forward", "1")?;
    for key in ["all", "default", "switch"] {
        switch.set_sysctl(&format!("net.ipv4.conf.{key}.send_redirects"), "0")?;
    }
    for (node, other) in [(a, b), (b, a)] {
        let other = other.address();
        node.namespace().run_lines(&format!(
            "ip route add {other}/32 via {GATEWAY} dev {UPLINK}"
        ))?;
    }
    Ok(())
}

/// Shortens what conntrack and the neighbour table forget by: minutes pass as seconds.
fn compress(node: &Namespace) -> Result<()> {
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
    Ok(())
}

fn knows_gateway(node: &Node, mac: &str) -> Result<bool> {
    let gateway = GATEWAY.to_string();
    let show = ["ip", "neigh", "show", &gateway, "dev", UPLINK];
    Ok(node.namespace().run(&show)?.contains(mac))
}

fn nodes(cluster: &Cluster) -> [&Node; 2] {
    [0, 1].map(|side| &cluster.members[side].node)
}

#[test]
fn traffic_follows_its_gateway_while_the_daemon_is_away() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let long = std::env::var_os("TWILL_LONG").is_some();
    let away = if long { WHOLE } else { COMPRESSED };
    let mut scene = Scene::new(&[])?;
    let stock = Stock::new()?;
    let [a, b] = &stock.pair.nodes;
    route_by_gateway(&stock.pair.underlay, [a, b])?;
    route_by_gateway(&scene.cluster.underlay, nodes(&scene.cluster))?;
    if !long {
        for node in nodes(&scene.cluster).into_iter().chain([a, b]) {
            compress(node.namespace())?;
        }
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
    let event = "gateway's MAC address changed and announced, daemon away";
    let both = scene.measure_beside(&stock, event, |cluster, pair| {
        let switches = [cluster.underlay.switch(), pair.underlay.switch()];
        for switch in switches {
            switch.set_sysctl("net.ipv4.conf.switch.arp_notify", "1")?;
        }
        at_once(
            &switches,
            &format!("link set dev switch address {OTHER_MAC}"),
        )?;
        for node in nodes(cluster).into_iter().chain(&pair.nodes) {
            ensure!(knows_gateway(node, OTHER_MAC)?, "not announced");
        }
        pass(Duration::from_secs(3))
    })?;
    // The kernel follows at once, the programs as soon as they ask it again: each millisecond, on
    // both nodes.
    both.no_worse(BEYOND)?;
    if long {
        return Ok(());
    }

    // It tells nobody: the kernel doubts an address that it was not told of for a while, but asks
    // only when it sends something itself.
    let event = "gateway's MAC address changed, not announced, daemon away";
    let both = scene.measure_beside(&stock, event, |cluster, pair| {
        let switches = [cluster.underlay.switch(), pair.underlay.switch()];
        for switch in switches {
            switch.set_sysctl("net.ipv4.conf.switch.arp_notify", "0")?;
        }
        at_once(
            &switches,
            &format!("link set dev switch address {SILENT_MAC}"),
        )?;
        wait_for("the nodes found out", PATIENCE, || {
            let nodes = nodes(cluster).into_iter().chain(&pair.nodes);
            let known = nodes.map(|node| knows_gateway(node, SILENT_MAC));
            let known = known.collect::<Result<Vec<_>>>()?;
            Ok((known == [true; 4]).then_some(()))
        })?;
        pass(Duration::from_secs(1))
    })?;
    // Five seconds without an answer are the end of a flow here, on stock nodes as well.
    both.no_more_lost(BEYOND_UNANNOUNCED)
}
