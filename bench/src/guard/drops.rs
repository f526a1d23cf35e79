//! Packets dropped in a second, by the guard and by rules that drop the same.

use std::time::Instant;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use twill_testbed::command;
use twill_testbed::netns::Namespace;
use twill_testbed::wait::check_interrupt;

use super::flood::{Flood, Hole};
use super::way::{self, INTERFACE, Way};
use crate::programs::branch::from_nobody;
use crate::programs::lab::{Devices, Lab};
use crate::programs::{Object, Scene};
use crate::progress::Progress;
use crate::stats::{Interval, SplitMix, Spread, float};

/// Leases of other nodes: a cluster of some size.
const SCENE: Scene = Scene {
    leases: 1000,
    permits: 0,
};
/// Of the frames that are sent, at least so many must have met who is to drop them.
const MET: f64 = 0.98;
/// The other end of the interface.
const WIRE: &str = "wire";
/// Seconds to nanoseconds.
const NANOS: f64 = 1e9;

/// What one way of dropping came to.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Drops {
    /// The way.
    pub way: Way,
    /// Packets in a second, round by round.
    pub rounds: Vec<f64>,
    /// The same, together.
    pub per_second: Option<Spread>,
    /// Nanoseconds a packet, more than [`Way::Hole`] takes in the same round.
    pub more_ns: Option<Interval>,
    /// What did not go as meant.
    pub problem: Option<String>,
}

/// How many times as many packets one way drops as another.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Beside {
    /// The one.
    pub way: Way,
    /// The other.
    pub against: Way,
    /// The ratio, within each round.
    pub ratio: Interval,
}

/// Measures in turns: every way once in each round, in an order of the round's own.
pub(super) fn run(object: &Object, rounds: u32, frames: u32) -> Result<Vec<Drops>> {
    let namespace = Namespace::new("flood")?;
    // On one thread inside: the kernel looks for devices where the caller is.
    namespace.enter(|| measure(object, rounds, frames))?
}

fn measure(object: &Object, rounds: u32, frames: u32) -> Result<Vec<Drops>> {
    let devices = Devices::make()?;
    // With GRO a veth has NAPI without an XDP program, too: what redirected frames need.
    for name in [INTERFACE, WIRE] {
        let words = ["ethtool", "-K", name, "gro", "on"];
        command::run(&mut command::command(&words)?)?;
    }
    stay_here()?;
    let mut lab = Lab::open(&object.bytes, SCENE, devices)?;
    let wire = if_nametoindex(WIRE).context("index of the wire")?;
    let stranger = from_nobody();
    let mut flood = Flood::through(wire, stranger)?;
    let mut hole = Hole::new()?;
    let mut all: Vec<_> = Way::ALL.into_iter().map(Drops::none).collect();
    let mut random = SplitMix::new(1);
    let mut progress = Progress::new(rounds);
    for round in 0..rounds {
        progress.step(&format!("drops: round {} of {rounds}", round + 1));
        let mut order: Vec<_> = (0..all.len()).collect();
        random.shuffle(&mut order);
        for place in order {
            check_interrupt()?;
            let Some(drops) = all.get_mut(place) else {
                continue;
            };
            match once(drops.way, &mut lab, &mut hole, &mut flood, frames) {
                Ok(rate) => drops.rounds.push(rate),
                Err(error) => drops.problem = Some(format!("{error:#}")),
            }
        }
    }
    drop(progress);
    Ok(conclude(all))
}

/// Packets that were dropped in a second.
fn once(way: Way, lab: &mut Lab, hole: &mut Hole, flood: &mut Flood, frames: u32) -> Result<f64> {
    lab.prepare_guard()?;
    way::during(way, lab, hole, |lab| {
        // Caches, and what was attached before may take a moment to go.
        flood.send(frames / 10)?;
        let before = way::dropped(way, lab)?;
        let began = Instant::now();
        flood.send(frames)?;
        let took = began.elapsed();
        let dropped = match (way::dropped(way, lab)?, before) {
            (Some(now), Some(before)) => now.saturating_sub(before),
            // Whoever drops everything has nothing to count.
            _ => frames.into(),
        };
        let (dropped, sent) = (float(dropped), f64::from(frames));
        anyhow::ensure!(
            dropped >= MET * sent,
            "only {dropped} of {sent} packets were dropped here"
        );
        Ok(dropped / took.as_secs_f64())
    })
}

/// Keeps this thread on one CPU, as a NIC's queue would its packets.
fn stay_here() -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(nix::sched::sched_getcpu()?)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("stay on one CPU")
}

impl Drops {
    fn none(way: Way) -> Self {
        Self {
            way,
            rounds: Vec::new(),
            per_second: None,
            more_ns: None,
            problem: None,
        }
    }
}

/// Medians, and what each takes beside a bare drop. A way that failed in one round gives none.
fn conclude(mut all: Vec<Drops>) -> Vec<Drops> {
    let hole = all.iter().find(|drops| drops.way == Way::Hole);
    let least = hole.map_or_else(Vec::new, |drops| drops.rounds.clone());
    for drops in &mut all {
        if drops.problem.is_some() {
            continue;
        }
        drops.per_second = Spread::of(&drops.rounds);
        let rounds = drops.rounds.iter().zip(&least);
        let more: Vec<_> = rounds
            .map(|(rate, least)| NANOS / rate - NANOS / least)
            .collect();
        drops.more_ns = Interval::of(&more).filter(|_| drops.way != Way::Hole);
    }
    all
}

/// The guard in each of its places, held against each of the rules.
pub(super) fn beside(all: &[Drops]) -> Vec<Beside> {
    let rounds = |way: Way| {
        let mut measured = all.iter().filter(|drops| drops.problem.is_none());
        measured.find(|drops| drops.way == way)
    };
    let mut found = Vec::new();
    for way in Way::GUARDS {
        for against in Way::RULES {
            let (Some(one), Some(other)) = (rounds(way), rounds(against)) else {
                continue;
            };
            let ratios = one.rounds.iter().zip(&other.rounds);
            let ratios: Vec<_> = ratios.map(|(one, other)| one / other).collect();
            found.extend(Interval::of(&ratios).map(|ratio| Beside {
                way,
                against,
                ratio,
            }));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drops(way: Way, rounds: &[f64], problem: Option<&str>) -> Drops {
        Drops {
            rounds: rounds.to_vec(),
            problem: problem.map(str::to_owned),
            ..Drops::none(way)
        }
    }

    #[test]
    fn ratios_and_costs_are_of_the_same_round() {
        let all = conclude(vec![
            drops(Way::Hole, &[10e6, 5e6], None),
            drops(Way::GuardNative, &[5e6, 4e6], None),
            drops(Way::NftIngress, &[2.5e6, 2e6], None),
            drops(Way::NftRaw, &[1e6], Some("lost")),
        ]);
        let more = all[1].more_ns.unwrap().median;
        assert!((more - 75.0).abs() < 1e-6, "{more}");
        assert_eq!(all[0].more_ns, None);
        assert_eq!(all[3].per_second, None);
        let found = beside(&all);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!((found[0].ratio.median - 2.0).abs() < 1e-9, "{found:?}");
    }
}
