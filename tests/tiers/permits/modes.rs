//! The mode of the fast path is changed by a restart, both ways and to nothing, under flows that
//! lose no question.

use anyhow::{Context as _, Result, ensure};

use crate::lab::{A, B, Kind, Lab, Options, twill};
use crate::rules::ONE;
use crate::talk::{Flow, Server};

/// The modes, one after the other; `permit` at first.
const MODES: [&str; 5] = ["direct", "off", "direct", "permit", "off"];

fn modes_change(lab: &mut Lab) -> Result<()> {
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    let to = Server::address(lab.pod(B, 0));
    let open = |lab: &Lab| -> Result<[Flow; 4]> {
        let pod = lab.pod(A, 0).namespace();
        Ok([
            Flow::tcp(pod, 0, to)?,
            Flow::tcp(pod, 0, ONE)?,
            Flow::udp(pod, 0, to)?,
            Flow::udp(pod, 0, ONE)?,
        ])
    };
    let mut flows = Vec::from(open(lab)?);
    for flow in &mut flows {
        lab.until_fast(flow).context("at first")?;
    }
    for mode in MODES {
        for member in &mut lab.cluster.members {
            member.agent.stop()?;
        }
        for flow in &mut flows {
            flow.ask_times(20).context("without a daemon")?;
        }
        let flags = Kind::Twill.flags_with(&["--fast-path", mode]);
        for member in &mut lab.cluster.members {
            member.agent.set_flags(&flags);
            member.agent.start_again()?;
            // In between the nodes are of two minds.
            for flow in &mut flows {
                flow.ask_times(20)
                    .with_context(|| format!("on the way to {mode}"))?;
            }
            member.agent.wait_ready()?;
        }
        // Connections of this mode, which have to live through the next ones.
        flows.extend(open(lab)?);
        for (number, flow) in flows.iter_mut().enumerate() {
            let told = || format!("flow {number} in the mode {mode}");
            if mode == "off" {
                let before = lab.fast_counts()?;
                flow.ask_times(40).with_context(told)?;
                ensure!(lab.fast_counts()? == before, "{}: fast", told());
            } else {
                lab.until_fast(flow).with_context(told)?;
            }
        }
    }
    Ok(())
}

#[test]
fn the_mode_changes_by_restart_and_no_flow_notices() -> Result<()> {
    twill(Options::default(), modes_change)
}
