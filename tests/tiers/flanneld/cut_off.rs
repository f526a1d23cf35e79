//! Running nodes that cannot reach etcd while it changes.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use twill_testbed::topology::Node;
use twill_testbed::traffic::{EchoServer, Load};
use twill_testbed::wait::wait_for;
use twill_testbed::world::{NODE_A, NODE_B, VTEP_MAC_C};
use twill_tests::required;

use super::lab::{Lab, PATIENCE, USUAL};
use super::member::Member;
use super::nodes::written;

/// What becomes of etcd meanwhile.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Meanwhile {
    /// It goes on, and forgets its history.
    Compacted,
    /// Another cluster without any data is in its place.
    Replaced,
}

/// Drops what the node and etcd say to each other.
fn cut(lab: &Lab, node: &Node) -> Result<()> {
    let etcd = lab.etcd.host(0).address();
    let script = format!(
        "table inet cut {{
            chain out {{ type filter hook output priority 0; ip daddr {etcd} drop; }}
            chain in {{ type filter hook input priority 0; ip saddr {etcd} drop; }}
        }}"
    );
    let path = node.directory().join("cut.nft");
    std::fs::write(&path, script)?;
    let path = path.display().to_string();
    node.namespace().run(&["nft", "-f", &path]).map(drop)
}

fn join(node: &Node) -> Result<()> {
    let delete = ["nft", "delete", "table", "inet", "cut"];
    node.namespace().run(&delete).map(drop)
}

/// Waits until the agent says that etcd is away, or that it is not.
fn wait_store(member: &mut Member, connected: bool) -> Result<()> {
    let what = format!("etcd is reached: {connected}");
    let agent = member.agent()?;
    wait_for(&what, 2 * PATIENCE, || {
        let told = agent.status()?;
        let state = &told["status"]["store"]["state"];
        Ok(((state == "connected") == connected).then_some(()))
    })
}

fn check(meanwhile: Meanwhile) -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut lab = Lab::new(1, USUAL)?;
    let mut a = Member::of_twill(&lab, "a", NODE_A)?;
    let mut b = Member::of_twill(&lab, "b", NODE_B)?;
    a.wait_route(&b, true)?;
    b.wait_route(&a, true)?;
    let (tables, env) = (a.tables()?, std::fs::read(a.agent()?.subnet_file())?);
    let (key_a, key_b) = (a.key()?, b.key()?);
    let keys = lab.etcd.leases()?;
    let _echo = EchoServer::start(b.pod()?.namespace())?;
    let load = Load::start(a.pod()?.namespace(), b.pod()?.address())?;

    for node in [&a.node, &b.node] {
        cut(&lab, node)?;
    }
    wait_store(&mut a, false)?;
    wait_store(&mut b, false)?;
    if meanwhile == Meanwhile::Replaced {
        ensure!(lab.etcd.start_anew("another")?, "the same cluster");
        // As the first etcd was filled: the other's key has the revision that ours had there.
        lab.etcd.configure(USUAL)?;
    }
    let other = written(Ipv4Addr::new(192, 0, 2, 99), VTEP_MAC_C);
    lab.put(&key_a, &other)?;
    if meanwhile == Meanwhile::Compacted {
        lab.etcd.compact()?;
    }
    assert_eq!(a.tables()?, tables, "while etcd is away");
    assert_eq!(std::fs::read(a.agent()?.subnet_file())?, env);

    load.report().check()?;

    // The one that still has its lease, or can take it again, goes on.
    join(&b.node)?;
    wait_store(&mut b, true)?;
    let value_b = keys.iter().find(|(key, _)| *key == key_b);
    wait_for("the other has its lease", PATIENCE, || {
        let found = lab.get(&key_b)?.map(|(value, _)| value);
        Ok((found.as_ref() == value_b.map(|(_, value)| value)).then_some(()))
    })?;
    assert_eq!(a.tables()?, tables, "while the other is back");

    join(&a.node)?;
    let agent = a.agent()?;
    let ended = wait_for("the agent ends", 2 * PATIENCE, || agent.daemon()?.ended())?;
    ensure!(ended.code() == Some(1), "{ended}");
    let log = agent.log_tail();
    for words in [
        "Lease has been revoked. Shutting down daemon.",
        "192.0.2.99",
    ] {
        ensure!(log.contains(words), "no {words} in {log}");
    }
    assert_eq!(lab.get(&key_a)?.map(|(value, _)| value), Some(other));
    ensure!(b.agent()?.daemon()?.ended()?.is_none(), "the other ended");
    // Whoever moves the pods finds them reachable as long as the other node lets them.
    assert_eq!(a.tables()?[0], tables[0], "routes, after the end");
    Ok(())
}

#[test]
fn a_lease_that_was_given_away_meanwhile_is_not_fought_for() -> Result<()> {
    check(Meanwhile::Compacted)
}

#[test]
fn a_lease_that_another_has_in_an_etcd_that_was_replaced_is_not_fought_for() -> Result<()> {
    check(Meanwhile::Replaced)
}
