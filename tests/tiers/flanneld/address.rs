//! The node's own address: which one other nodes are told, and which one packets are from.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::agent::Agent;
use twill_testbed::etcd::PREFIX;
use twill_testbed::pod::Pod;
use twill_testbed::topology::Node;
use twill_testbed::wait::{pass, wait_for, wait_until};
use twill_testbed::world::{NODE_A, OVERLAY_LINK, UPLINK};
use twill_tests::required;

use super::lab::{Lab, PATIENCE, USUAL, value};

const OTHER_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 21);
/// An address that is translated on the way to this node.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const ONE: &str = r#"{"Network":"10.244.0.0/16","SubnetLen":24,"SubnetMin":"10.244.77.0",
        "SubnetMax":"10.244.77.0","Backend":{"Type":"vxlan"}}"#;
const ONE_KEY: &str = "10.244.77.0-24";

fn local(node: &Node) -> Result<String> {
    let link = node
        .namespace()
        .run(&["ip", "-d", "link", "show", OVERLAY_LINK])?;
    let mut words = link.split_whitespace().skip_while(|word| *word != "local");
    Ok(words.nth(1).context(link.clone())?.to_owned())
}

#[test]
fn an_address_that_the_host_does_not_have_is_published_and_not_sent_from() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    let node = lab.underlay.join("a", NODE_A)?;
    let flag = format!("--public-ip={OUTSIDE}");
    let mut agent = Agent::on_etcd(&node, &lab.etcd.endpoints(), &[&flag]);
    agent.start_again()?;
    agent.wait_ready_for(PATIENCE)?;
    let published = format!(r#""PublicIP":"{OUTSIDE}""#);
    let leases = lab.etcd.leases()?;
    ensure!(leases[0].1.contains(&published), "{leases:?}");
    assert_eq!(local(&node)?, NODE_A.to_string());
    let log = fs::read_to_string(node.directory().join("twilld.log"))?;
    let words = format!("no interface of this node has the external address {OUTSIDE}");
    ensure!(log.contains(&words), "{log}");

    // It comes to the host, as one that fails over does, and goes again.
    let address = format!("{OUTSIDE}/32");
    for (change, expected) in [("add", OUTSIDE), ("del", NODE_A)] {
        node.namespace()
            .run(&["ip", "addr", change, &address, "dev", UPLINK])?;
        wait_until(&format!("packets are from {expected}"), PATIENCE, || {
            local(&node).is_ok_and(|local| local == expected.to_string())
        })?;
    }
    let leases = lab.etcd.leases()?;
    ensure!(leases[0].1.contains(&published), "{leases:?}");
    Ok(())
}

#[test]
fn an_address_that_changes_before_there_is_a_lease_is_the_one_published() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, ONE)?;
    // There is no subnet left, and so the agent asks again and again.
    lab.put(ONE_KEY, &value(9))?;
    let node = lab.underlay.join("a", NODE_A)?;
    let mut agent = Agent::on_etcd(&node, &lab.etcd.endpoints(), &[]);
    agent.start_again()?;
    let log = node.directory().join("twilld.log");
    wait_until("it has asked for a lease", PATIENCE, || {
        fs::read_to_string(&log).is_ok_and(|said| said.contains("failed to acquire lease"))
    })?;
    node.namespace().run_lines(&format!(
        "ip addr add {OTHER_ADDRESS}/24 dev {UPLINK}
         ip addr del {NODE_A}/24 dev {UPLINK}
         ip addr replace {OTHER_ADDRESS}/24 dev {UPLINK}"
    ))?;
    lab.delete(ONE_KEY)?;
    let published = format!(r#""PublicIP":"{OTHER_ADDRESS}""#);
    wait_until("the new address is published", PATIENCE, || {
        lab.get(ONE_KEY)
            .is_ok_and(|found| found.is_some_and(|(text, _)| text.contains(&published)))
    })?;
    // And was from the beginning.
    let key = format!("{PREFIX}/subnets/{ONE_KEY}");
    let told = lab.etcd.ctl(&["get", &key, "-w", "json"])?;
    let told: serde_json::Value = serde_json::from_str(&told)?;
    ensure!(told["kvs"][0]["version"] == 1, "{told}");
    assert_eq!(local(&node)?, OTHER_ADDRESS.to_string());
    Ok(())
}

#[test]
fn an_expression_does_not_leave_an_uplink_that_has_no_address_for_a_moment() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    let node = lab.underlay.join("a", NODE_A)?;
    // A bridge of other containers, whose address matches as well.
    node.namespace().run_lines(
        "ip link add name docker0 type bridge
         ip addr add 172.17.0.1/16 dev docker0",
    )?;
    let flags = [r"--iface-regex=^192\.0\.2\.", r"--iface-regex=^\d+\.\d+"];
    let mut agent = Agent::on_etcd(&node, &lab.etcd.endpoints(), &flags);
    agent.set_iface(None);
    agent.start_again()?;
    let env = agent.wait_ready_for(PATIENCE)?;
    let _pod = Pod::add(&node, "1", &env)?;
    let leases = lab.etcd.leases()?;
    let address = format!("{NODE_A}/24");
    node.namespace()
        .run(&["ip", "addr", "del", &address, "dev", UPLINK])?;
    wait_for("the agent says so", PATIENCE, || {
        let told = agent.status()?;
        let status = &told["status"];
        assert_eq!(status["uplink"], UPLINK);
        Ok((status["errors"]["uplink"].as_u64() > Some(0)).then_some(()))
    })?;
    // Two looks more.
    pass(std::time::Duration::from_secs(5))?;
    assert_eq!(agent.status()?["status"]["uplink"], UPLINK);
    node.namespace()
        .run(&["ip", "addr", "add", &address, "dev", UPLINK])?;
    agent.wait_ready_for(PATIENCE)?;
    assert_eq!(agent.status()?["status"]["uplink"], UPLINK);
    assert_eq!(lab.etcd.leases()?, leases);
    Ok(())
}
