//! host-gw: nodes of a real flanneld and of Twill on one etcd and one link, without a tunnel.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::agent::Agent;
use twill_testbed::traffic::{EchoServer, Load, ping, tcp_echo};
use twill_testbed::wait::{wait_for, wait_until};
use twill_testbed::world::{NODE_A, NODE_B, NODE_C, OVERLAY_LINK, UPLINK, VTEP_MAC_A};
use twill_tests::required;

use super::lab::{Lab, PATIENCE};
use super::member::{Kind, Member};
use super::nodes::{register, written};

const HOST_GW: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}"#;

/// What a flanneld with host-gw writes for a node, letter by letter.
fn plain(underlay: Ipv4Addr) -> String {
    format!(r#"{{"PublicIP":"{underlay}","PublicIPv6":null,"BackendType":"host-gw"}}"#)
}

fn routes(member: &Member, subnet: &str) -> Result<String> {
    let words = ["ip", "route", "show", subnet];
    Ok(member.node.namespace().run(&words)?.trim().to_owned())
}

/// Waits for flannel's route by this gateway, or for none.
fn wait_route(member: &Member, subnet: &str, via: Option<Ipv4Addr>) -> Result<()> {
    let wanted = via.map(|via| format!("{subnet} via {via} dev {UPLINK}"));
    let what = wanted.as_deref().unwrap_or("no route");
    wait_until(what, PATIENCE, || {
        routes(member, subnet).is_ok_and(|is| match &wanted {
            Some(wanted) => is.lines().count() == 1 && is.starts_with(wanted),
            None => is.is_empty(),
        })
    })
    .with_context(|| format!("{:?} to {subnet}", routes(member, subnet)))
}

/// Both know each other, and their pods talk in both directions.
fn settle(one: &Member, other: &Member) -> Result<()> {
    for (from, to) in [(one, other), (other, one)] {
        wait_route(from, &to.subnet()?, Some(to.node.address()))?;
        let (pod, address) = (from.pod()?.namespace(), to.pod()?.address());
        ping(pod, address, 1400)?;
        let _echo = EchoServer::start(to.pod()?.namespace())?;
        tcp_echo(pod, address, 1 << 16)?;
    }
    Ok(())
}

#[test]
fn host_gw_nodes_of_a_real_flanneld_and_of_twill_come_and_go() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, HOST_GW)?;
    let mut a = Member::of_twill(&lab, "a", NODE_A)?;
    let mut c = Member::new(&lab, "c", NODE_C)?;
    c.start(Kind::Flanneld)?;
    settle(&a, &c)?;
    let (value, lease) = lab.get(&a.key()?)?.context("no lease of the node")?;
    assert_eq!(value, plain(NODE_A));
    ensure!(lease != 0, "a lease without an end");
    let file = std::fs::read_to_string(a.node.directory().join("subnet.env"))?;
    ensure!(file.contains("FLANNEL_MTU=1500\n"), "{file}");
    let links = a.node.namespace().run(&["ip", "-d", "link"])?;
    ensure!(!links.contains("vxlan"), "{links}");
    let status = a.agent()?.status()?;
    let said = &status["status"];
    assert_eq!(
        (&said["backend"], &said["mode"]),
        (&"host-gw".into(), &"kernel".into())
    );
    let reason = said["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("host-gw"), "{reason}");

    // One that is gone comes back, and one that leads elsewhere is put right.
    let (to_c, from_a) = (c.subnet()?, a.node.namespace());
    from_a.run(&["ip", "route", "del", &to_c])?;
    wait_route(&a, &to_c, Some(NODE_C))?;
    from_a.run(&["ip", "route", "replace", &to_c, "via", "192.0.2.99"])?;
    wait_route(&a, &to_c, Some(NODE_C))?;

    // Another joins, is not on the link, speaks another backend, and leaves.
    let others = [
        ("10.244.201.0-24", plain(NODE_B)),
        ("10.244.202.0-24", plain(Ipv4Addr::new(203, 0, 113, 7))),
        ("10.244.203.0-24", written(NODE_B, VTEP_MAC_A)),
    ];
    for (key, value) in &others {
        register(&lab, key, value, 86_400)?;
    }
    wait_route(&a, "10.244.201.0/24", Some(NODE_B))?;
    let agent = a.agent()?;
    wait_for("both are told", PATIENCE, || {
        let status = agent.status()?;
        let told = status["status"]["conflicts"].to_string();
        let both = told.contains("203.0.113.7 is not on a link")
            && told.contains(r#"BackendType of 10.244.203.0/24 is \"vxlan\", not \"host-gw\""#);
        Ok(both.then_some(()))
    })?;
    for subnet in ["10.244.202.0/24", "10.244.203.0/24"] {
        assert_eq!(routes(&a, subnet)?, "");
    }
    lab.delete("10.244.201.0-24")?;
    wait_route(&a, "10.244.201.0/24", None)?;

    // Restarts of either change nothing that flows; who dies while the other is away is forgotten.
    let echo = EchoServer::start(c.pod()?.namespace())?;
    let load = Load::start(a.pod()?.namespace(), c.pod()?.address())?;
    a.stop()?;
    a.start(Kind::Twill)?;
    c.stop()?;
    c.start(Kind::Flanneld)?;
    a.hand_over()?;
    a.start(Kind::Flanneld)?;
    a.stop()?;
    a.start(Kind::Twill)?;
    load.report().check()?;
    drop(echo);
    settle(&a, &c)?;
    a.stop()?;
    c.die(&lab)?;
    a.start(Kind::Twill)?;
    wait_route(&a, &to_c, None)
}

#[test]
fn host_gw_refuses_a_public_address_that_is_not_the_interfaces() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, HOST_GW)?;
    let node = lab.underlay.join("a", NODE_A)?;
    let flags = ["--public-ip", "198.51.100.1"];
    let mut agent = Agent::on_etcd(&node, &lab.etcd.endpoints(), &flags);
    agent.start_again()?;
    let ended = wait_for("the agent ends", PATIENCE, || agent.daemon()?.ended())?;
    ensure!(ended.code() == Some(1), "{ended}");
    let log = agent.log_tail();
    let text = "your PublicIP differs from interface IP, meaning that probably you're on a NAT, \
                which is not supported by host-gw backend";
    ensure!(log.contains(text), "{log}");
    Ok(())
}

#[test]
fn a_network_goes_from_vxlan_to_host_gw_and_the_device_is_left_alone() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, super::lab::USUAL)?;
    let mut members = [
        Member::of_twill(&lab, "a", NODE_A)?,
        Member::of_twill(&lab, "c", NODE_C)?,
    ];
    for member in &mut members {
        member.stop()?;
    }
    lab.etcd.configure(HOST_GW)?;
    for member in &mut members {
        member.forget_env();
        member.start(Kind::Twill)?;
    }
    settle(&members[0], &members[1])?;
    let mut agents = members.iter_mut();
    let agent = agents.next().context("no member")?.agent()?;
    let status = agent.status()?;
    assert_eq!(status["status"]["attached"], serde_json::json!([]));
    members[0].node.namespace().link_json(OVERLAY_LINK)?;
    Ok(())
}
