//! Frames that are too large for one page: XDP gets them in pieces, or not at all.

use anyhow::{Context as _, Result, bail, ensure};
use aya::EbpfLoader;
use aya::programs::{Xdp, XdpMode};
use twill_testbed::netns::Namespace;
use twill_testbed::topology::UnderlayOptions;
use twill_testbed::traffic::ping::ping;
use twill_testbed::wait::wait_until;
use twill_testbed::world::STRANGER;
use twill_tests::{load_program, required};

use crate::arena::{A, Arena, B, SECONDS};
use crate::kinds::Forged;
use crate::watch::Watch;

const MTU: u32 = 9000;
/// Bytes of a payload that makes a frame of three pages.
const LARGE: usize = 8400;

/// A stranger's packet of nearly the MTU.
fn large(arena: &Arena, word: &str) -> Vec<u8> {
    let mut forged = Forged::new(&arena.target());
    forged.outer.source = STRANGER;
    forged.filling = LARGE;
    forged.frame(word)
}

#[test]
fn frames_in_pieces_are_judged_like_others() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let options = UnderlayOptions {
        mtu_bytes: MTU,
        ..UnderlayOptions::default()
    };
    let mut arena = Arena::on(options, 2, &["--guard=count", "--guard-attach=native"])?;
    let guard = arena.guard()?;
    ensure!(guard["by"] == "xdp-native", "{guard}");
    let watch = Watch::start(arena.pod(A))?;
    wait_until(
        "a large stranger is heard where he is counted",
        SECONDS,
        || arena.send(&[large(&arena, "counted")]).is_ok() && watch.count("counted") > 0,
    )?;
    arena.restart(&["--guard=enforce", "--guard-attach=native"])?;
    let refused = |arena: &Arena| {
        let counters = arena.victim().agent.counters()?;
        counters.packets("guard", "unknown_vtep")
    };
    let before = refused(&arena)?;
    arena.send(&[large(&arena, "dropped")])?;
    arena.settle(&watch)?;
    ensure!(refused(&arena)? == before + 1, "he was not judged");
    ensure!(watch.count("dropped") == 0, "a large stranger got through");
    // A peer's large packets, whole: the answer is as large.
    ping(arena.pod(B), arena.address(A), LARGE)?;
    Ok(())
}

/// What the form for frames in pieces is for: without it the driver refuses such an MTU.
#[test]
fn the_other_form_is_refused_for_its_mtu() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let namespace = Namespace::new("jumbo")?;
    namespace.run_lines(&format!(
        "ip link add name near mtu {MTU} type veth peer name far mtu {MTU}
         ip link set near up
         ip link set far up"
    ))?;
    let object = std::env::var_os("TWILL_BPF_OBJECT").context("TWILL_BPF_OBJECT")?;
    let mut ebpf = EbpfLoader::new().load(&std::fs::read(object)?)?;
    for (form, taken) in [("guard_whole", false), ("guard", true)] {
        let program: &mut Xdp = ebpf.program_mut(form).context("no program")?.try_into()?;
        load_program(|| program.load())?;
        let attached = namespace.enter(|| program.attach("near", XdpMode::Driver))?;
        match (attached, taken) {
            (Ok(link), true) => program.detach(link)?,
            (Err(error), false) => {
                let chain = format!("{:#}", anyhow::Error::new(error));
                ensure!(chain.contains("os error 34"), "{form}: {chain}");
            }
            (attached, _) => bail!("{form}: {attached:?}"),
        }
    }
    Ok(())
}
