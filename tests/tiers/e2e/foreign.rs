//! What others configured on the node is the same before, during and after Twill, but for the
//! four conntrack settings that flows at rest need.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use twill_testbed::agent::Agent;
use twill_testbed::lease_server::LeaseServer;
use twill_testbed::topology::{Node, Underlay};
use twill_testbed::wait::wait_for;
use twill_testbed::world::{NODE_A, OVERLAY_LINK, UPLINK};
use twill_tests::required;

const PATIENCE: Duration = Duration::from_secs(20);

/// Chains at many hooks, the one that ours is at among them, and a name much like ours.
const TABLES: &str = "add table inet firewall
add set inet firewall blocked { type ipv4_addr; elements = { 203.0.113.7, 203.0.113.9 }; }
add chain inet firewall forward { type filter hook forward priority 0; policy accept; }
add rule inet firewall forward ip saddr @blocked drop
add chain inet firewall last { type filter hook postrouting priority 2147483647; policy accept; }
add rule inet firewall last meta mark 0x4000 accept
add table ip twilld
add chain ip twilld permits
add rule ip twilld permits ip protocol tcp accept";

/// The settings that the agent may change.
const OURS: [&str; 2] = [
    "nf_conntrack_tcp_be_liberal",
    "nf_conntrack_tcp_ignore_invalid_rst",
];

/// Every table but ours, which are named after the instance as the node is, and the rest of what is configured, flannel's own chain aside. What
/// `iptables` of the newer kind has in the table `ip filter`, `iptables-save` tells.
fn configured(node: &Node) -> Result<Vec<String>> {
    let run = |words: &str| {
        let words: Vec<_> = words.split_whitespace().collect();
        node.namespace().run(&words)
    };
    let tables = run("nft list tables")?;
    let ours = format!("table inet twill-{}", node.namespace().name());
    let mut state: Vec<String> = tables
        .lines()
        .filter(|table| *table != "table ip filter" && !table.starts_with(&ours))
        .map(|table| run(&format!("nft list {table}")))
        .collect::<Result<_>>()?;
    for words in [
        "iptables-save -t filter",
        "ip rule",
        "ip route show table 77",
        &format!("tc qdisc show dev {UPLINK}"),
        "ip xfrm policy",
    ] {
        state.push(run(words)?);
    }
    Ok(state.iter().map(|text| of_others(text)).collect())
}

/// `iptables-save` says when it ran.
fn of_others(text: &str) -> String {
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.contains("FLANNEL-FWD"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Every network setting of the node, but counters and what belongs to our device.
fn settings(node: &Node) -> Result<BTreeMap<String, String>> {
    let all = node.namespace().run(&["sysctl", "-a", "--ignore"])?;
    let ours = format!(".{OVERLAY_LINK}.").replace("flannel.1", "flannel/1");
    let settings = all.lines().filter_map(|line| line.split_once(" = "));
    Ok(settings
        .filter(|(key, _)| key.starts_with("net."))
        .filter(|(key, _)| !key.contains(&ours) && !key.ends_with("nf_conntrack_count"))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect())
}

/// Names of the settings that differ.
fn changed(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let keys = before.keys().chain(after.keys());
    let mut changed: Vec<String> = keys
        .filter(|key| before.get(*key) != after.get(*key))
        .map(|key| key.rsplit('.').next().unwrap_or_default().to_owned())
        .collect();
    changed.sort();
    changed.dedup();
    changed
}

#[test]
fn firewalls_rules_and_settings_of_others_stay() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let underlay = Underlay::new()?;
    let server = LeaseServer::start(&underlay)?;
    let node = underlay.join("a", NODE_A)?;
    let script = node.directory().join("tables.nft");
    std::fs::write(&script, TABLES)?;
    node.namespace()
        .run(&["nft", "-f", &script.display().to_string()])?;
    node.namespace().run_lines(
        "iptables -A FORWARD -s 203.0.113.5 -j DROP
         ip rule add from 203.0.113.0/24 lookup 77 priority 700
         ip route add default via 192.0.2.254 table 77",
    )?;
    let (before, set) = (configured(&node)?, settings(&node)?);

    let mut agent = Agent::start(&node, &server.url())?;
    wait_for("BPF carries packets", PATIENCE, || {
        Ok((agent.status()?["status"]["mode"] == "bpf").then_some(()))
    })?;
    assert_eq!(configured(&node)?, before, "while the agent runs");
    let mut ours = OURS.map(str::to_owned);
    ours.sort();
    assert_eq!(
        changed(&set, &settings(&node)?),
        ours,
        "while the agent runs"
    );

    // Somebody empties our table; theirs is not what is written again.
    node.namespace()
        .run(&["nft", "delete", "table", "inet", &agent.table()])?;
    wait_for("our table is back", PATIENCE, || {
        let tables = node.namespace().run(&["nft", "list", "tables"])?;
        let table = format!("table inet {}\n", agent.table());
        Ok(tables.contains(&table).then_some(()))
    })?;
    assert_eq!(configured(&node)?, before, "after our table came back");

    agent.stop()?;
    assert_eq!(configured(&node)?, before, "after the stop");
    agent.ctl(&["teardown"])?;
    assert_eq!(configured(&node)?, before, "after the teardown");
    Ok(())
}
