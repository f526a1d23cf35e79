//! The uplink changes under load. `e2e` has the changes that replace it; here are those that
//! flows live through.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use twill_testbed::cluster::Cluster;
use twill_testbed::wait::{pass, wait_for};
use twill_testbed::world::{GATEWAY, NODE_A, OVERLAY_LINK, UPLINK};
use twill_tests::required;

use crate::scene::{ONCE, PATIENCE, Scene, lived_on};

/// How much longer than the nodes themselves pods may not hear of each other, in milliseconds, with
/// room for a busy machine.
const BEYOND: u64 = 250;
/// How long the uplink is down, at least.
const AWAY: Duration = Duration::from_millis(200);
/// Another MAC address for `eth0`, and one for `flannel.1`.
const OTHER_MAC: &str = "02:00:c0:00:02:77";
const OTHER_VTEP_MAC: &str = "02:00:00:00:00:77";
/// A second interface to the underlay, and its address.
const SECOND: &str = "eth1";
const SECOND_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 21);

/// Waits until the other node knows the first one so.
fn wait_published(cluster: &Cluster, key: &str, value: &str) -> Result<()> {
    wait_for(
        &format!("the peer knows that {key} is {value}"),
        PATIENCE,
        || {
            let vteps = cluster.members[1].agent.ctl(&["vteps"])?;
            ensure!(vteps["vteps"][0][key] == value, "{vteps}");
            Ok(Some(()))
        },
    )
}

#[test]
fn flows_live_through_changes_of_the_uplink() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut scene = Scene::new(ONCE)?;
    let node = scene.node().node.namespace().clone();

    let report = scene.measure("uplink's MTU lowered and raised", |cluster| {
        for mtu in [1400, 1500] {
            node.run_lines(&format!("ip link set dev {UPLINK} mtu {mtu}"))?;
            wait_for("the overlay follows", PATIENCE, || {
                ensure!(node.link_json(OVERLAY_LINK)?["mtu"] == mtu - 50, "not yet");
                Ok(Some(()))
            })?;
        }
        wait_published(cluster, "underlay", &NODE_A.to_string())
    })?;
    lived_on(&report)?;

    node.set_sysctl(&format!("net.ipv4.conf.{UPLINK}.arp_notify"), "1")?;
    let report = scene.measure("uplink's MAC address changed", |_| {
        node.run_lines(&format!("ip link set dev {UPLINK} address {OTHER_MAC}"))
    })?;
    lived_on(&report)?;

    let hosted = scene.measure_beside_hosts("uplink down for a while and up", |_| {
        node.run_lines(&format!("ip link set dev {UPLINK} down"))?;
        pass(AWAY)?;
        node.run_lines(&format!(
            "ip link set dev {UPLINK} up
             ip route replace default via {GATEWAY} dev {UPLINK}"
        ))
    })?;
    hosted.no_longer(BEYOND)?;

    let report = scene.measure("flannel.1's MAC address changed by hand", |cluster| {
        node.run_lines(&format!(
            "ip link set dev {OVERLAY_LINK} address {OTHER_VTEP_MAC}"
        ))?;
        wait_published(cluster, "mac", OTHER_VTEP_MAC)
    })?;
    lived_on(&report)
}

#[test]
fn the_default_route_s_interface_is_followed() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut scene = Scene::new(ONCE)?;
    let member = scene.node();
    let node = member.node.namespace().clone();
    member.agent.stop()?;
    member.agent.set_iface(None);
    member.agent.start_again()?;
    member.agent.wait_ready()?;
    let report = scene.measure("default route moved to another interface", |cluster| {
        let name = node.name();
        cluster.underlay.switch().run_lines(&format!(
            "ip link add name a2 mtu 1500 type veth peer name {SECOND} mtu 1500 netns {name}
             ip link set dev a2 master switch up"
        ))?;
        node.run_lines(&format!(
            "ip addr add {SECOND_ADDRESS}/24 dev {SECOND}
             ip link set dev {SECOND} up
             ip route del 192.0.2.0/24 dev {UPLINK}
             ip route replace default via {GATEWAY} dev {SECOND}"
        ))?;
        wait_published(cluster, "underlay", &SECOND_ADDRESS.to_string())
    })?;
    lived_on(&report)?;
    // It is looked at twice, 200 ms apart, before it is believed.
    let gap = report.datagrams.longest_gap_ms;
    ensure!(gap < 1_000, "no datagram came for {gap} ms");
    Ok(())
}
