//! The uplink changes under a running agent: MTU, address, name, and the interface itself.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use twill_testbed::agent::Agent;
use twill_testbed::cluster::{Cluster, Member};
use twill_testbed::netns::{Namespace, Prefix};
use twill_testbed::topology::UnderlayOptions;
use twill_testbed::traffic::{EchoServer, ping, tcp_echo};
use twill_testbed::wait::wait_for;
use twill_testbed::world::{GATEWAY, NODE_A, NODE_B, OVERLAY_LINK, UPLINK};
use twill_tests::required;

const PATIENCE: Duration = Duration::from_secs(20);
const OTHER_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 21);
const OTHER_UPLINK: &str = "uplink9";

/// Waits until the agent says so of itself and is content.
fn wait_status(agent: &Agent, key: &str, value: &serde_json::Value) -> Result<()> {
    wait_for(&format!("{key} is {value}"), PATIENCE, || {
        let status = agent.status()?;
        let said = &status["status"];
        let is_so = said[key] == *value && said["ready"] == true && said["mode"] == "bpf";
        ensure!(is_so, "{said}\n{}", agent.log_tail());
        Ok(Some(()))
    })
}

/// Waits until the pods reach each other and BPF carries what the first node sends.
fn wait_carried(members: &[Member], after: &str) -> Result<()> {
    let [a, b] = members else {
        return Err(anyhow::Error::msg("two members"));
    };
    let encapsulated = || -> Result<u64> {
        let vteps = a.agent.ctl(&["vteps"])?;
        Ok(vteps["vteps"][0]["encap_packets"]
            .as_u64()
            .unwrap_or_default())
    };
    let what = format!("BPF carries packets to the peer and back, {after}");
    wait_for(&what, PATIENCE, || {
        let before = encapsulated()?;
        let _echo = EchoServer::start(b.pods[0].namespace())?;
        ping(a.pods[0].namespace(), b.pods[0].address(), 1000)?;
        tcp_echo(a.pods[0].namespace(), b.pods[0].address(), 100_000)?;
        ping(b.pods[0].namespace(), a.pods[0].address(), 1)?;
        Ok((encapsulated()? > before).then_some(()))
    })
}

fn run(namespace: &Namespace, lines: &str) -> Result<()> {
    namespace.run_lines(lines)
}

#[test]
fn the_agent_follows_its_uplink() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    let url = cluster.lease_server.url();
    for (label, address) in [("a", NODE_A), ("b", NODE_B)] {
        cluster.add_node(label, address)?.add_pod("1")?;
    }
    // Both names: the one that is there is taken.
    let Member { agent, node, .. } = &mut cluster.members[0];
    agent.stop()?;
    *agent = Agent::new(node, &url, &["--iface", OTHER_UPLINK]);
    agent.start_again()?;
    agent.wait_ready()?;
    cluster.wait_mesh()?;
    let node = cluster.members[0].node.namespace().clone();
    let agent = &cluster.members[0].agent;
    wait_carried(&cluster.members, "at first")?;

    // A smaller MTU, and back.
    for mtu in [1400, 1500] {
        run(&node, &format!("ip link set {UPLINK} mtu {mtu}"))?;
        wait_status(agent, "mtu", &(mtu - 50).into())?;
        assert_eq!(node.link_json(OVERLAY_LINK)?["mtu"], mtu - 50);
        assert_eq!(agent.subnet_env()?.mtu_bytes, mtu - 50);
        wait_carried(&cluster.members, "after another MTU")?;
    }

    // Another address, which the peer must learn.
    run(
        &node,
        &format!(
            "ip addr del {NODE_A}/24 dev {UPLINK}
             ip addr add {OTHER_ADDRESS}/24 dev {UPLINK}
             ip route replace default via {GATEWAY} dev {UPLINK}"
        ),
    )?;
    wait_status(agent, "public_ip", &OTHER_ADDRESS.to_string().into())?;
    wait_carried(&cluster.members, "after another address")?;
    let vteps = cluster.members[1].agent.ctl(&["vteps"])?;
    assert_eq!(vteps["vteps"][0]["underlay"], OTHER_ADDRESS.to_string());

    // Another name.
    run(&node, &format!("ip link set {UPLINK} down"))?;
    run(
        &node,
        &format!(
            "ip link set {UPLINK} name {OTHER_UPLINK}
             ip link set {OTHER_UPLINK} up
             ip route replace default via {GATEWAY} dev {OTHER_UPLINK}"
        ),
    )?;
    wait_status(agent, "uplink", &OTHER_UPLINK.into())?;
    wait_carried(&cluster.members, "after another name")?;

    // Another interface: the kernel takes the vxlan device away with the one below it.
    let old = node.link_json(OVERLAY_LINK)?["ifindex"].clone();
    let name = node.name();
    run(&node, &format!("ip link del {OTHER_UPLINK}"))?;
    cluster.underlay.switch().run_lines(&format!(
        "ip link add name a2 mtu 1500 type veth peer name {UPLINK} mtu 1500 netns {name}
         ip link set dev a2 master switch up"
    ))?;
    run(
        &node,
        &format!(
            "ip addr add {NODE_A}/24 dev {UPLINK}
             ip link set {UPLINK} up
             ip route replace default via {GATEWAY} dev {UPLINK}"
        ),
    )?;
    wait_status(agent, "public_ip", &NODE_A.to_string().into())?;
    wait_carried(&cluster.members, "after another interface")?;
    assert_ne!(node.link_json(OVERLAY_LINK)?["ifindex"], old);
    Ok(())
}

