//! Cutting off: something is tried again and again and dies after one step, after two, and so on
//! until it has no more steps. What comes of each attempt is what comes of all others.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use twill_testbed::agent::Agent;
use twill_testbed::netns::Namespace;
use twill_testbed::wait::wait_for;
use twill_testbed::world::OVERLAY_LINK;

use crate::rules::tables;
use crate::scene::PATIENCE;

/// More steps than anything here has.
const MANY: u32 = 200;
/// More steps than a daemon ever does.
const ALL: u32 = u32::MAX;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// It died after the last step that it was allowed.
    CutOff,
    /// It has no more steps than that.
    Whole,
}

/// Has `attempt` tried as a whole, and then with one more step each time until it comes to its own
/// end, which takes more than `least` steps. It gives what came of it once what had to be made good
/// was, and that is the same every time.
pub(crate) fn after_every_step(
    what: &str,
    least: u32,
    mut attempt: impl FnMut(u32) -> Result<(End, Value)>,
) -> Result<()> {
    // First: what an attempt that was cut off leaves for good would be taken for right.
    let (end, expected) = attempt(ALL).with_context(|| format!("{what}, as a whole"))?;
    ensure!(end == End::Whole, "{what} has no end");
    for steps in 1..MANY {
        let tried = attempt(steps);
        let (end, now) = tried.with_context(|| format!("{what}, cut off after step {steps}"))?;
        ensure!(
            now == expected,
            "{what}, cut off after step {steps}: {now:#}, not {expected:#}"
        );
        if end == End::Whole {
            let done = steps - 1;
            ensure!(done > least, "{what} has only {done} steps");
            return Ok(());
        }
    }
    bail!("{what} has no end")
}

/// Starts the agent so that it dies after this many steps, or gets ready because it has fewer;
/// one that died is started again. Gives what that made of the node.
pub(crate) fn start(agent: &mut Agent, node: &Namespace, steps: u32) -> Result<(End, Value)> {
    let end = start_cut_off(agent, steps)?;
    if end == End::CutOff {
        agent.start_again()?;
        agent.wait_ready()?;
    }
    Ok((end, state(agent, node)?))
}

fn start_cut_off(agent: &mut Agent, steps: u32) -> Result<End> {
    agent.set_crash_after(Some(steps));
    agent.start_again()?;
    let pid = i64::from(agent.daemon()?.pid()?.as_raw());
    let end = wait_for("the agent is ready or dead", PATIENCE, || {
        if agent.daemon()?.ended()?.is_some() {
            return Ok(Some(End::CutOff));
        }
        let status = agent.status()?;
        let ready = status["status"]["pid"] == pid && status["status"]["ready"] == true;
        Ok(ready.then_some(End::Whole))
    })?;
    agent.set_crash_after(None);
    Ok(end)
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
        "rules": tables(node)?,
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
