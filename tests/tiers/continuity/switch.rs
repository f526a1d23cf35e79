//! `twillctl mode`, with nobody alive to help.

use std::time::Duration;

use anyhow::{Result, ensure};
use twill_testbed::wait::{pass, wait_for};
use twill_tests::required;

use crate::scene::{PATIENCE, Scene, wait_fast};

#[test]
fn nobody_notices_the_switch_to_the_kernel_and_back() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut scene = Scene::new(&[])?;
    let agent = &mut scene.node().agent;
    agent.kill()?;
    scene.unnoticed("mode bpf, kernel, bpf, without the daemon", |cluster| {
        let agent = &cluster.members[0].agent;
        agent.ctl_text(&["mode", "kernel"])?;
        wait_for("every packet takes the kernel's way", PATIENCE, || {
            let fast = || agent.counters()?.packets("from_pod", "fast");
            let before = fast()?;
            pass(Duration::from_millis(300))?;
            ensure!(fast()? == before, "packets are still fast");
            Ok(Some(()))
        })?;
        // Longer than a permit lives by: what is fast again was asked for again.
        pass(Duration::from_secs(2))?;
        agent.ctl_text(&["mode", "bpf"])?;
        wait_fast(agent, "in mode bpf")?;
        agent.ctl_text(&["mode", "auto"]).map(drop)
    })
}