/// A second interface, and what it is to the host.
const VPN: &str = "vpn0";
const VPN_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// Two nodes whose agents take the interface of the default route.
fn by_default_route() -> Result<Cluster> {
    let mut cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    let url = cluster.lease_server.url();
    for (label, address) in [("a", NODE_A), ("b", NODE_B)] {
        let node = cluster.underlay.join(label, address)?;
        // As a DHCP client leaves it.
        node.namespace().run_lines(&format!(
            "ip addr change {address}/24 dev {UPLINK} valid_lft 4000 preferred_lft 4000
             ip route add default via {GATEWAY} dev {UPLINK} metric 100
             ip route del default via {GATEWAY} dev {UPLINK} metric 0"
        ))?;
        let mut agent = Agent::new(&node, &url, &[]);
        agent.set_iface(None);
        cluster.add_prepared(node, agent)?.add_pod("1")?;
    }
    cluster.wait_mesh()?;
    wait_carried(&cluster.members, "at first")?;
    Ok(cluster)
}

/// Has the agent see that its uplink has another MTU, and with that all that came before.
fn wait_seen(member: &Member, mtu: u32) -> Result<()> {
    let line = format!("ip link set {UPLINK} mtu {mtu}");
    member.node.namespace().run_lines(&line)?;
    wait_status(&member.agent, "mtu", &(mtu - 50).into())
}

fn is_at(member: &Member, uplink: &str, address: Ipv4Addr) -> Result<()> {
    let told = member.agent.status()?;
    let said = &told["status"];
    ensure!(
        said["uplink"] == uplink && said["public_ip"] == address.to_string(),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_better_default_route_moves_no_node_that_others_reach() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = by_default_route()?;
    let node = cluster.members[0].node.namespace().clone();
    run(
        &node,
        &format!(
            "ip link add name {VPN} type veth peer name wire
             ip addr add {VPN_ADDRESS}/24 dev {VPN}
             ip link set wire up
             ip link set {VPN} up
             ip route add default via 198.51.100.254 dev {VPN} metric 50"
        ),
    )?;
    // The second one is the second look.
    for mtu in [1400, 1450] {
        wait_seen(&cluster.members[0], mtu)?;
        is_at(&cluster.members[0], UPLINK, NODE_A)?;
    }
    wait_carried(&cluster.members, "beside a better default route")?;

    // A start looks for it anew, with the device there and after a boot.
    for after_a_boot in [false, true] {
        let member = &mut cluster.members[0];
        member.agent.stop()?;
        if after_a_boot {
            run(&node, &format!("ip link del {OVERLAY_LINK}"))?;
        }
        member.agent.start_again()?;
        member.agent.wait_ready()?;
        is_at(member, UPLINK, NODE_A)?;
        cluster.wait_mesh()?;
        wait_carried(&cluster.members, "after a start")?;
    }

    // Now it cannot carry any more.
    run(&node, &format!("ip addr flush dev {UPLINK}"))?;
    wait_for("the other uplink is taken", PATIENCE, || {
        Ok(is_at(&cluster.members[0], VPN, VPN_ADDRESS).ok())
    })
}

#[test]
fn an_address_that_fails_over_is_published_by_nobody() -> Result<()> {
    const VIP: &str = "192.0.2.100/24";
    if !required() {
        return Ok(());
    }
    let mut cluster = by_default_route()?;
    let subnets = |cluster: &Cluster| -> Result<Vec<_>> {
        let envs = cluster.members.iter().map(|it| it.agent.subnet_env());
        envs.map(|env| Ok(env?.prefix())).collect()
    };
    let before = subnets(&cluster)?;
    // It comes, is there when an agent starts for the first time, and fails over.
    for holder in 0..2 {
        for (number, verb) in [(1 - holder, "del"), (holder, "add")] {
            let node = cluster.members[number].node.namespace();
            // The first has nothing to lose at first.
            let gone = run(node, &format!("ip addr {verb} {VIP} dev {UPLINK}"));
            ensure!(gone.is_ok() || (holder, verb) == (0, "del"), "{gone:?}");
        }
        for mtu in [1400, 1450] {
            wait_seen(&cluster.members[holder], mtu)?;
        }
        let member = &mut cluster.members[holder];
        member.agent.stop()?;
        run(
            member.node.namespace(),
            &format!("ip link del {OVERLAY_LINK}"),
        )?;
        std::fs::remove_dir_all(member.agent.state_dir())?;
        member.agent.start_again()?;
        member.agent.wait_ready()?;
        for (member, address) in cluster.members.iter().zip([NODE_A, NODE_B]) {
            is_at(member, UPLINK, address)?;
        }
        cluster.wait_mesh()?;
        wait_carried(&cluster.members, "while an address fails over")?;
    }
    assert_eq!(subnets(&cluster)?, before);
    Ok(())
}
