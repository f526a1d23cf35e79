//! Two daemons on each host, for two networks of one etcd, as flannel's documentation has it.

use anyhow::{Result, ensure};
use twill_testbed::agent::Agent;
use twill_testbed::topology::Node;
use twill_testbed::wait::wait_until;
use twill_testbed::world::{NODE_A, NODE_B, OVERLAY_LINK};
use twill_tests::required;

use super::lab::{Lab, PATIENCE, USUAL};

const OTHER_PREFIX: &str = "/other/network";
const OTHER_LINK: &str = "flannel.2";
const OTHER: &str = r#"{"Network":"10.8.0.0/16","Backend":{"Type":"vxlan","VNI":2,"Port":4790}}"#;

/// A daemon for each of the two networks, and the subnets that they have.
fn start(lab: &Lab, node: &Node) -> Result<([Agent; 2], [String; 2])> {
    let endpoints = lab.etcd.endpoints();
    let prefix = format!("-etcd-prefix={OTHER_PREFIX}");
    let mut agents = [
        Agent::on_etcd(node, &endpoints, &[]),
        Agent::on_etcd(node, &endpoints, &[&prefix]),
    ];
    agents[1].set_beside("other")?;
    for agent in &mut agents {
        agent.start_again()?;
    }
    let [one, other] = &mut agents;
    let envs = [
        one.wait_ready_for(PATIENCE)?,
        other.wait_ready_for(PATIENCE)?,
    ];
    Ok((agents, envs.map(|env| env.prefix().to_string())))
}

fn routes(node: &Node, link: &str) -> Vec<String> {
    let shown = ["ip", "route", "show", "dev", link];
    let shown = node.namespace().run(&shown).unwrap_or_default();
    let subnets = shown.lines().filter_map(|line| line.split(' ').next());
    subnets.map(str::to_owned).collect()
}

#[test]
fn two_daemons_on_a_host_are_of_two_networks() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    lab.etcd
        .ctl(&["put", &format!("{OTHER_PREFIX}/config"), OTHER])?;
    let (a, b) = (
        lab.underlay.join("a", NODE_A)?,
        lab.underlay.join("b", NODE_B)?,
    );
    let (_agents_a, subnets_a) = start(&lab, &a)?;
    let (mut agents_b, subnets_b) = start(&lab, &b)?;
    ensure!(subnets_a[0].starts_with("10.244."), "{subnets_a:?}");
    ensure!(subnets_a[1].starts_with("10.8."), "{subnets_a:?}");
    for (node, others) in [(&a, &subnets_b), (&b, &subnets_a)] {
        for (link, subnet) in [OVERLAY_LINK, OTHER_LINK].into_iter().zip(others) {
            wait_until(&format!("{link} leads to {subnet}"), PATIENCE, || {
                routes(node, link) == [subnet.clone()]
            })?;
        }
    }
    assert_eq!(lab.etcd.leases()?.len(), 2);
    let other = format!("{OTHER_PREFIX}/subnets/{}", subnets_a[1].replace('/', "-"));
    ensure!(lab.etcd.ctl(&["get", &other])?.contains("PublicIP"));

    // One that ends and is taken down leaves the other one's device, routes and programs.
    let [one, other] = &mut agents_b;
    ensure!(one.stop()?.success());
    one.ctl_text(&["teardown"])?;
    ensure!(b.namespace().link_json(OVERLAY_LINK).is_err());
    assert_eq!(routes(&b, OTHER_LINK), [subnets_a[1].clone()]);
    let status = other.status()?;
    assert_eq!(status["status"]["mode"], "bpf", "{status}");
    Ok(())
}
