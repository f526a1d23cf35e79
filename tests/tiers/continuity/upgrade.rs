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
    ensure!(attached.map(Vec::len) == Some(5), "{status}");
    Ok(())
}

fn up_and_down(flags: &[&str], by: &str) -> Result<()> {
    let mut scene = Scene::new(flags)?;
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
            let operator = mode["mode"]["operator"]
                .as_str()
                .context("no operator's word")?;
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
    up_and_down(&[], "by TCX links")
}

#[test]
fn nobody_notices_another_abi_version_without_tcx() -> Result<()> {
    if !required() {
        return Ok(());
    }
    up_and_down(&["--attach-by", "netlink"], "by tc filters")
}
