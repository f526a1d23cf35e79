//! Rules of `nft` in the tables of `iptables`, which that cannot show: what a real flanneld writes
//! beside them, and what Twill writes.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::agent::Agent;
use twill_testbed::flanneld::Flanneld;
use twill_testbed::topology::Node;
use twill_testbed::wait::wait_until;
use twill_tests::required;

use super::lab::{Lab, PATIENCE, USUAL};

/// What `iptables` 1.8.9 cannot list.
const UNREADABLE: &str = "log prefix \"seen\" level debug";
/// What it cannot look past in search of a rule either: with these flanneld stays without its jump.
const IN_THE_WAY: [&str; 2] = [
    "ct state established,related accept",
    "meta priority set 1:2",
];
/// What it takes for something else.
const MISREAD: &str = "tcp dport vmap { 22 : accept, 80 : accept }";

const FORWARD: &str = "type filter hook forward priority 0; policy drop;";
const POSTROUTING: &str = "type nat hook postrouting priority 100;";
const PREROUTING: &str = "type filter hook prerouting priority -150;";

/// Table, chain, what it is, and a rule in it.
type Rule = (&'static str, &'static str, &'static str, &'static str);

const CASES: [&[Rule]; 9] = [
    &[("filter", "FORWARD", FORWARD, UNREADABLE)],
    &[("filter", "FORWARD", FORWARD, MISREAD)],
    &[("nat", "POSTROUTING", POSTROUTING, UNREADABLE)],
    &[("mangle", "PREROUTING", PREROUTING, UNREADABLE)],
    &[("filter", "FORWARD", FORWARD, IN_THE_WAY[0])],
    &[("filter", "FORWARD", FORWARD, IN_THE_WAY[1])],
    &[("nat", "POSTROUTING", POSTROUTING, IN_THE_WAY[0])],
    &[("filter", "somebodys", FORWARD, UNREADABLE)],
    &[
        ("filter", "FORWARD", FORWARD, UNREADABLE),
        ("nat", "POSTROUTING", POSTROUTING, UNREADABLE),
        ("mangle", "PREROUTING", PREROUTING, UNREADABLE),
    ],
];

/// The node's tables of `iptables`, without what differs from node to node and time to time.
fn tables(node: &Node, own: &str) -> String {
    let mut text = String::new();
    for table in ["filter", "nat", "mangle"] {
        let list = ["nft", "list", "table", "ip", table];
        text += &node.namespace().run(&list).unwrap_or_default();
    }
    let mut plain = String::new();
    for line in text.replace(own, "OWN").lines() {
        let (line, rest) = line.split_once("counter packets").unwrap_or((line, ""));
        let target: Vec<_> = rest.split_whitespace().skip(3).collect();
        plain.push_str(line);
        plain.push_str(&target.join(" "));
        plain.push('\n');
    }
    plain
}

fn write(node: &Node, rules: &[Rule]) -> Result<()> {
    for (table, chain, hook, rule) in rules {
        for command in [
            format!("add table ip {table}"),
            format!("add chain ip {table} {chain} {{ {hook} }}"),
            format!("add rule ip {table} {chain} {rule}"),
        ] {
            node.namespace().run(&["nft", &command])?;
        }
    }
    Ok(())
}

fn check(lab: &Lab, number: u8, rules: &[Rule]) -> Result<()> {
    let endpoints = lab.etcd.endpoints();
    let flags = ["-ip-masq", "-iptables-resync=1"];
    let join = |kind: &str, last| {
        let address = Ipv4Addr::new(192, 0, 2, last);
        let node = lab.underlay.join(&format!("{kind}{number}"), address)?;
        write(&node, rules).map(|()| node)
    };
    let is_complete = |text: &str| {
        let count = |part| text.matches(part).count();
        count("jump FLANNEL-FWD") == 1
            && count("jump FLANNEL-POSTRTG") == 1
            && count(" 10.244.0.0/16  accept") == 2
            && count("masquerade") == 2
    };
    let is_in_the_way = rules.iter().any(|(.., rule)| IN_THE_WAY.contains(rule));
    let mut expected = None;
    if !is_in_the_way {
        let node = join("f", 100 + number)?;
        let flanneld = Flanneld::start(&node, &endpoints, &flags)?;
        let own = flanneld.subnet_env()?.prefix().to_string();
        // It does not wait for its own.
        wait_until("flanneld's rules", PATIENCE, || {
            is_complete(&tables(&node, &own))
        })?;
        expected = Some(tables(&node, &own));
        flanneld.stop()?;
    }

    let node = join("t", 120 + number)?;
    let mut agent = Agent::on_etcd(&node, &endpoints, &flags);
    agent.start_again()?;
    let own = agent.wait_ready_for(PATIENCE)?.prefix().to_string();
    let found = tables(&node, &own);
    ensure!(is_complete(&found), "{found}");
    let expected = expected.unwrap_or_else(|| found.clone());
    ensure!(found == expected, "found\n{found}\nexpected\n{expected}");

    // Made good like rules in other surroundings, and what is there is not doubled.
    for (table, chain) in [("filter", "FLANNEL-FWD"), ("nat", "FLANNEL-POSTRTG")] {
        let flush = ["nft", "flush", "chain", "ip", table, chain];
        node.namespace().run(&flush)?;
        wait_until("the rules are back", PATIENCE, || {
            tables(&node, &own) == expected
        })?;
    }
    agent.stop()?;
    agent.start_again()?;
    agent.wait_ready_for(PATIENCE)?;
    let found = tables(&node, &own);
    ensure!(found == expected, "a second start makes\n{found}");
    Ok(())
}

#[test]
fn rules_that_iptables_cannot_show_keep_nobody_from_adding_ours() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, USUAL)?;
    for (number, rules) in (0..).zip(CASES) {
        check(&lab, number, rules).with_context(|| format!("with {rules:?}"))?;
    }
    Ok(())
}
