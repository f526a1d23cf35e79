//! Where the guard is, and who was there before.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use aya::EbpfLoader;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{Xdp, XdpMode};
use twill_testbed::agent::Agent;
use twill_testbed::cluster::Cluster;
use twill_testbed::netns::Prefix;
use twill_testbed::topology::UnderlayOptions;
use twill_testbed::wait::{wait_for, wait_until};
use twill_testbed::world::{NODE_A, UPLINK};
use twill_tests::{load_program, required};

use crate::arena::{A, Arena, SECONDS};
use crate::watch::Watch;

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
    load_program(|| program.load())?;
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
    tc_drops(&arena)
}

/// A stranger's packet reaches no pod where TC has taken over.
fn tc_drops(arena: &Arena) -> Result<()> {
    let watch = Watch::start(arena.pod(A))?;
    arena.send(&[arena.stranger("refused")])?;
    arena.settle(&watch)?;
    ensure!(watch.count("refused") == 0, "TC does not drop");
    Ok(())
}

#[test]
fn where_the_driver_refuses_tc_does_it_with_the_reason() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut arena = Arena::of(2, &["--guard=off"])?;
    // A veth takes XDP only if it has a receive queue for each of the other end's.
    let port = arena.victim().node.label().to_owned();
    let switch = arena.cluster.underlay.switch();
    switch.run(&["ethtool", "-L", &port, "tx", "2"])?;
    arena.restart(&["--guard=enforce", "--guard-attach=native"])?;
    let guard = arena.guard()?;
    ensure!(guard["by"] == "tc" && guard["drops"] == true, "{guard}");
    let reason = guard["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("queues"), "{guard}");
    ensure!(shown(&arena)?.is_null(), "{}", shown(&arena)?);
    tc_drops(&arena)?;
    // Asked again, it takes it.
    let switch = arena.cluster.underlay.switch();
    switch.run(&["ethtool", "-L", &port, "tx", "1"])?;
    arena.restart(&["--guard=enforce", "--guard-attach=native"])?;
    let guard = arena.guard()?;
    ensure!(guard["by"] == "xdp-native", "{guard}");
    Ok(())
}

/// The guard's link, as pin and uplink tell.
#[derive(Debug)]
struct Attached {
    pin: PathBuf,
    link: u32,
    program: u64,
    mode: u64,
}

impl Attached {
    fn of(arena: &Arena) -> Result<Self> {
        let pins = std::fs::read_dir(arena.victim().agent.pins().join("v1"))?;
        let pins: Vec<_> = pins.map(|pin| Ok(pin?.path())).collect::<Result<_>>()?;
        let name = |pin: &Path| {
            pin.file_name()
                .map(|name| name.to_string_lossy().into_owned())
        };
        let guards = pins.iter().filter_map(|pin| Some((pin, name(pin)?)));
        let guards: Vec<_> = guards
            .filter(|(_, name)| name.starts_with("xdp_guard"))
            .collect();
        let [(pin, name)] = guards.as_slice() else {
            bail!("not one link of the guard: {pins:?}");
        };
        ensure!(name.ends_with("_native"), "{pins:?}");
        let shown = shown(arena)?;
        Ok(Self {
            pin: (*pin).clone(),
            link: FdLink::from(PinnedLink::from_pin(pin)?).info()?.id(),
            program: shown["prog"]["id"].as_u64().context("no XDP program")?,
            mode: shown["mode"].as_u64().context("no mode")?,
        })
    }

    /// A node is ready before its guard is attached, where the machine is slow.
    fn soon(arena: &Arena) -> Result<Self> {
        wait_for("the guard is attached", SECONDS, || {
            Self::of(arena).map(Some)
        })
    }
}

#[test]
fn the_link_outlives_the_daemon_and_is_taken_over() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let flags = ["--guard=count", "--guard-attach=native"];
    let mut arena = Arena::of(1, &flags)?;
    let first = Attached::soon(&arena)?;
    arena.cluster.members[0].agent.kill()?;
    ensure!(
        shown(&arena)?["prog"]["id"] == first.program,
        "gone with the daemon"
    );
    let agent = &mut arena.cluster.members[0].agent;
    agent.start_again()?;
    agent.wait_ready()?;
    let second = Attached::soon(&arena)?;
    ensure!(second.program != first.program, "{first:?} {second:?}");
    // In place: the link is the same, and no packet met an uplink without a guard.
    ensure!(
        (second.link, second.mode) == (first.link, first.mode),
        "{first:?} {second:?}"
    );
    // Cut off by force, the link keeps its program; only the uplink has none.
    let pin = second.pin.display().to_string();
    let host = arena.victim().node.namespace();
    host.run(&["bpftool", "link", "detach", "pinned", &pin])?;
    wait_until("the guard is back", SECONDS, || {
        shown(&arena).is_ok_and(|xdp| xdp["prog"]["id"] == second.program)
    })?;
    let third = Attached::of(&arena)?;
    ensure!(third.link != second.link, "{second:?} {third:?}");
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

/// What is said of a node whose uplink has no Ethernet headers. What the guard does there, the
/// program runs know.
#[test]
fn on_an_uplink_without_ethernet_the_guard_is_at_tc_and_nothing_is_fast() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    let node = cluster.underlay.join("a", NODE_A)?;
    node.namespace().run_lines(
        "ip tuntap add name tun0 mode tun
         ip addr add 198.51.100.9/24 dev tun0
         ip link set dev tun0 up",
    )?;
    let flags = ["--guard=enforce", "--guard-attach=native"];
    let mut agent = Agent::new(&node, &cluster.lease_server.url(), &flags);
    agent.set_iface(Some("tun0"));
    let member = cluster.add_prepared(node, agent)?;
    wait_until("it is told", SECONDS, || {
        let said = member.agent.status().unwrap_or_default()["status"].take();
        let (fast, guard) = (&said["fast_path"], &said["guard"]);
        let tells = |said: &serde_json::Value| {
            let reason = said["reason"].as_str().unwrap_or_default();
            reason.contains("no Ethernet header")
        };
        fast["mode"] == "off" && tells(fast) && guard["by"] == "tc" && tells(guard)
    })?;
    let flow = ["explain", "10.244.1.2:1", "10.244.2.2:1"];
    let text = member.agent.ctl_text(&flow)?;
    ensure!(text.contains("no Ethernet header"), "{text}");
    Ok(())
}
