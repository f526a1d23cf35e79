//! From one ABI version to the next and back, by a build that differs in nothing else.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use twill_abi::ABI_VERSION;
use twill_testbed::agent::{Agent, Build};
use twill_tests::required;

use crate::scene::Scene;

/// Starts the other build in the place of the one that runs.
fn change(agent: &mut Agent, build: Build) -> Result<()> {
    agent.stop()?;
    agent.set_build(build);
    agent.start_again()?;
    agent.wait_ready()?;
    let status = agent.status()?;
    let version = match build {
        Build::Usual => ABI_VERSION,
        Build::Next => ABI_VERSION + 1,
    };
    ensure!(status["status"]["abi_version"] == version, "{status}");
    // Only its own pins are left, and the programs are its own.
    let mut folders = fs::read_dir(agent.pins())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    folders.sort();
    ensure!(folders == [format!("v{version}")], "{folders:?}");
    let attached = status["pins"]["attached"].as_array();
    ensure!(attached.map(Vec::len) == Some(6), "{status}");
    // The agent says so when it had to put back what itself, or another, took away.
    let log = agent.log_tail();
    ensure!(!log.contains("somebody detached"), "{log}");
    Ok(())
}

/// Datagrams that an exchange of tc filters was seen to lose, with room: unlike an update of links
/// it is not free of loss, and TCP makes good what it loses.
const LOST_BY_FILTERS: u64 = 50;

fn up_and_down(flags: &[&str], by: &str, may_lose: u64) -> Result<()> {
    let mut scene = Scene::new(flags)?;
    // What the operator said holds across versions.
    let agent = &scene.node().agent;
    agent.ctl_text(&["mode", "bpf"])?;
    for (event, build) in [
        ("upgrade to another ABI version", Build::Next),
        ("downgrade from another ABI version", Build::Usual),
    ] {
        let report = scene.measure(&format!("{event}, {by}"), |cluster| {
            for member in &mut cluster.members {
                change(&mut member.agent, build)?;
            }
            let mode = cluster.members[0].agent.ctl(&["mode"])?;
            let operator = mode["mode"]["operator"].as_str();
            let operator = operator.context("no operator's word")?;
            ensure!(operator == "bpf", "{mode}");
            Ok(())
        })?;
        let datagrams = &report.datagrams;
        ensure!(report.broken_flows() == 0, "broken flows: {report:?}");
        ensure!(datagrams.changed == 0, "changed: {report:?}");
        ensure!(datagrams.lost <= may_lose, "lost datagrams: {report:?}");
    }
    Ok(())
}

#[test]
fn nobody_notices_another_abi_version() -> Result<()> {
    if !required() {
        return Ok(());
    }
    up_and_down(&[], "by TCX links", 0)
}

#[test]
fn no_flow_breaks_over_another_abi_version_without_tcx() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let flags = ["--attach-by", "netlink"];
    up_and_down(&flags, "by tc filters", LOST_BY_FILTERS)
}
