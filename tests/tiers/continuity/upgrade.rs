//! From one ABI version to the next and back, by a build that differs in nothing else.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use twill_abi::ABI_VERSION;
use twill_testbed::agent::{Agent, Build};
use twill_testbed::wait::wait_for;
use twill_tests::required;

use crate::beside::{Stock, add_clsact};
use crate::scene::{BY_FILTERS, PATIENCE, PROGRAMS, Scene, wait_fast};

/// Starts the other build in the place of the one that runs.
fn change(agent: &mut Agent, build: Build) -> Result<()> {
    agent.stop()?;
    agent.set_build(build);
    agent.start_again()?;
    finished(agent, build)
}

/// Waits until the build that was started has taken the other's place, and nothing is left of that.
fn finished(agent: &mut Agent, build: Build) -> Result<()> {
    agent.wait_ready()?;
    let status = agent.status()?;
    let version = version(build);
    ensure!(status["status"]["abi_version"] == version, "{status}");
    // Only its own pins are left, and the programs are its own.
    let mut folders = fs::read_dir(agent.pins())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    folders.sort();
    ensure!(folders == [format!("v{version}")], "{folders:?}");
    let attached = status["pins"]["attached"].as_array();
    ensure!(attached.map(Vec::len) == Some(PROGRAMS), "{status}");
    // The programs came when the maps were filled: none has met a peer that they lack.
    let counters = agent.counters()?;
    for program in ["from_pod", "to_overlay"] {
        for reason in ["mode_kernel", "no_overlay_route", "no_vtep"] {
            let met = counters.packets(program, reason)?;
            ensure!(met == 0, "{program} counts {met} packets as {reason}");
        }
    }
    // The agent says so when it had to put back what itself, or another, took away.
    let log = agent.log_tail();
    ensure!(!log.contains("somebody detached"), "{log}");
    Ok(())
}

fn version(build: Build) -> u32 {
    match build {
        Build::Usual => ABI_VERSION,
        Build::Next => ABI_VERSION + 1,
    }
}

/// How many datagrams more than by `tc` alone may be lost to new qdiscs: it takes a moment on each
/// of two veths, longer on a busy machine.
const BEYOND: u64 = 30;

/// To the next ABI version and back.
pub(crate) fn up_and_down(scene: &mut Scene, by: &str) -> Result<()> {
    // What the operator said holds across versions.
    let agent = &scene.node().agent;
    agent.ctl_text(&["mode", "bpf"])?;
    for (event, build) in [
        ("upgrade to another ABI version", Build::Next),
        ("downgrade from another ABI version", Build::Usual),
    ] {
        scene.unnoticed(&format!("{event}, {by}"), |cluster| {
            for member in &mut cluster.members {
                change(&mut member.agent, build)?;
            }
            let mode = cluster.members[0].agent.ctl(&["mode"])?;
            let operator = mode["mode"]["operator"].as_str();
            let operator = operator.context("no operator's word")?;
            ensure!(operator == "bpf", "{mode}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn nobody_notices_another_abi_version() -> Result<()> {
    if !required() {
        return Ok(());
    }
    up_and_down(&mut Scene::new(&[])?, "by TCX links")
}

#[test]
fn nobody_notices_another_abi_version_without_tcx() -> Result<()> {
    if !required() {
        return Ok(());
    }
    up_and_down(&mut Scene::new(BY_FILTERS)?, "by tc filters")
}

#[test]
fn without_its_store_an_upgrade_leaves_the_old_programs_at_work() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut scene = Scene::new(&[])?;
    let event = "upgrade to another ABI version without the store, then the store";
    scene.unnoticed(event, |cluster| {
        cluster.lease_server.kill()?;
        let agent = &mut cluster.members[0].agent;
        agent.stop()?;
        agent.set_build(Build::Next);
        agent.start_again()?;
        wait_for("the new version waits for the store", PATIENCE, || {
            let status = agent.status()?["status"].take();
            let new = status["abi_version"] == version(Build::Next);
            let why = status["reason"].as_str();
            let waits = why.is_some_and(|why| why.contains("earlier start go on"));
            ensure!(new && waits, "{status}");
            Ok(Some(()))
        })?;
        // Only the old `twillctl` knows the old maps.
        agent.set_build(Build::Usual);
        wait_fast(agent, "by the old programs")?;
        agent.set_build(Build::Next);
        cluster.lease_server.start_again()?;
        finished(agent, Build::Next)
    })
}

/// Filters take a clsact qdisc, and when a device gets one the kernel takes it out of use for a
/// moment (`dev_deactivate()` in `qdisc_graft()`, `net/sched/sch_api.c`, v6.12).
#[test]
fn a_first_filter_costs_what_its_qdisc_costs() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut scene = Scene::unsettled(BY_FILTERS)?;
    let stock = Stock::new()?;
    let event = "first filters on pods' veths in use: their clsact qdiscs";
    let both = scene.measure_beside(&stock, event, |_, pair| {
        (pair.nodes.iter()).try_for_each(|node| add_clsact(node.namespace(), &[]))
    })?;
    both.no_worse(BEYOND)
}
