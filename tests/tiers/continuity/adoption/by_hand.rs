//! Nodes of flannel's taken over and handed back, where every word of the state can be compared.

use anyhow::{Result, ensure};
use twill_testbed::world::{OVERLAY_LINK, UPLINK};
use twill_tests::required;

use super::flannel::{Flannel, state};
use crate::beside::{Stock, add_clsact};
use crate::scene::{BY_FILTERS, Scene};

/// How many datagrams more than by `tc` alone may be lost to new qdiscs: it takes a moment on each
/// of six devices, longer on a busy machine.
const BEYOND: u64 = 90;

#[test]
fn nobody_notices_that_twill_takes_over_from_flannel_or_hands_back() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut flannel = Flannel::new(&[])?;
    flannel.unnoticed("flannel's nodes adopted", Flannel::take_over)?;
    // Device, addresses, routes, neighbours and FDB are flannel's, untouched.
    flannel.ensure_as_before(0..5)?;
    flannel.unnoticed("handover back to flannel", Flannel::hand_back)?;
    flannel.ensure_as_before(0..7)
}

/// The first time costs what `tc` alone costs that adds the same qdiscs at the same moment; what
/// comes after it costs nothing.
#[test]
fn taking_over_from_flannel_without_tcx_costs_its_qdiscs_once() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut flannel = Flannel::new(BY_FILTERS)?;
    let stock = Stock::new()?;
    let event = "flannel's nodes adopted, by tc filters: their clsact qdiscs";
    let both = stock.beside(event, |pair| {
        flannel.measure(event, |flannel| {
            for node in &pair.nodes {
                add_clsact(node.namespace(), &[UPLINK, OVERLAY_LINK])?;
            }
            flannel.take_over()
        })
    })?;
    both.no_worse(BEYOND)?;
    flannel.ensure_as_before(0..5)?;
    flannel.unnoticed(
        "handover back to flannel, by tc filters",
        Flannel::hand_back,
    )?;
    // The qdiscs stay: they may carry somebody else's filters by now.
    flannel.ensure_as_before(0..6)?;
    flannel.ensure_no_filters()?;
    flannel.unnoticed(
        "flannel's nodes adopted again, by tc filters",
        Flannel::take_over,
    )
}

#[test]
fn what_twill_made_is_left_to_flannel_and_taken_back() -> Result<()> {
    if !required() {
        return Ok(());
    }
    left_and_taken_back(&[], "")
}

#[test]
fn what_twill_made_is_left_to_flannel_and_taken_back_without_tcx() -> Result<()> {
    if !required() {
        return Ok(());
    }
    left_and_taken_back(BY_FILTERS, ", by tc filters")
}

fn left_and_taken_back(flags: &[&str], how: &str) -> Result<()> {
    let mut scene = Scene::new(flags)?;
    let node = scene.node().node.namespace().clone();
    let event = format!("handover of Twill's own device, and back{how}");
    scene.unnoticed(&event, |cluster| {
        let link = node.link_json(OVERLAY_LINK)?;
        ensure!(link["ifalias"].is_string(), "no mark on {link}");
        let before = state(&node)?;
        let agent = &mut cluster.members[0].agent;
        ensure!(agent.ctl(&["handover"]).is_err(), "while twilld runs");
        agent.stop()?;
        agent.ctl(&["handover"])?;
        let left = node.link_json(OVERLAY_LINK)?;
        ensure!(left["ifalias"].is_null(), "the mark stays on {left}");
        ensure!(left["ifindex"] == link["ifindex"], "another device");
        ensure!(state(&node)?[1..5] == before[1..5], "entries were removed");
        agent.start_again()?;
        agent.wait_ready().map(drop)
    })?;
    // It is nobody's now: whoever takes Twill away leaves it.
    let agent = &mut scene.node().agent;
    agent.stop()?;
    agent.ctl(&["teardown"])?;
    node.link_json(OVERLAY_LINK).map(drop)
}
