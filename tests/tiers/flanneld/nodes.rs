//! Whole nodes with their leases in etcd, beside nodes set up as flanneld does it.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::agent::Agent;
use twill_testbed::etcd::PREFIX;
use twill_testbed::pod::Pod;
use twill_testbed::stock::{self, Peer};
use twill_testbed::topology::Node;
use twill_testbed::traffic::{EchoServer, Load, ping};
use twill_testbed::wait::{wait_for, wait_until};
use twill_testbed::world::{
    Mac, NODE_A, NODE_B, NODE_C, OVERLAY_LINK, SUBNET_A, SUBNET_C, VTEP_MAC_A, VTEP_MAC_B,
    VTEP_MAC_C, mac_text,
};
use twill_tests::required;

use super::lab::{Lab, PATIENCE, USUAL};
use super::member::Member;

/// What flanneld writes for a node, letter by letter.
pub(crate) fn written(underlay: Ipv4Addr, mac: Mac) -> String {
    let mac = mac_text(mac);
    format!(
        r#"{{"PublicIP":"{underlay}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
    )
}

/// Registers a node as flanneld does: a lease of `seconds` and its key.
pub(crate) fn register(lab: &Lab, key: &str, value: &str, seconds: u32) -> Result<String> {
    let granted = lab.etcd.ctl(&["lease", "grant", &seconds.to_string()])?;
    let id = granted.split_whitespace().nth(1).context("no lease")?;
    let path = format!("{PREFIX}/subnets/{key}");
    let lease = format!("--lease={id}");
    lab.etcd.ctl(&["put", &path, value, &lease])?;
    Ok(id.to_owned())
}

pub(crate) fn has_route(node: &Node, subnet: &str) -> bool {
    let routes = ["ip", "route", "show", "dev", OVERLAY_LINK];
    let routes = node.namespace().run(&routes).unwrap_or_default();
    routes.lines().any(|line| line.starts_with(subnet))
}

pub(crate) fn wait_route(node: &Node, subnet: &str, there: bool) -> Result<()> {
    let what = format!("the route to {subnet} is there: {there}");
    wait_until(&what, PATIENCE, || has_route(node, subnet) == there)
}

pub(crate) fn device_mac(node: &Node) -> Result<String> {
    let link = node.namespace().link_json(OVERLAY_LINK)?;
    Ok(link["address"].as_str().unwrap_or_default().to_owned())
}

fn mac_of(text: &str) -> Result<Mac> {
    let bytes: Result<Vec<u8>, _> = (text.split(':'))
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect();
    bytes?.try_into().ok().with_context(|| text.to_owned())
}

#[test]
fn nodes_of_flanneld_and_of_twill_share_an_etcd() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    let c = lab.underlay.join("c", NODE_C)?;
    let stock_lease = Peer::new(SUBNET_C, NODE_C, VTEP_MAC_C)?;
    let env = stock::set_up(&c, &stock_lease)?;
    register(&lab, "10.244.3.0-24", &written(NODE_C, VTEP_MAC_C), 86_400)?;
    let pod_c = Pod::add(&c, "1", &env)?;

    let member = Member::of_twill(&lab, "a", NODE_A)?;
    let (a, pod_a) = (&member.node, member.pod()?);
    wait_route(a, SUBNET_C, true)?;
    // What a flanneld reads of this node, and makes of it.
    let mac = device_mac(a)?;
    let (value, lease) = lab.get(&member.key()?)?.context("no lease of the node")?;
    assert_eq!(value, written(NODE_A, mac_of(&mac)?));
    ensure!(lease != 0, "a lease without an end");
    stock::add_peer(&c, &Peer::new(&member.subnet()?, NODE_A, mac_of(&mac)?)?)?;
    ping(pod_a.namespace(), pod_c.address(), 1000)?;
    ping(pod_c.namespace(), pod_a.address(), 1000)?;

    // Others join, renew, change, leave and expire.
    let (other, changed) = (written(NODE_B, VTEP_MAC_B), written(NODE_B, VTEP_MAC_A));
    register(&lab, "10.244.9.0-24", &other, 86_400)?;
    wait_route(a, "10.244.9.0/24", true)?;
    register(&lab, "10.244.9.0-24", &other, 86_400)?;
    register(&lab, "10.244.9.0-24", &changed, 86_400)?;
    let neighbours = ["ip", "neigh", "show", "dev", OVERLAY_LINK];
    wait_until("the new MAC address is known", PATIENCE, || {
        let neighbours = a.namespace().run(&neighbours).unwrap_or_default();
        neighbours.contains(&mac_text(VTEP_MAC_A))
    })?;
    lab.delete("10.244.9.0-24")?;
    wait_route(a, "10.244.9.0/24", false)?;
    register(&lab, "10.244.10.0-24", &other, 4)?;
    wait_route(a, "10.244.10.0/24", true)?;
    wait_route(a, "10.244.10.0/24", false)?;
    // All that time the other one was there.
    ping(pod_a.namespace(), pod_c.address(), 1000).map(drop)
}

