//! The switches that need no daemon.

use std::process::Command;

use anyhow::{Result, ensure};
use twill_testbed::agent::Agent;
use twill_testbed::traffic::EchoServer;
use twill_testbed::traffic::echo::ECHO_PORT;
use twill_tests::required;

use super::{
    SOON, Talk, address, agent, list, packets, pair, pair_with, pods, until_fast, wait_attached,
};
use crate::agent_daemon::while_pinging;
use twill_testbed::wait::wait_for;

/// Talks, and packets of this program are counted for this reason and never as fast.
fn slow_by(talk: &mut Talk, agent: &Agent, program: &str, reason: &str) -> Result<()> {
    let (fast, slow) = (
        packets(agent, program, "fast")?,
        packets(agent, program, reason)?,
    );
    talk.chat(20)?;
    ensure!(
        packets(agent, program, "fast")? == fast,
        "{program} still carries packets"
    );
    let counted = packets(agent, program, reason)? - slow;
    ensure!(counted >= 20, "{counted} packets are {program}/{reason}");
    Ok(())
}

#[test]
fn the_mode_is_switched_with_the_daemon_dead_and_nothing_is_lost() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = pair()?;
    wait_attached(&cluster)?;
    for member in &mut cluster.members {
        member.agent.kill()?;
    }
    let (a, b) = pods(&cluster);
    let agent = agent(&cluster);
    let _echo = EchoServer::start(b.namespace())?;
    let mut talk = Talk::open(a.namespace(), address(b, ECHO_PORT))?;
    while_pinging(a.namespace(), b.address(), || {
        until_fast(&mut talk, agent)?;
        let said = agent.ctl(&["mode", "kernel"])?;
        assert_eq!(said["mode"]["holds"], "kernel");
        assert_eq!(said["mode"]["agent"], "bpf");
        assert_eq!(agent.status()?["pins"]["settings"]["mode"], "kernel");
        for program in ["from_pod", "to_overlay", "from_uplink"] {
            slow_by(&mut talk, agent, program, "mode_kernel")?;
        }
        assert_eq!(agent.ctl(&["mode", "bpf"])?["mode"]["operator"], "bpf");
        until_fast(&mut talk, agent)?;
        let said = agent.ctl(&["mode", "auto"])?;
        assert_eq!(said["mode"]["operator"], serde_json::Value::Null);
        until_fast(&mut talk, agent)
    })
}

#[test]
fn the_daemon_leaves_the_override_alone_and_tells_of_it() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = pair()?;
    wait_attached(&cluster)?;
    let agent = &mut cluster.members[0].agent;
    agent.ctl(&["mode", "kernel"])?;
    agent.ctl(&["fast-path", "off"])?;
    agent.stop()?;
    agent.start_again()?;
    agent.wait_ready()?;
    // Long enough for it to have written its settings once more.
    let status = wait_for("the daemon tells of the override", SOON, || {
        let status = agent.status()?;
        Ok((status["status"]["mode"] == "kernel").then_some(status))
    })?;
    let settings = &status["pins"]["settings"];
    assert_eq!(settings["operator"], "kernel");
    assert_eq!(settings["fast_path"]["holds"], "off");
    assert_eq!(settings["fast_path"]["agent"], "permit");
    let text = agent.ctl_text(&["status"])?;
    assert!(text.contains("set the mode to kernel"), "{text}");
    assert!(text.contains("set the fast path to off"), "{text}");
    // New maps, as another size demands them, take it over.
    agent.stop()?;
    agent.set_flags(&["--max-permits", "1000"]);
    agent.start_again()?;
    agent.wait_ready()?;
    assert_eq!(agent.ctl(&["mode"])?["mode"]["operator"], "kernel");
    let said = agent.ctl(&["fast-path"])?;
    assert_eq!(said["fast-path"]["operator"], "off");
    let text = std::fs::read_to_string(agent.run_dir().join("../twilld.log"))?;
    assert!(text.contains("starting with new maps"), "{text}");
    Ok(())
}

