//! Adoption and handover that are cut off: after every step of them, what comes after the next
//! attempt is what would have come without.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use twill_testbed::agent::{Agent, Build};
use twill_testbed::netns::Namespace;
use twill_tests::required;

use super::flannel::{Flannel, state};
use crate::cut_off::{self, End, after_every_step};
use crate::scene::{BY_FILTERS, PROGRAMS, wait_attached, wait_fast};

/// Back to flannel, in one go.
fn hand_over(agent: &mut Agent) -> Result<()> {
    agent.stop()?;
    agent.ctl_text(&["handover"]).map(drop)
}

/// Hands the node over, in a `twillctl` that dies after this many steps.
fn hand_over_cut_off(agent: &mut Agent, steps: u32) -> Result<End> {
    agent.stop()?;
    let died = agent.ctl_cut_off(&["handover"], steps)?;
    Ok(if died { End::CutOff } else { End::Whole })
}

#[test]
fn nobody_notices_an_adoption_that_is_cut_off_anywhere() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut flannel = Flannel::new(&[])?;
    let node = flannel.pair.nodes[0].namespace().clone();
    flannel.agents[1].start_again()?;
    flannel.agents[1].wait_ready()?;
    flannel.agents[0].set_build(Build::Next);
    flannel.unnoticed(
        "flannel's node adopted, cut off after each step",
        |flannel| {
            let agent = &mut flannel.agents[0];
            after_every_step("an adoption", 9, |steps| {
                let adopted = cut_off::start(agent, &node, steps)?;
                hand_over(agent)?;
                Ok(adopted)
            })
        },
    )?;
    hand_over(&mut flannel.agents[1])?;
    flannel.ensure_as_before(0..7)
}

/// Steps of a handover: every program's, the table's, the pins' and the status file's.
#[expect(clippy::cast_possible_truncation, reason = "five programs")]
const STEPS: u32 = PROGRAMS as u32 + 3;

#[test]
fn nobody_notices_a_handover_that_is_cut_off_anywhere() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let flannel = handed_over(&[], "handover cut off after each step")?;
    flannel.ensure_as_before(0..7)
}

#[test]
fn nobody_notices_a_handover_that_is_cut_off_anywhere_without_tcx() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let event = "handover cut off after each step, by tc filters";
    let flannel = handed_over(BY_FILTERS, event)?;
    // Their qdiscs stay: they may carry somebody else's filters by now.
    flannel.ensure_as_before(0..6)?;
    flannel.ensure_no_filters()
}

/// Hands one of two nodes over, as often as that has steps, and at last both.
fn handed_over(flags: &[&str], event: &str) -> Result<Flannel> {
    let mut flannel = Flannel::new(flags)?;
    let node = flannel.pair.nodes[0].namespace().clone();
    for agent in &mut flannel.agents {
        agent.set_build(Build::Next);
        agent.start_again()?;
        agent.wait_ready()?;
        wait_attached(agent)?;
    }
    flannel.unnoticed(event, |flannel| {
        let agent = &mut flannel.agents[0];
        after_every_step("a handover", STEPS - 1, |steps| {
            let end = hand_over_cut_off(agent, steps)?;
            let mut on_the_rest = None;
            if end == End::CutOff {
                // Nobody finishes it, and Twill starts on the rest.
                on_the_rest = Some(start(agent, &node)?);
                // Cut off again, and then somebody does.
                hand_over_cut_off(agent, steps)?;
                agent.ctl_text(&["handover"])?;
            }
            ensure!(!agent.pins().exists(), "pins are left");
            let left = state(&node)?;
            let taken_back = start(agent, &node)?;
            if let Some(on_the_rest) = on_the_rest {
                ensure!(
                    on_the_rest == taken_back,
                    "on the rest {on_the_rest:#}, else {taken_back:#}"
                );
            }
            wait_fast(agent, "under Twill again")?;
            Ok((end, json!({ "left": left, "taken back": taken_back })))
        })
    })?;
    for agent in &mut flannel.agents {
        hand_over(agent)?;
    }
    Ok(flannel)
}

/// Starts Twill, and gives what that made of the node.
fn start(agent: &mut Agent, node: &Namespace) -> Result<Value> {
    agent.start_again()?;
    agent.wait_ready()?;
    cut_off::state(agent, node)
}
