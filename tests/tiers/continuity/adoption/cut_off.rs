//! Adoption and handover that are cut off: after every step of them, what comes after the next
//! attempt is what would have come without.

use anyhow::{Context as _, Result, ensure};
use twill_testbed::agent::{Agent, Build};
use twill_tests::required;

use super::by_hand::Flannel;
use crate::crash::{MANY, cut_off, state};

/// Back to flannel, in one go.
fn hand_over(agent: &mut Agent) -> Result<()> {
    agent.stop()?;
    agent.ctl_text(&["handover"]).map(drop)
}

#[test]
fn nobody_notices_an_adoption_that_is_cut_off_anywhere() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut flannel = Flannel::new()?;
    let node = flannel.pair.nodes[0].namespace().clone();
    flannel.agents[1].start_again()?;
    flannel.agents[1].wait_ready()?;
    flannel.agents[0].set_build(Build::Next);
    flannel.unnoticed(
        "flannel's node adopted, cut off after each step",
        |flannel| {
            let agent = &mut flannel.agents[0];
            let mut expected = None;
            for steps in 1..MANY {
                let died = cut_off(agent, steps)?;
                if died {
                    agent.start_again()?;
                    agent.wait_ready()?;
                }
                let now = state(agent, &node)?;
                let expected = expected.get_or_insert_with(|| now.clone());
                ensure!(
                    now == *expected,
                    "cut off after {steps} steps: {now:#}, not {expected:#}"
                );
                hand_over(agent)?;
                if !died {
                    ensure!(steps > 10, "an adoption has only {steps} steps");
                    return Ok(());
                }
            }
            Err(anyhow::Error::msg("an adoption has no end"))
        },
    )?;
    hand_over(&mut flannel.agents[1])?;
    flannel.ensure_as_before(0..7)
}

#[test]
fn nobody_notices_a_handover_that_is_cut_off_anywhere() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut flannel = Flannel::new()?;
    for agent in &mut flannel.agents {
        agent.set_build(Build::Next);
        agent.start_again()?;
        agent.wait_ready()?;
    }
    flannel.unnoticed("handover cut off after each step", |flannel| {
        let agent = &mut flannel.agents[0];
        for steps in 1..MANY {
            agent.stop()?;
            let died = agent.ctl_cut_off(&["handover"], steps)?;
            if died {
                agent.ctl_text(&["handover"])?;
            }
            ensure!(!agent.pins().exists(), "pins are left after {steps} steps");
            if !died {
                ensure!(steps > 3, "a handover has only {steps} steps");
                return Ok(());
            }
            // Cut off again, and then nobody finishes the handover: Twill starts on the rest.
            agent.start_again()?;
            agent.wait_ready()?;
            agent.stop()?;
            agent.ctl_cut_off(&["handover"], steps)?;
            agent.start_again()?;
            agent
                .wait_ready()
                .with_context(|| format!("after {steps} steps"))?;
        }
        Err(anyhow::Error::msg("a handover has no end"))
    })?;
    hand_over(&mut flannel.agents[1])?;
    flannel.ensure_as_before(0..7)
}
