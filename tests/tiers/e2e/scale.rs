//! Five thousand leases: how long until a node knows them all, what that costs in memory, and
//! how soon one more is there.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use twill_agent::store::server::ServerStore;
use twill_testbed::agent::Agent;
use twill_testbed::lease_server::LeaseServer;
use twill_testbed::route_log::RouteLog;
use twill_testbed::topology::{Node, Underlay};
use twill_testbed::wait::wait_for;
use twill_testbed::world::{NODE_A, OVERLAY_LINK};
use twill_tests::required;

use super::leases::{ask, attrs};

/// Leases of other nodes.
const PEERS: u32 = 5_000;
/// Requests under way at once.
const LANES: u32 = 64;
/// Leases that are watched one by one.
const SINGLE: u32 = 20;

/// Room for all of them.
const CONFIG: &str =
    r#"{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"vxlan","Port":8472}}"#;

/// Limits for a debug build on a busy machine; the figures are printed.
const COMPLETE: Duration = Duration::from_secs(4);
const MEMORY_KIB: u64 = 60 * 1024;
const ONE_MORE: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_mins(1);

#[expect(clippy::print_stderr, reason = "the figures are for people")]
fn report(text: &str) {
    eprintln!("scale: {text}");
}

/// Takes a lease for peer `n`; returns its subnet as `ip` writes it.
async fn acquire(store: &ServerStore, n: u32) -> Result<String> {
    let underlay = Ipv4Addr::from(Ipv4Addr::new(198, 18, 0, 1).to_bits() + n);
    let [_, _, high, low] = n.to_be_bytes();
    let attrs = attrs(underlay, [2, 0, 0x5e, 0x10, high, low])?;
    Ok(store.acquire(&attrs, None).await?.subnet.to_string())
}

/// Leases for peers `0..PEERS`.
fn fill(from: &Node, url: &str) -> Result<()> {
    ask(from.namespace(), url, async |store| {
        let mut lanes = tokio::task::JoinSet::new();
        for lane in 0..LANES {
            let store = store.clone();
            lanes.spawn(async move {
                for n in (lane..PEERS).step_by(64) {
                    acquire(&store, n).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(lane) = lanes.join_next().await {
            lane??;
        }
        Ok(())
    })
}

/// Seconds of the day at which the agent logged this message for the first time.
fn logged(log: &str, message: &str) -> Result<f64> {
    let line = log.lines().find(|line| line.contains(message));
    let line = line.with_context(|| format!("no {message:?} in {log}"))?;
    let entry: Value = serde_json::from_str(line)?;
    let time = entry["timestamp"].as_str().context("no timestamp")?;
    let clock = time.split(['T', 'Z']).nth(1).context("no time of day")?;
    clock
        .split(':')
        .try_fold(0.0, |sum, part| Ok(sum * 60.0 + part.parse::<f64>()?))
}

fn memory_kib(agent: &mut Agent, key: &str) -> Result<u64> {
    let pid = agent.daemon()?.pid()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(key));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number
        .with_context(|| format!("no {key} in {status}"))?
        .parse()?)
}

/// Lines that a command of the node prints.
fn count(node: &Node, words: &[&str]) -> Result<usize> {
    Ok(node.namespace().run(words)?.lines().count())
}

#[test]
fn an_empty_node_learns_five_thousand_peers() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let underlay = Underlay::new()?;
    let server = LeaseServer::start_with(&underlay, CONFIG)?;
    let begin = Instant::now();
    fill(server.host(), &server.url())?;
    report(&format!("{PEERS} leases acquired in {:?}", begin.elapsed()));

    let node = underlay.join("a", NODE_A)?;
    let mut agent = Agent::new(&node, &server.url(), &["--log-format", "json"]);
    agent.start_again()?;
    wait_for("all peers are known", PATIENCE, || {
        let status = agent.status()?;
        let said = &status["status"];
        let is_so = said["ready"] == true && said["mode"] == "bpf" && said["peers"] == PEERS;
        Ok(is_so.then_some(()))
    })?;
    let device = ["dev", OVERLAY_LINK];
    let peers = PEERS as usize;
    assert_eq!(
        count(&node, &[&["ip", "route", "show"], &device[..]].concat())?,
        peers
    );
    assert_eq!(
        count(
            &node,
            &[&["ip", "neigh", "show", "nud", "permanent"], &device[..]].concat()
        )?,
        peers
    );
    assert_eq!(
        count(&node, &[&["bridge", "fdb", "show"], &device[..]].concat())?,
        peers
    );
    let vteps = agent.ctl(&["vteps"])?;
    assert_eq!(vteps["vteps"].as_array().map(Vec::len), Some(peers));
    for map in ["overlay_routes", "vtep_sources"] {
        let pin = agent.pins().join("v1").join(map).display().to_string();
        let entries: Value = serde_json::from_str(
            &node
                .namespace()
                .run(&["bpftool", "-j", "map", "dump", "pinned", &pin])?,
        )?;
        assert_eq!(entries.as_array().map(Vec::len), Some(peers), "{map}");
    }

    let log = fs::read_to_string(node.directory().join("twilld.log"))?;
    let watched = logged(&log, "lease acquired")?;
    let line = format!("\"peers\":{PEERS}");
    let complete = Duration::from_secs_f64(logged(&log, &line)? - watched);
    let (now, peak) = (
        memory_kib(&mut agent, "VmRSS")?,
        memory_kib(&mut agent, "VmHWM")?,
    );
    report(&format!(
        "{PEERS} peers from the start of watching to the last entry in {complete:?}; \
         memory {now} KiB, at most {peak} KiB"
    ));
    ensure!(complete < COMPLETE, "{complete:?}");
    ensure!(peak < MEMORY_KIB, "{peak} KiB");

    let waits = one_by_one(&node, &server)?;
    let (median, longest) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    report(&format!(
        "from an acknowledged lease to its route, beside {PEERS} others: \
         median {median:?}, longest {longest:?}"
    ));
    ensure!(median < ONE_MORE, "{waits:?}");
    Ok(())
}

/// Times from a lease's acknowledgement to its route, which is the kernel's last entry, sorted.
fn one_by_one(node: &Node, server: &LeaseServer) -> Result<Vec<Duration>> {
    let routes = RouteLog::start(node.namespace())?;
    let waits = ask(
        server.host().namespace(),
        &server.url(),
        async move |store| {
            let mut waits = Vec::new();
            for n in 0..SINGLE {
                let subnet = acquire(&store, PEERS + n).await?;
                let acknowledged = Instant::now();
                let programmed = routes.wait_for(&subnet, PATIENCE)?;
                waits.push(programmed.saturating_duration_since(acknowledged));
            }
            Ok(waits)
        },
    );
    let mut waits = waits?;
    waits.sort();
    Ok(waits)
}
