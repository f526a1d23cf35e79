//! Somebody else's policy on the uplink: no packet goes past it.

use anyhow::Result;
use twill_testbed::cluster::Cluster;
use twill_testbed::wait::wait_until;
use twill_testbed::world::{NODE_A, UPLINK};
use twill_tests::required;

use crate::agent_daemon::{SECONDS, wait_mode};

#[test]
fn a_policy_on_the_uplink_switches_the_fast_path_off_until_it_goes() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = Cluster::of(&[("a", NODE_A)])?;
    let member = &cluster.members[0];
    wait_mode(&member.agent, "bpf")?;
    let wait = |mode: &str, reason: &str| {
        let what = format!("the fast path is {mode}, and the reason {reason:?}");
        wait_until(&what, SECONDS, || {
            let status = member.agent.status().unwrap_or_default();
            let said = &status["status"]["fast_path"];
            let told = said["reason"].as_str().unwrap_or_default();
            said["mode"] == mode && told.contains(reason) && told.is_empty() == reason.is_empty()
        })
    };
    let tc = |line: &str| member.node.namespace().run_lines(&format!("tc {line}"));
    wait("permit", "")?;

    tc(&format!(
        "qdisc add dev {UPLINK} root tbf rate 50mbit burst 32k latency 50ms"
    ))?;
    wait("off", "qdisc tbf")?;
    tc(&format!("qdisc del dev {UPLINK} root"))?;
    wait("permit", "")?;

    tc(&format!("qdisc add dev {UPLINK} clsact"))?;
    tc(&format!(
        "filter add dev {UPLINK} ingress prio 7 protocol ip u32 match u32 0 0"
    ))?;
    wait("off", "u32 filter")?;
    // The operator's word goes past it.
    member.agent.ctl(&["fast-path", "permit"])?;
    let holds = member.agent.ctl(&["fast-path"])?.to_string();
    anyhow::ensure!(holds.contains(r#""holds":"permit""#), "{holds}");
    tc(&format!("filter del dev {UPLINK} ingress prio 7"))?;
    wait("permit", "")
}
