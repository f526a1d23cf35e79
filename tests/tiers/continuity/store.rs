//! The store loses its data.

use anyhow::{Context as _, Result, ensure};
use twill_testbed::wait::wait_for;
use twill_tests::required;

use crate::scene::{PATIENCE, Scene, wait_fast};

#[test]
fn nobody_notices_that_the_store_was_emptied_while_the_agents_were_away() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut scene = Scene::new(&[])?;
    let event = "lease server emptied, agents started one after the other";
    scene.unnoticed(event, |cluster| {
        for member in &mut cluster.members {
            member.agent.kill()?;
        }
        cluster.lease_server.kill()?;
        cluster.lease_server.wipe()?;
        cluster.lease_server.start_again()?;
        let [first, second] = cluster.members.as_mut_slice() else {
            unreachable!("a scene has two nodes")
        };
        first.agent.start_again()?;
        first.agent.wait_ready()?;
        // The store knows one node alone; the other is one that has not registered yet.
        let log = first.agent.log_tail();
        ensure!(log.contains("another store than before"), "{log}");
        let routes = first.overlay_routes()?;
        ensure!(routes == [second.env.prefix()], "{routes:?}");
        // Nor does another start take it away.
        first.agent.stop()?;
        first.agent.start_again()?;
        first.agent.wait_ready()?;
        wait_fast(&first.agent, "with half of the leases")?;
        second.agent.start_again()?;
        second.agent.wait_ready()?;
        // All peers are this store's now.
        let note = first
            .agent
            .run_dir()
            .join(first.agent.instance())
            .join("store");
        let before = std::fs::read_to_string(
            second
                .agent
                .run_dir()
                .join(second.agent.instance())
                .join("store"),
        );
        let expected = before.context("what the second one noted")?;
        wait_for("the first agent notes the store", PATIENCE, || {
            Ok((std::fs::read_to_string(&note)? == expected).then_some(()))
        })
    })
}
