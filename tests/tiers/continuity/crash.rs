//! Crashes at every step of a start: what comes after the next start is what would have come
//! without them.

use anyhow::Result;
use twill_testbed::agent::Build;
use twill_tests::required;

use crate::cut_off::{self, after_every_step};
use crate::scene::Scene;

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
    agent.set_build(Build::Next);
    let done = after_every_step("a start", 14, |steps| {
        agent.stop()?;
        agent.ctl(&["teardown"])?;
        cut_off::start(agent, &node, steps)
    });
    scene.cluster.explained(done)
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
            after_every_step("an upgrade", 14, |steps| {
                agent.stop()?;
                agent.set_build(Build::Usual);
                agent.start_again()?;
                agent.wait_ready()?;
                agent.stop()?;
                agent.set_build(Build::Next);
                cut_off::start(agent, &node, steps)
            })
        },
    )
}
