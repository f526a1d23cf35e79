//! `DirectRouting`: no encap between nodes on one link, and encap as soon as they are not.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use twill_testbed::cluster::{Cluster, Member};
use twill_testbed::netns::Prefix;
use twill_testbed::topology::UnderlayOptions;
use twill_testbed::traffic::{EchoServer, ping, tcp_echo};
use twill_testbed::wait::wait_until;
use twill_testbed::world::{
    LEASE_SERVER, NETWORK, NODE_A, NODE_B, OVERLAY_LINK, PORT, UPLINK, VNI,
};
use twill_tests::required;

/// The agent looks at everything once: what it does later, it does because it was told.
const ONCE: [&str; 2] = ["--resync-interval", "3600"];
/// "Within seconds", with room for a busy machine.
const SECONDS: Duration = Duration::from_secs(20);

#[test]
fn the_way_to_a_peer_follows_the_routes_of_the_host() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let config = json!({
        "Network": NETWORK,
        "Backend": { "Type": "vxlan", "VNI": VNI, "Port": PORT, "DirectRouting": true },
    });
    let options = UnderlayOptions::default();
    let mut cluster = Cluster::with_config(Prefix::unique(), options, &config.to_string())?;
    for (label, address) in [("a", NODE_A), ("b", NODE_B)] {
        let node = cluster.underlay.join(label, address)?;
        // Somebody else's, inside the network and by a gateway.
        node.namespace()
            .run_lines("ip route add 10.244.201.0/24 via 192.0.2.254")?;
        cluster.add_agent(node, &ONCE)?.add_pod("1")?;
    }
    let (a, b) = (&cluster.members[0], &cluster.members[1]);
    let node = a.node.namespace();
    let to_b = b.env.prefix().to_string();
    let shown = || node.run(&["ip", "route", "show", &to_b]);
    let wait_for_route = |expected: &str| {
        let is_so = || shown().is_ok_and(|text| text.trim() == expected);
        wait_until(expected, SECONDS, is_so).with_context(|| format!("there is {:?}", shown()))
    };
    let direct = format!("{to_b} via {NODE_B} dev {UPLINK} proto 84");
    let gateway = b.env.prefix().network();
    let by_vxlan = format!("{to_b} via {gateway} dev {OVERLAY_LINK} onlink");
    cluster.explained(wait_for_route(&direct))?;

    let (from, to) = (a.pods[0].namespace(), b.pods[0].address());
    let _echo = EchoServer::start(b.pods[0].namespace())?;
    let before = encapsulated(a)?;
    wait_until("pods reach each other", SECONDS, || {
        ping(from, to, 1400).is_ok()
    })?;
    tcp_echo(from, to, 1 << 20)?;
    ensure!(encapsulated(a)? == before, "packets were encapsulated");

    // Each is behind a gateway for the other now.
    cluster.lease_server.host().namespace().run_lines(
        "sysctl -qw net.ipv4.ip_forward=1
         sysctl -qw net.ipv4.conf.all.send_redirects=0
         sysctl -qw net.ipv4.conf.eth0.send_redirects=0",
    )?;
    let detour = |verb: &str| -> Result<()> {
        for (member, other) in [(a, NODE_B), (b, NODE_A)] {
            let line = format!("ip route {verb} {other} via {LEASE_SERVER}");
            member.node.namespace().run_lines(&line)?;
        }
        Ok(())
    };
    detour("add")?;
    wait_for_route(&by_vxlan)?;
    // What goes through the tunnel is fast, as without `DirectRouting`.
    wait_until("flows to B are fast", SECONDS, || {
        tcp_echo(from, to, 1 << 20).is_ok() && fast(a).is_ok_and(|fast| fast > 0)
    })
    .with_context(|| format!("{:?}", a.agent.ctl(&["vteps"])))?;
    detour("del")?;
    wait_for_route(&direct)?;
    tcp_echo(from, to, 1 << 20)?;
    // And somebody who takes the route away.
    node.run(&["ip", "route", "del", &to_b])?;
    wait_for_route(&direct)?;
    ping(from, to, 1400)?;
    let others = node.run(&["ip", "route", "show", "10.244.201.0/24"])?;
    ensure!(
        others.contains("via 192.0.2.254"),
        "somebody else's route is gone"
    );
    Ok(())
}

fn encapsulated(member: &Member) -> Result<u64> {
    let device =
        member
            .node
            .namespace()
            .run(&["ip", "-s", "-json", "link", "show", OVERLAY_LINK])?;
    let device: serde_json::Value = serde_json::from_str(&device)?;
    let sent = device[0]["stats64"]["tx"]["packets"].as_u64().unwrap_or(0);
    Ok(sent + fast(member)?)
}

fn fast(member: &Member) -> Result<u64> {
    member.agent.counters()?.packets("from_pod", "fast")
}
