//! The testbed itself, before anything of Twill runs on it: two stock flannel nodes.

use std::time::Duration;

use anyhow::{Result, ensure};
use twill_testbed::netns;
use twill_testbed::pod::Pod;
use twill_testbed::stock::{self, Pair, Peer};
use twill_testbed::subnet_env::Delegate;
use twill_testbed::topology::{Offload, Underlay, UnderlayOptions};
use twill_testbed::traffic::{EchoServer, Load, ping, tcp_echo, throughput, udp_echo};
use twill_testbed::wait::pass;
use twill_testbed::world::{NODE_A, POD_A1, POD_B1, SUBNET_A, VTEP_MAC_A};
use twill_tests::required;

fn check_traffic(pods: &[Pod; 2]) -> Result<()> {
    let [a, b] = pods;
    let _echo = EchoServer::start(b.namespace())?;
    for size in [1, 1400, 30_000] {
        ping(a.namespace(), b.address(), size)?;
        udp_echo(a.namespace(), b.address(), size)?;
    }
    for size in [1, 64 * 1024, 5_000_000] {
        tcp_echo(a.namespace(), b.address(), size)?;
    }
    Ok(())
}

#[test]
fn stock_nodes_carry_traffic_between_pods_on_a_bridge() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let pair = Pair::new(UnderlayOptions::default())?;
    assert_eq!(pair.pods[0].address(), POD_A1);
    assert_eq!(pair.pods[1].address(), POD_B1);
    check_traffic(&pair.pods)?;
    let [a, b] = &pair.pods;
    let rate = throughput(
        a.namespace(),
        b.namespace(),
        b.address(),
        Duration::from_secs(1),
    )?;
    assert!(rate.bits_per_second > 1e6, "{rate:?}");
    Ok(())
}

#[test]
fn stock_nodes_carry_traffic_between_ptp_pods_over_frames_of_a_nic() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let options = UnderlayOptions {
        mtu_bytes: 1600,
        offload: Offload::Nic,
    };
    let pair = Pair::by(Delegate::Ptp, options)?;
    let link = pair.pods[0].namespace().link_json("eth0")?;
    assert_eq!(link["mtu"], 1550);
    check_traffic(&pair.pods)
}

#[test]
fn a_removed_peer_is_missed_by_every_kind_of_traffic() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let pair = Pair::new(UnderlayOptions::default())?;
    let [a, b] = &pair.pods;
    let _echo = EchoServer::start(b.namespace())?;

    // A machine that is busy with other tests may lose datagrams of its own; not every time.
    let undisturbed = || -> Result<()> {
        let load = Load::start(a.namespace(), b.address())?;
        pass(Duration::from_secs(1))?;
        let calm = load.report();
        ensure!(calm.datagrams.sent > 100, "{calm:?}");
        calm.check()
    };
    undisturbed()
        .or_else(|_| undisturbed())
        .or_else(|_| undisturbed())?;

    let load = Load::start(a.namespace(), b.address())?;
    stock::remove_peer(&pair.nodes[1], &pair.peers[0])?;
    pass(Duration::from_secs(1))?;
    let cut = load.report();
    assert!(cut.datagrams.lost > 0, "{cut:?}");
    assert!(!cut.stream.is_perfect(), "{cut:?}");
    assert!(!cut.connections.is_perfect(), "{cut:?}");
    assert!(cut.check().is_err());
    assert!(ping(a.namespace(), b.address(), 8).is_err());

    stock::add_peer(&pair.nodes[1], &pair.peers[0])?;
    ping(a.namespace(), b.address(), 8)?;
    tcp_echo(a.namespace(), b.address(), 64 * 1024)
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let underlay = Underlay::new()?;
    let prefix = underlay.prefix().as_str().to_owned();
    let node = underlay.join("a", NODE_A)?;
    let own = Peer::new(SUBNET_A, NODE_A, VTEP_MAC_A)?;
    let pod = Pod::add(&node, "1", &stock::set_up(&node, &own)?)?;
    let directory = node.directory().path().to_owned();
    assert_eq!(netns::names_with(&prefix)?.len(), 3);

    // A pod is taken off its node: the veth goes, and so does the claim on the address.
    drop(pod);
    let ports = node
        .namespace()
        .run(&["ip", "link", "show", "master", "cni0"])?;
    assert_eq!(ports, "");
    let claims = std::fs::read_dir(directory.join("cni/cbr0"))?;
    let addresses = claims.filter(|claim| {
        let name = claim.as_ref().map(std::fs::DirEntry::file_name);
        name.is_ok_and(|name| name.to_string_lossy().starts_with("10."))
    });
    assert_eq!(addresses.count(), 0);

    drop(node);
    drop(underlay);
    assert!(netns::names_with(&prefix)?.is_empty());
    assert!(!directory.exists());
    Ok(())
}
