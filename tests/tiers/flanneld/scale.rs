//! Many leases: how long until a node knows them all, what that costs in memory, and how soon
//! one more is there.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use etcd_client::{Client, Txn, TxnOp};
use twill_testbed::agent::Agent;
use twill_testbed::etcd::PREFIX;
use twill_testbed::wait::wait_for;
use twill_testbed::world::{NODE_A, OVERLAY_LINK};
use twill_tests::required;

use super::lab::{Lab, added, listed, value};
use super::watch::follow;

/// Room for all of them.
const CONFIG: &str = r#"{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"vxlan"}}"#;
/// The same, and each change of a lease asks for the way to all peers.
const DIRECT: &str = r#"{"Network":"10.0.0.0/8","SubnetLen":24,
    "Backend":{"Type":"vxlan","DirectRouting":true}}"#;
/// Keys that etcd takes in one transaction, by default 128.
const BATCH: u32 = 100;
/// Leases of the store's own measurement.
const PEERS: u32 = 50_000;
/// Changes that are timed one by one.
const CHANGES: u32 = 10;

#[expect(clippy::print_stderr, reason = "the figures are for people")]
fn report(text: &str) {
    eprintln!("scale: {text}");
}

fn key(n: u32) -> String {
    let [_, _, high, low] = n.to_be_bytes();
    format!("{PREFIX}/subnets/10.{high}.{low}.0-24")
}

/// Writes the leases of nodes `from..to`, as flanneld would.
fn fill(lab: &Lab, from: u32, to: u32) -> Result<()> {
    lab.run(async || {
        let mut client = Client::connect([lab.etcd.endpoint(0)], None).await?;
        for first in (from..to).step_by(BATCH as usize) {
            let batch = first..to.min(first + BATCH);
            let puts: Vec<TxnOp> = batch.map(|n| TxnOp::put(key(n), value(n), None)).collect();
            client.txn(Txn::new().and_then(puts)).await?;
        }
        Ok(())
    })
}

fn memory_kib(agent: &mut Agent, key: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.daemon()?.pid()?))?;
    let line = status.lines().find(|line| line.starts_with(key));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.context("no memory")?.parse()?)
}

/// A node among so many, with limits for a debug build on a busy machine.
fn among(
    config: &str,
    peers: u32,
    complete: Duration,
    memory: u64,
    one_more: Duration,
) -> Result<()> {
    let lab = Lab::new(1, config)?;
    // The first subnet of a network is never leased; the last ones are for the changes.
    fill(&lab, 1, 1 + peers)?;
    let node = lab.underlay.join("a", NODE_A)?;
    let room = ["--max-vteps", "65536", "--max-routes", "65536"];
    let mut agent = Agent::on_etcd(&node, &lab.etcd.endpoints(), &room);
    let begin = Instant::now();
    agent.start_again()?;
    wait_for("all peers are known", complete * 2, || {
        let told = agent.status()?;
        let status = &told["status"];
        Ok((status["ready"] == true && status["peers"] == peers).then_some(()))
    })
    .with_context(|| agent.log_tail())?;
    let took = begin.elapsed();
    let peak = memory_kib(&mut agent, "VmHWM")?;
    let routes = ["ip", "route", "show", "dev", OVERLAY_LINK];
    let routes = node.namespace().run(&routes)?.lines().count();
    ensure!(routes == peers as usize, "{routes} routes");

    let mut waits = Vec::new();
    for n in 0..CHANGES {
        let n = 60_000 + n;
        fill(&lab, n, n + 1)?;
        let [_, _, high, low] = n.to_be_bytes();
        let subnet = format!("10.{high}.{low}.0/24");
        let route = ["ip", "route", "show", subnet.as_str()];
        let begin = Instant::now();
        wait_for("the new peer has a route", Duration::from_secs(30), || {
            let route = node.namespace().run(&route)?;
            Ok((!route.is_empty()).then_some(()))
        })?;
        waits.push(begin.elapsed());
    }
    waits.sort_unstable();
    let median = waits[waits.len() / 2];
    report(&format!(
        "{peers} peers from the start of the process to the last entry in {took:?}; memory at \
         most {peak} KiB; one more, after its write, in {median:?} (median of {CHANGES}, longest {:?})",
        waits[waits.len() - 1]
    ));
    ensure!(took < complete, "{took:?}");
    ensure!(peak < memory, "{peak} KiB");
    ensure!(median < one_more, "{waits:?}");
    Ok(())
}

#[test]
fn a_node_among_five_thousand() -> Result<()> {
    if !required() {
        return Ok(());
    }
    among(
        CONFIG,
        5_000,
        Duration::from_mins(1),
        80 * 1024,
        Duration::from_secs(1),
    )
}

#[test]
fn a_node_among_five_thousand_with_direct_routing() -> Result<()> {
    if !required() {
        return Ok(());
    }
    among(
        DIRECT,
        5_000,
        Duration::from_mins(1),
        80 * 1024,
        Duration::from_secs(5),
    )
}

/// The store alone: what the kernel takes for so many routes is not etcd's matter.
#[test]
fn the_store_with_fifty_thousand() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(1, CONFIG)?;
    fill(&lab, 1, 1 + PEERS)?;
    lab.run(async || {
        let begin = Instant::now();
        let (mut events, stop) = follow(lab.store()?);
        let listed = listed(&mut events).await?.len();
        let took = begin.elapsed();
        ensure!(listed == PEERS as usize, "{listed} leases");
        let mut waits = Vec::new();
        for n in 0..CHANGES {
            fill(&lab, 60_000 + n, 60_001 + n)?;
            let begin = Instant::now();
            added(&mut events).await?;
            waits.push(begin.elapsed());
        }
        waits.sort_unstable();
        let median = waits[waits.len() / 2];
        report(&format!(
            "{PEERS} leases listed in {took:?}; one more, after its write, in {median:?}"
        ));
        stop.cancel();
        ensure!(took < Duration::from_mins(1), "{took:?}");
        ensure!(median < Duration::from_secs(1), "{waits:?}");
        Ok(())
    })
}
