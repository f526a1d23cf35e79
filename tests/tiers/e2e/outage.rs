//! A lease server that is gone, comes back, comes back empty, or is not one any more: peers
//! stay, and traffic goes on.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use twill_testbed::cluster::Cluster;
use twill_testbed::traffic::{EchoServer, Load};
use twill_testbed::wait::{pass, wait_until};
use twill_testbed::world::{NODE_A, NODE_B, NODE_C};
use twill_tests::required;

use super::impostor::{Impostor, answer};

const PATIENCE: Duration = Duration::from_secs(30);

/// Answers of no lease server, or of none that may remove a peer.
const RUBBISH: [Option<(&str, &str)>; 6] = [
    Some(("200 OK", "<!DOCTYPE html><h1>It works!</h1>")),
    Some(("200 OK", r#"{"store":"another","revision":99,"leases":[]}"#)),
    Some(("200 OK", r#"{"store":"another","revision":99,"leases":[{"#)),
    Some(("500 Internal Server Error", "")),
    Some(("200 OK", "{}")),
    // Silence.
    None,
];

fn pair() -> Result<Cluster> {
    Cluster::of(&[("a", NODE_A), ("b", NODE_B)])
}

/// Every node has its peers' routes, and its agent runs.
fn ensure_whole(cluster: &mut Cluster) -> Result<()> {
    let peers = cluster.members.len() - 1;
    for member in &mut cluster.members {
        let routes = member.overlay_routes()?;
        ensure!(routes.len() == peers, "routes: {routes:?}");
        let vteps = member.agent.ctl(&["vteps"])?;
        let known = vteps["vteps"].as_array().context("no VTEPs")?.len();
        ensure!(known == peers, "{vteps}");
        let log = member.agent.log_tail();
        ensure!(!log.contains("panicked"), "{log}");
        ensure!(
            member.agent.daemon()?.ended()?.is_none(),
            "the daemon ended: {log}"
        );
    }
    Ok(())
}

/// Does the work under traffic of every kind between the first two nodes, none of which may
/// be disturbed.
fn undisturbed(cluster: &mut Cluster, work: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    let (a, b) = (&cluster.members[0].pods[0], &cluster.members[1].pods[0]);
    let _echo = EchoServer::start(b.namespace())?;
    let load = Load::start(a.namespace(), b.address())?;
    work(cluster)?;
    load.report().check()
}

/// A further node finds its way in, and everybody to it.
fn ensure_heals(cluster: &mut Cluster) -> Result<()> {
    cluster.add_node("c", NODE_C)?;
    cluster.wait_mesh()?;
    ensure_whole(cluster)
}

#[test]
fn peers_outlive_their_lease_server() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = pair()?;
    undisturbed(&mut cluster, |cluster| {
        // Killed and started again on its data.
        cluster.lease_server.kill()?;
        pass(Duration::from_secs(1))?;
        ensure_whole(cluster)?;
        cluster.lease_server.start_again()?;
        pass(Duration::from_secs(1))?;
        ensure_whole(cluster)?;

        // Gone, and an agent starts meanwhile.
        cluster.lease_server.stop()?;
        cluster.members[0].agent.kill()?;
        cluster.members[0].agent.start_again()?;
        pass(Duration::from_secs(2))?;
        ensure_whole(cluster)?;

        // Back with an empty store. Who has run all the time registers first: an agent that
        // starts has nothing but the store's word, and would take a peer for gone that is late.
        fs::remove_dir_all(cluster.lease_server.host().directory().join("data"))?;
        let starting = cluster.members[0].agent.daemon()?.pid()?;
        kill(starting, Signal::SIGSTOP)?;
        cluster.lease_server.start_again()?;
        let other = &cluster.members[1].agent;
        wait_until("the other is registered again", PATIENCE, || {
            other.log_tail().contains("lease was gone; taken again")
        })?;
        kill(starting, Signal::SIGCONT)?;
        let env = cluster.members[0].agent.wait_ready()?;
        let before = cluster.members[0].env.subnet;
        assert_eq!(env.subnet, before, "the same subnet as before");
        ensure_whole(cluster)?;
        ensure_heals(cluster)
    })
}

#[test]
fn peers_outlive_whatever_answers_in_its_place() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = pair()?;
    undisturbed(&mut cluster, |cluster| {
        cluster.lease_server.kill()?;
        let answered: Arc<Mutex<BTreeMap<Ipv4Addr, usize>>> = Arc::default();
        let counts = Arc::clone(&answered);
        let host = cluster.lease_server.host().namespace();
        let impostor = Impostor::start(host, move |asked| {
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(asked.from).or_default();
            *count += 1;
            let (status, body) = RUBBISH[(*count - 1) % RUBBISH.len()]?;
            Some(answer(status, body))
        })?;
        wait_until("both agents have heard all the rubbish", PATIENCE, || {
            let counts = answered.lock().unwrap_or_else(PoisonError::into_inner);
            [NODE_A, NODE_B]
                .iter()
                .all(|node| counts.get(node) >= Some(&RUBBISH.len()))
        })?;
        ensure_whole(cluster)?;
        drop(impostor);
        cluster.lease_server.start_again()?;
        ensure_heals(cluster)
    })
}