#[test]
fn a_host_goes_from_flanneld_to_twill_and_back() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    let (a, c) = (
        lab.underlay.join("a", NODE_A)?,
        lab.underlay.join("c", NODE_C)?,
    );
    let peers = [
        Peer::new(SUBNET_A, NODE_A, VTEP_MAC_A)?,
        Peer::new(SUBNET_C, NODE_C, VTEP_MAC_C)?,
    ];
    let (env_a, env_c) = (stock::set_up(&a, &peers[0])?, stock::set_up(&c, &peers[1])?);
    stock::add_peer(&a, &peers[1])?;
    stock::add_peer(&c, &peers[0])?;
    let (pod_a, pod_c) = (Pod::add(&a, "1", &env_a)?, Pod::add(&c, "1", &env_c)?);
    let value = written(NODE_A, VTEP_MAC_A);
    register(&lab, "10.244.1.0-24", &value, 86_400)?;
    register(&lab, "10.244.3.0-24", &written(NODE_C, VTEP_MAC_C), 86_400)?;
    let keys = lab.etcd.leases()?;

    let _echo = EchoServer::start(pod_c.namespace())?;
    let load = Load::start(pod_a.namespace(), pod_c.address())?;
    let mut agent = Agent::on_etcd(&a, &lab.etcd.endpoints(), &["--ip-masq"]);
    agent.start_again()?;
    let env = agent.wait_ready()?;
    assert_eq!(env, env_a, "subnet.env");
    wait_for("the peer is known", PATIENCE, || {
        let status = agent.status()?;
        Ok((status["status"]["peers"] == 1).then_some(()))
    })?;
    // The same keys, the same values; and the node is the one that it was.
    assert_eq!(lab.etcd.leases()?, keys);
    assert_eq!(device_mac(&a)?, mac_text(VTEP_MAC_A));
    ping(pod_a.namespace(), pod_c.address(), 1000)?;

    // Back: what flanneld looks for is all there, and packets go on meanwhile.
    let ended = agent.stop()?;
    ensure!(ended.success(), "{ended}");
    assert_eq!(lab.etcd.leases()?, keys);
    assert_eq!(device_mac(&a)?, mac_text(VTEP_MAC_A));
    load.report().check()
}

#[test]
fn etcd_may_be_away() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut lab = Lab::new(1, USUAL)?;
    let mut a = Member::of_twill(&lab, "a", NODE_A)?;
    let b = Member::of_twill(&lab, "b", NODE_B)?;
    let subnet_b = b.subnet()?;
    a.wait_route(&b, true)?;
    b.wait_route(&a, true)?;

    let _echo = EchoServer::start(b.pod()?.namespace())?;
    let load = Load::start(a.pod()?.namespace(), b.pod()?.address())?;
    lab.etcd.kill(0)?;
    wait_for("the agent notices", PATIENCE, || {
        let status = a.agent()?.status()?;
        let state = status["status"]["store"]["state"]
            .as_str()
            .unwrap_or_default();
        Ok((state != "connected").then_some(()))
    })?;
    ensure!(has_route(&a.node, &subnet_b), "the peer is gone with etcd");
    lab.etcd.start_again(0)?;
    lab.etcd.wait_healthy()?;
    register(
        &lab,
        "10.244.200.0-24",
        &written(NODE_C, VTEP_MAC_C),
        86_400,
    )?;
    lab.etcd.compact()?;
    wait_route(&a.node, "10.244.200.0/24", true)?;
    ensure!(has_route(&a.node, &subnet_b), "the peer is gone");
    load.report().check()?;

    // The own lease given to another node: said loudly, and not fought for.
    let own = a.key()?;
    ensure!(lab.get(&own)?.is_some(), "no {own}");
    let another = written(Ipv4Addr::new(192, 0, 2, 99), VTEP_MAC_C);
    lab.put(&own, &another)?;
    let ended = wait_for("the agent ends", PATIENCE, || a.agent()?.daemon()?.ended())?;
    ensure!(ended.code() == Some(1), "{ended}");
    let log = a.agent()?.log_tail();
    ensure!(
        log.contains("Lease has been revoked. Shutting down daemon."),
        "{log}"
    );
    assert_eq!(lab.get(&own)?, Some((another, 0)));
    Ok(())
}
