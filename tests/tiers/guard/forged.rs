//! Every kind of forged packet, with the guard off, counting and enforcing, in each of its places.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use twill_testbed::wait::wait_until;
use twill_testbed::world::STRANGER;
use twill_tests::required;

use crate::arena::{A, Arena, C, SECONDS};
use crate::kinds::{self, Arrives, Kind};
use crate::watch::Watch;

/// Flags, where the guard must be then, and whether it drops.
const MODES: [(&[&str], &str, bool); 6] = [
    (&["--guard=off"], "nowhere", false),
    (&["--guard=count"], "tc", false),
    (
        &["--guard=count", "--guard-attach=native"],
        "xdp-native",
        false,
    ),
    (
        &["--guard=enforce", "--guard-attach=native"],
        "xdp-native",
        true,
    ),
    (
        &["--guard=enforce", "--guard-attach=generic"],
        "xdp-generic",
        true,
    ),
    (&["--guard=enforce"], "tc", true),
];

fn counts(arena: &Arena, kinds: &[Kind]) -> Result<BTreeMap<&'static str, u64>> {
    let counters = arena.victim().agent.counters()?;
    let count = |kind: &Kind| Ok((kind.reason, counters.packets("guard", kind.reason)?));
    kinds.iter().map(count).collect()
}

fn wanted(before: &BTreeMap<&'static str, u64>, kinds: &[Kind]) -> BTreeMap<&'static str, u64> {
    let mut wanted = before.clone();
    for kind in kinds {
        *wanted.entry(kind.reason).or_default() += kind.judged;
    }
    wanted
}

#[test]
fn no_forged_packet_reaches_a_pod_and_each_is_counted() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut arena = Arena::of(3, MODES[0].0)?;
    let kinds = kinds::all(&arena.target());
    let (victim, other) = (Watch::start(arena.pod(A))?, Watch::start(arena.pod(C))?);
    for (flags, by, drops) in MODES {
        if flags != MODES[0].0 {
            arena.restart(flags)?;
        }
        let guard = arena.guard()?;
        ensure!(guard["by"] == by, "{flags:?}: the guard is at {guard}");
        let before = counts(&arena, &kinds)?;
        victim.forget();
        other.forget();
        for kind in &kinds {
            arena.send(&kind.frames)?;
        }
        let wanted = if by == "nowhere" {
            before.clone()
        } else {
            wanted(&before, &kinds)
        };
        let reached = |kind: &Kind| match kind.arrives {
            Arrives::Nowhere => true,
            Arrives::Victim => victim.count(kind.name) == 1,
            Arrives::Other => other.count(kind.name) == 1,
        };
        let all = wait_until("every packet has been judged", SECONDS, || {
            counts(&arena, &kinds).is_ok_and(|now| now == wanted)
                && (drops || kinds.iter().all(reached))
        });
        let told = || {
            let missing = kinds.iter().filter(|kind| !reached(kind));
            let missing: Vec<_> = missing.map(|kind| kind.name).collect();
            let now = counts(&arena, &kinds);
            format!("{flags:?}: wanted {wanted:?}, counted {now:?}, did not arrive: {missing:?}")
        };
        ensure!(all.is_ok(), "{}", told());
        arena.settle(&victim)?;
        for kind in &kinds {
            let came = victim.count(kind.name) + other.count(kind.name);
            let allowed = u64::from(!drops && kind.arrives != Arrives::Nowhere);
            ensure!(
                came == allowed,
                "{flags:?}: {} came {came} times",
                kind.name
            );
        }
    }
    strangers_are_told(&arena)
}

/// `twillctl strangers` names the one who tried, by both of its forms.
fn strangers_are_told(arena: &Arena) -> Result<()> {
    let agent = &arena.victim().agent;
    let told = agent.ctl(&["strangers"])?;
    let strangers = told["strangers"].as_array().map_or(&[][..], Vec::as_slice);
    ensure!(strangers.len() == 1, "{told}");
    let stranger = &strangers[0];
    // Five kinds by each of the modes that look, of which three drop.
    ensure!(stranger["source"] == STRANGER.to_string(), "{told}");
    ensure!(
        stranger["packets"] == 25 && stranger["dropped"] == 15,
        "{told}"
    );
    ensure!(stranger["interface"] == "eth0", "{told}");
    let text = agent.ctl_text(&["strangers"])?;
    ensure!(
        text.contains(&STRANGER.to_string()) && text.contains("unknown_vtep"),
        "{text}"
    );
    Ok(())
}
