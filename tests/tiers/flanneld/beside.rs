//! Two daemons on each host, for two networks of one etcd, as flannel's documentation has it.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use twill_testbed::agent::Agent;
use twill_testbed::flanneld::Flanneld;
use twill_testbed::topology::Node;
use twill_testbed::wait::{pass, wait_until};
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

/// Looks at rules all the time, which both kinds of daemon have.
const WATCHFUL: &str = "-iptables-resync=1";
/// In which each looks several times.
const SOME_LOOKS: Duration = Duration::from_secs(4);

/// What is in netfilter for both networks: flannel's rules without the one that both have, and
/// tables of Twill's.
fn in_netfilter(node: &Node) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (table, chain) in [("filter", "FLANNEL-FWD"), ("nat", "FLANNEL-POSTRTG")] {
        let listed = node
            .namespace()
            .run(&["iptables", "-t", table, "-S", chain])?;
        let rules = listed.lines().filter(|rule| rule.contains("10."));
        found.extend(rules.map(str::to_owned));
    }
    let tables = node.namespace().run(&["nft", "list", "tables"])?;
    let tables = tables.lines().filter(|table| table.contains("twill"));
    found.extend(tables.map(str::to_owned));
    found.sort();
    Ok(found)
}

/// Waits until the rules of both networks are there, and makes sure that everybody leaves them.
fn both_stay(node: &Node, agents: &[&Agent]) -> Result<()> {
    // Two forward rules and five others of each network, and two tables of each Twill.
    let expected = 2 * 7 + 2 * agents.len();
    let complete = || in_netfilter(node).is_ok_and(|found| found.len() == expected);
    let result = wait_until("rules of both networks", PATIENCE, complete);
    ensure!(result.is_ok(), "{:#?}", in_netfilter(node)?);
    let (before, logs) = (in_netfilter(node)?, restored(agents)?);
    pass(SOME_LOOKS)?;
    assert_eq!(in_netfilter(node)?, before);
    assert_eq!(
        restored(agents)?,
        logs,
        "they write each other's rules again"
    );
    Ok(())
}

/// How often rules were found changed.
fn restored(agents: &[&Agent]) -> Result<usize> {
    let mut found = 0;
    for agent in agents {
        let log = fs::read_to_string(agent.subnet_file().with_file_name("twilld.log"))?;
        found += log.matches("changed or removed by somebody").count();
    }
    Ok(found)
}

#[test]
fn daemons_of_two_networks_leave_each_others_rules() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    lab.etcd
        .ctl(&["put", &format!("{OTHER_PREFIX}/config"), OTHER])?;
    let endpoints = lab.etcd.endpoints();
    let prefix = format!("-etcd-prefix={OTHER_PREFIX}");
    let flags = ["-ip-masq", WATCHFUL, "--resync-interval=1"];

    let node = lab.underlay.join("a", NODE_A)?;
    let mut one = Agent::on_etcd(&node, &endpoints, &flags);
    let mut other = Agent::on_etcd(&node, &endpoints, &[&flags[..], &[&prefix]].concat());
    other.set_beside("other")?;
    for agent in [&mut one, &mut other] {
        agent.start_again()?;
        agent.wait_ready_for(PATIENCE)?;
    }
    both_stay(&node, &[&one, &other])?;
    // What one has no use for any more is its own.
    let other_rules: Vec<_> = in_netfilter(&node)?
        .into_iter()
        .filter(|rule| rule.contains("10.8.") || rule.contains(&format!("{}-other", one.table())))
        .collect();
    ensure!(one.stop()?.success());
    one.ctl_text(&["teardown", "--restore-sysctl"])?;
    let left = in_netfilter(&node)?;
    for rule in &other_rules {
        ensure!(left.contains(rule), "{rule} is gone: {left:#?}");
    }

    // And beside a real flanneld.
    let node = lab.underlay.join("b", NODE_B)?;
    let mut agent = Agent::on_etcd(&node, &endpoints, &flags);
    agent.set_beside("twill")?;
    agent.start_again()?;
    agent.wait_ready_for(PATIENCE)?;
    let flanneld = Flanneld::start(&node, &endpoints, &["-ip-masq", WATCHFUL, &prefix])?;
    both_stay(&node, &[&agent])?;
    agent.stop()?;
    agent.start_again()?;
    agent.wait_ready_for(PATIENCE)?;
    both_stay(&node, &[&agent])?;
    flanneld.stop()
}
