//! The store loses its data.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use twill_testbed::agent::Agent;
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
        let (noted, expected) = (note(&first.agent), note(&second.agent));
        // Nor does another start take it away, or give it longer.
        let until = wait_for("the end of that is noted", PATIENCE, || {
            Ok(noted()?["kept_until"].as_u64())
        })?;
        first.agent.stop()?;
        first.agent.start_again()?;
        first.agent.wait_ready()?;
        wait_fast(&first.agent, "with half of the leases")?;
        let now = noted()?["kept_until"].as_u64();
        ensure!(now.is_some_and(|now| now <= until), "{now:?}, not {until}");
        second.agent.start_again()?;
        second.agent.wait_ready()?;
        // All peers are this store's now.
        wait_for("the first agent notes the store", PATIENCE, || {
            let (mut noted, mut expected) = (noted()?, expected()?);
            for note in [&mut noted, &mut expected] {
                // Its number goes on.
                let position = note["position"].take();
                let text = position.as_str().context("where the store is")?;
                let (store, revision) = text.split_once('@').context("its number")?;
                ensure!(revision.parse::<u64>()? > 0, "{revision}");
                note["position"] = store.into();
            }
            Ok((noted == expected).then_some(()))
        })
    })
}

/// Reads what the agent has noted of its store.
fn note(agent: &Agent) -> impl Fn() -> Result<Value> + use<> {
    let path = agent.run_dir().join(agent.instance()).join("store");
    move || {
        let text = std::fs::read_to_string(&path).context("what is noted of the store")?;
        Ok(serde_json::from_str(&text)?)
    }
}