#[test]
fn the_fast_path_is_switched_with_the_daemon_dead() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = pair()?;
    wait_attached(&cluster)?;
    cluster.members[0].agent.kill()?;
    let (a, b) = pods(&cluster);
    let agent = agent(&cluster);
    let _echo = EchoServer::start(b.namespace())?;
    let mut talk = Talk::open(a.namespace(), address(b, ECHO_PORT))?;
    until_fast(&mut talk, agent)?;
    agent.ctl(&["fast-path", "off"])?;
    slow_by(&mut talk, agent, "from_pod", "fast_path_off")?;
    slow_by(&mut talk, agent, "from_uplink", "trusted")?;
    agent.ctl(&["fast-path", "permit"])?;
    until_fast(&mut talk, agent)?;
    agent.ctl(&["fast-path", "off"])?;
    agent.ctl(&["fast-path", "auto"])?;
    until_fast(&mut talk, agent)
}

#[test]
fn direct_records_end_with_the_mode_and_their_flows_go_on() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = pair()?;
    wait_attached(&cluster)?;
    let (a, b) = pods(&cluster);
    let _echo = EchoServer::start(b.namespace())?;
    for member in &cluster.members {
        member.agent.ctl(&["fast-path", "direct"])?;
    }
    let agent = agent(&cluster);
    // The stack must have delivered to each pod once, for the programs to know where it is.
    Talk::open(a.namespace(), address(b, ECHO_PORT))?.chat(3)?;
    let mut talk = Talk::open(a.namespace(), address(b, ECHO_PORT))?;
    until_fast(&mut talk, agent)?;
    let kinds = |agent: &Agent| -> Result<Vec<String>> {
        let live = list(agent, &["--state", "live"])?;
        Ok(live
            .iter()
            .filter_map(|permit| Some(permit["kind"].as_str()?.to_owned()))
            .collect())
    };
    assert!(kinds(agent)?.iter().any(|kind| kind == "direct"));
    for member in &cluster.members {
        member.agent.ctl(&["fast-path", "permit"])?;
    }
    assert!(!kinds(agent)?.iter().any(|kind| kind == "direct"));
    talk.chat(20)?;
    until_fast(&mut talk, agent)?;
    assert_eq!(kinds(agent)?, ["permit"]);
    Ok(())
}

#[test]
fn where_the_daemon_has_the_fast_path_off_it_cannot_be_switched_on() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = pair_with(&["--fast-path", "off"])?;
    let agent = agent(&cluster);
    for which in ["permit", "direct"] {
        let refused = agent.ctl(&["fast-path", which]);
        let error = format!("{:#}", refused.expect_err("it cannot work"));
        assert!(error.contains("exit status: 1"), "{error}");
        assert!(error.contains("--fast-path off"), "the reason: {error}");
        assert!(
            error.contains("run twilld with --fast-path=permit"),
            "{error}"
        );
    }
    let said = agent.ctl(&["fast-path", "auto"])?;
    assert_eq!(said["fast-path"]["holds"], "off");
    let status = agent.status()?;
    assert_eq!(status["status"]["fast_path"]["reason"], "--fast-path off");
    Ok(())
}

/// The lines of docs/operations.md for when even twillctl is gone.
#[test]
fn bpftool_alone_switches_to_the_kernel_and_back() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = pair()?;
    wait_attached(&cluster)?;
    cluster.members[0].agent.kill()?;
    let (a, b) = pods(&cluster);
    let agent = agent(&cluster);
    let _echo = EchoServer::start(b.namespace())?;
    let mut talk = Talk::open(a.namespace(), address(b, ECHO_PORT))?;
    until_fast(&mut talk, agent)?;
    let pins = agent.pins();
    let bpftool = |mode: u8| {
        let line = format!(
            "bpftool map update pinned {}/v1/config key 1 0 0 0 value \
             $(printf '0 %.0s' $(seq 24)) {mode} 0 0 0 $(printf '0 %.0s' $(seq 140))",
            pins.display()
        );
        sh(&line)
    };
    bpftool(1)?;
    assert_eq!(agent.ctl(&["mode"])?["mode"]["operator"], "kernel");
    slow_by(&mut talk, agent, "from_pod", "mode_kernel")?;
    bpftool(0)?;
    until_fast(&mut talk, agent)?;
    // And the last resort: no link, no program.
    sh(&format!("rm {}/v1/link_*", pins.display()))?;
    // The kernel lets go of them a moment later.
    wait_for("no program runs", SOON, || {
        let before = agent.counters()?;
        talk.chat(20)?;
        Ok((agent.counters()? == before).then_some(()))
    })
}

fn sh(line: &str) -> Result<()> {
    let output = Command::new("bash").args(["-c", line]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{line}: {said}");
    Ok(())
}
