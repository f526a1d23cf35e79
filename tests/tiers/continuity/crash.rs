//! Crashes at every step of a start: what comes after the next start is what would have come
//! without them.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use twill_testbed::agent::{Agent, Build};
use twill_testbed::netns::Namespace;
use twill_testbed::wait::wait_for;
use twill_testbed::world::OVERLAY_LINK;
use twill_tests::required;

use crate::scene::{PATIENCE, Scene};

/// More steps than anything here has.
pub(crate) const MANY: u32 = 200;

/// Starts the agent so that it dies after this many steps, or gets ready because it has fewer.
pub(crate) fn cut_off(agent: &mut Agent, steps: u32) -> Result<bool> {
    agent.set_crash_after(Some(steps));
    agent.start_again()?;
    let pid = i64::from(agent.daemon()?.pid()?.as_raw());
    let died = wait_for("the agent is ready or dead", PATIENCE, || {
        if agent.daemon()?.ended()?.is_some() {
            return Ok(Some(true));
        }
        let status = agent.status()?;
        let ready = status["status"]["pid"] == pid && status["status"]["ready"] == true;
        Ok(ready.then_some(false))
    })?;
    agent.set_crash_after(None);
    Ok(died)
}

/// What the start has made of the node, but for numbers that every start gives anew.
pub(crate) fn state(agent: &Agent, node: &Namespace) -> Result<Value> {
    let show = |words: &str| node.run(&words.split(' ').collect::<Vec<_>>());
    let link = node.link_json(OVERLAY_LINK)?;
    let vteps = agent.ctl(&["vteps"])?;
    let vteps: Vec<Value> = vteps["vteps"]
        .as_array()
        .context("no VTEPs")?
        .iter()
        .map(|vtep| json!([vtep["underlay"], vtep["mac"], vtep["subnets"]]))
        .collect();
    let status = agent.status()?;
    let attached = status["status"]["attached"].as_array();
    let mut attached: Vec<Value> = attached
        .context("nothing attached")?
        .iter()
        .map(|one| {
            let others = &one["others"];
            json!([one["program"], one["interface"], one["by"], others])
        })
        .collect();
    attached.sort_by_key(ToString::to_string);
    Ok(json!({
        "device": [link["ifalias"], link["mtu"], link["flags"], link["linkinfo"]["info_data"]],
        "addresses": show(&format!("ip -br -4 addr show {OVERLAY_LINK}"))?.split_whitespace().skip(2).collect::<Vec<_>>(),
        "routes": show(&format!("ip route show dev {OVERLAY_LINK}"))?,
        "neighbours": show(&format!("ip neigh show dev {OVERLAY_LINK}"))?,
        "fdb": show(&format!("bridge fdb show dev {OVERLAY_LINK}"))?,
        "rules": show("nft --stateless list ruleset")?,
        "vteps": vteps,
        "attached": attached,
        "pins": pins(&agent.pins())?,
        "subnet.env": fs::read_to_string(agent.subnet_file())?,
        "failing": status["status"]["failing"],
    }))
}

/// Names of all pins and folders, without the interface indices in them.
fn pins(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.display().to_string();
        names.push(
            name.trim_end_matches(|c: char| c.is_ascii_digit())
                .to_owned(),
        );
        if path.is_dir() {
            names.extend(pins(&path)?);
        }
    }
    names.sort();
    Ok(names)
}

#[test]
fn a_first_start_that_is_cut_off_anywhere_ends_as_one_that_is_not() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut scene = Scene::new(&[])?;
    let member = scene.node();
    // A node without pods: they would go with the device that they are reached by.
    member.pods.clear();
    let node = member.node.namespace().clone();
    let agent = &mut member.agent;
    agent.stop()?;
    let fresh = |agent: &Agent| agent.ctl(&["teardown"]).map(drop);
    fresh(agent)?;
    agent.set_build(Build::Next);
    agent.start_again()?;
    agent.wait_ready()?;
    let expected = state(agent, &node)?;
    agent.stop()?;
    for steps in 1..MANY {
        fresh(agent)?;
        if !cut_off(agent, steps)? {
            ensure!(steps > 15, "a start has only {steps} steps");
            return Ok(());
        }
        agent.start_again()?;
        agent.wait_ready()?;
        let now = state(agent, &node)?;
        ensure!(
            now == expected,
            "cut off after {steps} steps: {now:#}, not {expected:#}\n{}",
            agent.log_tail()
        );
        agent.stop()?;
    }
    Err(anyhow::Error::msg("a start has no end"))
}

#[test]
fn nobody_notices_an_upgrade_that_is_cut_off_anywhere() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut scene = Scene::new(&[])?;
    let node = scene.node().node.namespace().clone();
    scene.unnoticed(
        "upgrade to another ABI version, cut off after each step",
        |cluster| {
            let agent = &mut cluster.members[0].agent;
            let mut expected = None;
            agent.stop()?;
            for steps in 1..MANY {
                agent.set_build(Build::Next);
                let died = cut_off(agent, steps)?;
                if died {
                    agent.start_again()?;
                    agent.wait_ready()?;
                }
                let now = state(agent, &node)?;
                let expected = expected.get_or_insert_with(|| now.clone());
                ensure!(
                    now == *expected,
                    "cut off after {steps} steps: {now:#}, not {expected:#}\n{}",
                    agent.log_tail()
                );
                if !died {
                    ensure!(steps > 15, "an upgrade has only {steps} steps");
                    return Ok(());
                }
                agent.stop()?;
                agent.set_build(Build::Usual);
                agent.start_again()?;
                agent.wait_ready()?;
                agent.stop()?;
            }
            Err(anyhow::Error::msg("an upgrade has no end"))
        },
    )
}
