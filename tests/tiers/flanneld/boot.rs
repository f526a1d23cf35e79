//! Hosts that boot while etcd is away.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::agent::Agent;
use twill_testbed::pod::Pod;
use twill_testbed::subnet_env::SubnetEnv;
use twill_testbed::traffic::ping;
use twill_testbed::wait::wait_for;
use twill_testbed::world::{NODE_A, NODE_B, OVERLAY_LINK, VTEP_MAC_C};
use twill_tests::required;

use super::lab::{Lab, PATIENCE, USUAL};
use super::member::Member;
use super::nodes::{device_mac, register, written};

/// Ends the agent and takes away what a boot takes away: `/run`, pins, devices and rules.
fn power_off(member: &mut Member) -> Result<()> {
    member.pod = None;
    let agent = member.agent()?;
    agent.kill()?;
    fs::remove_file(agent.subnet_file())?;
    fs::remove_dir_all(agent.run_dir())?;
    fs::remove_dir_all(agent.pins())?;
    member.node.namespace().run_lines(&format!(
        "ip link del {OVERLAY_LINK}
         ip link del cni0
         nft flush ruleset"
    ))
}

/// The agent's word about the store is a trouble, and what it wrote for CNI plugins.
pub(crate) fn wait_stand_in(agent: &Agent) -> Result<SubnetEnv> {
    wait_for("subnet.env is there without a store", PATIENCE, || {
        let status = agent.status()?;
        ensure!(status["status"]["ready"] == false, "{status}");
        agent.subnet_env().map(Some)
    })
    .with_context(|| agent.log_tail())
}

#[test]
fn a_host_that_boots_without_etcd_has_its_subnet_at_once() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut lab = Lab::new(1, USUAL)?;
    let mut a = Member::of_twill(&lab, "a", NODE_A)?;
    let b = Member::of_twill(&lab, "b", NODE_B)?;
    let (env, mac) = (a.env()?, device_mac(&a.node)?);
    let text = fs::read(a.agent()?.subnet_file())?;
    b.wait_route(&a, true)?;
    let keys = lab.etcd.leases()?;

    lab.etcd.kill(0)?;
    power_off(&mut a)?;
    a.agent()?.start_again()?;
    ensure!(wait_stand_in(a.agent()?)? == env, "another subnet");
    ensure!(fs::read(a.agent()?.subnet_file())? == text, "another text");
    // Other nodes still send to that address.
    assert_eq!(device_mac(&a.node)?, mac);
    let addresses = ["ip", "-o", "addr", "show", "dev", OVERLAY_LINK];
    let addresses = a.node.namespace().run(&addresses)?;
    let own = format!("{}/32", env.prefix().network());
    ensure!(addresses.contains(&own), "{addresses}");
    // The node's own pods are there, and reach each other, the node, and the world.
    let (one, two) = (Pod::add(&a.node, "2", &env)?, Pod::add(&a.node, "3", &env)?);
    ping(one.namespace(), two.address(), 100)?;
    ping(a.node.namespace(), one.address(), 100)?;
    ping(one.namespace(), NODE_B, 100)?;

    lab.etcd.start_again(0)?;
    lab.etcd.wait_healthy()?;
    ensure!(
        a.agent()?.wait_ready_for(PATIENCE)? == env,
        "another subnet"
    );
    assert_eq!(lab.etcd.leases()?, keys, "the node is not the one it was");
    a.wait_route(&b, true)?;
    ping(one.namespace(), b.pod()?.address(), 1000).map(drop)
}

#[test]
fn a_lease_that_was_lost_while_etcd_was_away_is_not_fought_for() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut lab = Lab::new(1, USUAL)?;
    let mut a = Member::of_twill(&lab, "a", NODE_A)?;
    let (env, key) = (a.env()?, a.key()?);
    power_off(&mut a)?;
    // Another node has it now, and this one does not know yet.
    let other = written(Ipv4Addr::new(192, 0, 2, 99), VTEP_MAC_C);
    register(&lab, &key, &other, 86_400)?;
    lab.etcd.kill(0)?;
    let agent = a.agent()?;
    agent.start_again()?;
    ensure!(wait_stand_in(agent)? == env, "another subnet");

    lab.etcd.start_again(0)?;
    lab.etcd.wait_healthy()?;
    let ended = wait_for("the agent ends", PATIENCE, || agent.daemon()?.ended())?;
    ensure!(ended.code() == Some(1), "{ended}");
    let log = agent.log_tail();
    ensure!(log.contains("Lease has been revoked"), "{log}");
    assert_eq!(lab.get(&key)?.map(|(value, _)| value), Some(other));

    // The next start has another one, as on a host of its own.
    agent.start_again()?;
    let now = agent.wait_ready_for(PATIENCE)?;
    ensure!(now.prefix() != env.prefix(), "{now:?}");
    Ok(())
}
