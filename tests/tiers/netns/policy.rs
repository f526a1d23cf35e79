//! Somebody else's policy on the uplink or on the overlay's device: no packet goes past it.

use anyhow::{Context, Result, ensure};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use twill_testbed::cluster::{Cluster, Member};
use twill_testbed::wait::wait_until;
use twill_testbed::world::{NODE_A, NODE_B, OVERLAY_LINK, UPLINK};
use twill_tests::{load_program, required, small_object};

use crate::agent_daemon::{SECONDS, wait_mode};

/// Waits until the fast path of a node is so, for a reason with these words, or for none.
fn wait(member: &Member, mode: &str, reason: &str) -> Result<()> {
    let what = format!("the fast path is {mode}, and the reason {reason:?}");
    wait_until(&what, SECONDS, || {
        let status = member.agent.status().unwrap_or_default();
        let said = &status["status"]["fast_path"];
        let told = said["reason"].as_str().unwrap_or_default();
        said["mode"] == mode && told.contains(reason) && told.is_empty() == reason.is_empty()
    })
}

#[test]
fn a_policy_on_the_uplink_switches_the_fast_path_off_until_it_goes() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = Cluster::of(&[("a", NODE_A)])?;
    let member = &cluster.members[0];
    wait_mode(&member.agent, "bpf")?;
    let wait = |mode: &str, reason: &str| wait(member, mode, reason);
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
    ensure!(holds.contains(r#""holds":"permit""#), "{holds}");
    tc(&format!("filter del dev {UPLINK} ingress prio 7"))?;
    wait("permit", "")
}

#[test]
fn a_policy_on_the_overlays_device_sees_every_packet_until_it_goes() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = Cluster::of(&[("a", NODE_A), ("b", NODE_B)])?;
    cluster.wait_mesh()?;
    let [member, peer] = cluster.members.as_slice() else {
        anyhow::bail!("two nodes were asked for");
    };
    wait_mode(&member.agent, "bpf")?;
    wait_mode(&peer.agent, "bpf")?;
    let node = member.node.namespace();
    let tc = |line: &str| node.run_lines(&format!("tc {line}"));
    let to = peer.env.subnet.network().to_string();
    // Packets that the device's qdisc has sent while ten were answered.
    let through_the_qdisc = || -> Result<u64> {
        let sent = || -> Result<u64> {
            let text = node.run(&["tc", "-s", "-j", "qdisc", "show", "dev", OVERLAY_LINK])?;
            let qdiscs: serde_json::Value = serde_json::from_str(&text)?;
            let packets = |qdisc: &serde_json::Value| qdisc["packets"].as_u64().unwrap_or(0);
            Ok(qdiscs.as_array().context(text)?.iter().map(packets).sum())
        };
        let before = sent()?;
        node.run(&["ping", "-q", "-i", "0.01", "-c", "10", &to])?;
        Ok(sent()? - before)
    };
    wait(member, "permit", "")?;

    let shaper =
        format!("qdisc add dev {OVERLAY_LINK} root tbf rate 50mbit burst 32k latency 50ms");
    tc(&shaper)?;
    wait(member, "off", "qdisc tbf")?;
    let seen = through_the_qdisc()?;
    ensure!(seen >= 10, "the shaper has seen {seen} of 10 packets");
    // Without a fast path to switch off as well.
    member.agent.ctl(&["fast-path", "off"])?;
    let seen = through_the_qdisc()?;
    ensure!(
        seen >= 10,
        "fast path off: the shaper has seen {seen} of 10 packets"
    );
    member.agent.ctl(&["fast-path", "auto"])?;
    tc(&format!("qdisc del dev {OVERLAY_LINK} root"))?;
    wait(member, "permit", "")?;

    tc(&format!("qdisc add dev {OVERLAY_LINK} clsact"))?;
    tc(&format!(
        "filter add dev {OVERLAY_LINK} ingress prio 7 protocol ip u32 match u32 0 0"
    ))?;
    wait(member, "off", "u32 filter")?;
    tc(&format!("filter del dev {OVERLAY_LINK} ingress prio 7"))?;
    wait(member, "permit", "")?;

    // The kernel tells nobody of programs by TCX. The next look finds them: a change of qdiscs
    // makes it come at once.
    let mut theirs = small_object()?;
    let program: &mut SchedClassifier = theirs
        .program_mut("to_pod")
        .context("the object has no such program")?
        .try_into()?;
    load_program(|| program.load())?;
    let order = || TcAttachOptions::TcxOrder(LinkOrder::default());
    let attach = || program.attach_with_options(OVERLAY_LINK, TcAttachType::Ingress, order());
    let link = node.enter(attach)??;
    tc(&format!("qdisc del dev {OVERLAY_LINK} clsact"))?;
    wait(member, "off", "TCX program to_pod")?;
    program.detach(link)?;
    tc(&format!("qdisc add dev {OVERLAY_LINK} clsact"))?;
    wait(member, "permit", "")
}
