//! Leases of others that contradict a node's own: told, by whatever store they come.

use anyhow::{Context as _, Result, ensure};
use twill_testbed::agent::Agent;
use twill_testbed::flanneld::Flanneld;
use twill_testbed::lease_server::LeaseServer;
use twill_testbed::topology::Node;
use twill_testbed::wait::wait_for;
use twill_testbed::world::{NODE_A, NODE_B};
use twill_tests::required;

use super::lab::{Lab, PATIENCE, USUAL};
use super::nodes::{device_mac, wait_route};

const SHARED: &str = "--public-ip=203.0.113.9";

/// Waits until a status has a condition of claims with all these words.
fn wait_told(agent: &Agent, words: &[&str]) -> Result<()> {
    wait_for(&format!("a claim is told: {words:?}"), PATIENCE, || {
        let told = agent.status()?;
        let conditions = told["status"]["conditions"].as_array().cloned();
        let told = conditions.unwrap_or_default().into_iter().any(|it| {
            let text = it["text"].as_str().unwrap_or_default();
            it["kind"] == "lease_contradicted" && words.iter().all(|word| text.contains(word))
        });
        Ok(told.then_some(()))
    })
}

fn lease(mac: &str) -> String {
    format!(
        r#"{{"PublicIP":"192.0.2.77","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
    )
}

/// flanneld takes the route and says nothing; the other end drops what comes with its own MAC
/// address as sender.
#[test]
fn a_peer_with_this_node_s_mac_address_is_told_and_gets_no_route() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    let node = lab.underlay.join("a", NODE_A)?;
    let mut agent = Agent::on_etcd(&node, &lab.etcd.endpoints(), &[]);
    agent.start_again()?;
    agent.wait_ready_for(PATIENCE)?;
    lab.put("10.244.210.0-24", &lease(&device_mac(&node)?))?;
    wait_told(&agent, &["10.244.210.0/24", "192.0.2.77", "MAC address"])?;
    // The others are taken as ever.
    lab.put("10.244.211.0-24", &lease("02:00:5e:10:00:07"))?;
    wait_route(&node, "10.244.211.0/24", true)?;
    wait_route(&node, "10.244.210.0/24", false)?;

    let node = lab.underlay.join("b", NODE_B)?;
    let flanneld = Flanneld::start(&node, &lab.etcd.endpoints(), &[])?;
    lab.put("10.244.212.0-24", &lease(&device_mac(&node)?))?;
    wait_route(&node, "10.244.212.0/24", true)?;
    flanneld.stop()
}

fn two_with_one_address(lab: &Lab, agent: impl Fn(&Node) -> Agent) -> Result<()> {
    let (a, b) = (
        lab.underlay.join("a", NODE_A)?,
        lab.underlay.join("b", NODE_B)?,
    );
    let (mut first, mut second) = (agent(&a), agent(&b));
    first.start_again()?;
    let before = first.wait_ready_for(PATIENCE)?;
    second.start_again()?;
    let after = second.wait_ready_for(PATIENCE)?;
    ensure!(before.prefix() == after.prefix(), "{before:?}, {after:?}");
    let subnet = before.prefix().to_string();
    wait_told(&first, &[&subnet, &device_mac(&b)?, "--public-ip"])
}

#[test]
fn two_nodes_with_one_public_ip_are_told_by_etcd() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    let endpoints = lab.etcd.endpoints();
    two_with_one_address(&lab, |node| Agent::on_etcd(node, &endpoints, &[SHARED]))
}

#[test]
fn two_nodes_with_one_public_ip_are_told_by_a_lease_server() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    let server = LeaseServer::start(&lab.underlay).context("a lease server")?;
    two_with_one_address(&lab, |node| Agent::new(node, &server.url(), &[SHARED]))
}
