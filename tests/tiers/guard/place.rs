//! Where the guard is, and who was there before.

use anyhow::{Context as _, Result, ensure};
use aya::EbpfLoader;
use aya::programs::{Xdp, XdpMode};
use twill_testbed::world::UPLINK;
use twill_tests::required;

use crate::arena::Arena;

/// What `ip` shows of XDP on the victim's uplink.
fn shown(arena: &Arena) -> Result<serde_json::Value> {
    Ok(arena.victim().node.namespace().link_json(UPLINK)?["xdp"].take())
}

#[test]
fn somebody_elses_program_is_left_alone() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut arena = Arena::of(2, &["--guard=off"])?;
    let object = std::env::var_os("TWILL_BPF_OBJECT").context("TWILL_BPF_OBJECT")?;
    let mut foreign = EbpfLoader::new().load(&std::fs::read(object)?)?;
    let program: &mut Xdp = foreign
        .program_mut("guard_whole")
        .context("no program")?
        .try_into()?;
    program.load()?;
    let id = program.info()?.id();
    arena
        .victim()
        .node
        .namespace()
        .enter(|| program.attach(UPLINK, XdpMode::Driver))??;
    arena.restart(&["--guard=enforce", "--guard-attach=native"])?;
    let guard = arena.guard()?;
    ensure!(guard["by"] == "tc" && guard["drops"] == true, "{guard}");
    let reason = guard["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("somebody else's XDP program"), "{guard}");
    ensure!(shown(&arena)?["prog"]["id"] == id, "{}", shown(&arena)?);
    let text = arena.victim().agent.ctl_text(&["status"])?;
    ensure!(text.contains("somebody else's XDP program"), "{text}");
    Ok(())
}

#[test]
fn the_link_outlives_the_daemon_and_is_taken_over() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let flags = ["--guard=count", "--guard-attach=native"];
    let mut arena = Arena::of(1, &flags)?;
    let id = |arena: &Arena| -> Result<(u64, u64)> {
        let shown = shown(arena)?;
        let id = shown["prog"]["id"].as_u64();
        let mode = shown["mode"].as_u64();
        Ok((id.context("no XDP program")?, mode.context("no mode")?))
    };
    let first = id(&arena)?;
    arena.cluster.members[0].agent.kill()?;
    ensure!(id(&arena)? == first, "gone with the daemon");
    let agent = &mut arena.cluster.members[0].agent;
    agent.start_again()?;
    agent.wait_ready()?;
    let second = id(&arena)?;
    ensure!(
        second.1 == first.1 && second.0 != first.0,
        "{first:?} {second:?}"
    );
    let pins = std::fs::read_dir(arena.victim().agent.pins().join("v1"))?;
    let pins: Vec<_> = pins
        .map(|pin| Ok(pin?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    let guards: Vec<_> = pins.iter().filter(|pin| pin.contains("guard")).collect();
    ensure!(
        guards.len() == 1 && guards[0].ends_with("_native"),
        "{pins:?}"
    );
    // On a veth XDP costs GRO: without being asked, TC it is, with the reason.
    arena.restart(&["--guard=count"])?;
    let guard = arena.guard()?;
    ensure!(guard["by"] == "tc", "{guard}");
    ensure!(
        guard["reason"]
            .as_str()
            .is_some_and(|why| why.contains("veth")),
        "{guard}"
    );
    ensure!(shown(&arena)?.is_null(), "{}", shown(&arena)?);
    arena.victim().agent.ctl_text(&["teardown", "--force"])?;
    Ok(())
}
