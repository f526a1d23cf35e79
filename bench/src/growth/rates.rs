//! Traffic between nodes of every size, in turns.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use twill_testbed::wait::check_interrupt;

use super::{Axis, Plan};
use crate::case::{Case, Subject, Unit};
use crate::judge;
use crate::load::{Timing, measure};
use crate::progress::Progress;
use crate::stats::{Interval, SplitMix, Spread, float};
use crate::subject::Lane;

/// One subject of one size in one case.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Rate {
    /// What there is more of.
    pub axis: Axis,
    /// How many.
    pub size: u32,
    /// Who.
    pub subject: Subject,
    /// The traffic.
    pub case: Case,
    /// What is counted.
    pub unit: Unit,
    /// So many a second.
    pub value: Option<Spread>,
    /// CPU time of the whole machine for each of them, nanoseconds.
    pub cpu_ns: Option<Spread>,
    /// The rate beside the smallest size's, round by round.
    pub beside_smallest: Option<Interval>,
    /// Every round's figures, in order; none where a round gave none.
    pub rounds: Vec<Option<Figures>>,
    /// Why there is no figure in some round, or at all.
    pub problem: Option<String>,
}

/// What one round gave.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Figures {
    /// So many a second.
    pub per_second: f64,
    /// CPU time of the whole machine for each of them, nanoseconds.
    pub cpu_ns: f64,
}

impl Rate {
    fn new(axis: Axis, size: u32, subject: Subject, case: Case, problem: Option<String>) -> Self {
        Self {
            axis,
            size,
            subject,
            case,
            unit: case.unit(),
            value: None,
            cpu_ns: None,
            beside_smallest: None,
            rounds: Vec::new(),
            problem,
        }
    }
}

/// Every size and subject side by side.
pub(super) fn run(axis: Axis, plan: &Plan) -> Result<Vec<Rate>> {
    let mut lanes = Vec::new();
    let mut rates = Vec::new();
    let mut progress = Progress::new(0);
    for &size in axis.sizes(&plan.sizes) {
        for &subject in axis.subjects() {
            check_interrupt()?;
            progress.note(&format!("building the nodes of {subject}: {size} {axis}"));
            // What carries flannel's packets is the kernel, whoever filled its tables.
            let lane = Lane::build(subject, axis.setup(size), None);
            check_interrupt()?;
            let problem = lane.as_ref().err().map(|error| format!("{error:#}"));
            if let Some(problem) = &problem {
                progress.note(&format!("{subject}, {size} {axis}: {problem}"));
            }
            let cases = axis.cases().iter();
            rates.extend(cases.map(|&case| Rate::new(axis, size, subject, case, problem.clone())));
            lanes.extend(lane.ok().map(|lane| (size, lane)));
        }
    }
    let steps = u32::try_from(lanes.len() * axis.cases().len())?;
    let mut progress = Progress::new(steps * plan.rounds);
    for round in 1..=plan.rounds {
        let mut order: Vec<_> = lanes.iter().collect();
        for &case in axis.cases() {
            SplitMix::new(round.into()).shuffle(&mut order);
            for (size, lane) in &order {
                check_interrupt()?;
                let subject = lane.subject;
                progress.step(&format!("{case}, {subject} with {size} {axis}"));
                let found = one(axis, case, lane, plan.timing);
                check_interrupt()?;
                let mut places = rates.iter_mut();
                let place = places
                    .find(|rate| (rate.size, rate.subject, rate.case) == (*size, subject, case));
                if let Some(rate) = place {
                    rate.rounds.push(found.as_ref().ok().copied());
                    if let Err(error) = found {
                        rate.problem = Some(format!("{error:#}"));
                    }
                }
            }
        }
    }
    conclude(&mut rates);
    Ok(rates)
}

fn one(axis: Axis, case: Case, lane: &Lane, timing: Timing) -> Result<Figures> {
    let before = lane.carried()?;
    let measured = measure(case.traffic(), lane.ends(axis.target()), timing)?;
    let after = lane.carried()?;
    let carried = after.zip(before).map(|(after, before)| after.since(before));
    let way = judge::way(lane.subject, case, axis.target());
    if let Some(problem) = judge::problem(&measured, way, carried) {
        bail!(problem);
    }
    let done = measured.per_second * measured.window.as_secs_f64();
    let busy_ns = u64::try_from(measured.cpu.busy.as_nanos())?;
    Ok(Figures {
        per_second: measured.per_second,
        cpu_ns: float(busy_ns) / done,
    })
}

fn conclude(rates: &mut [Rate]) {
    let smallest = rates.iter().map(|rate| rate.size).min();
    let smallest: Vec<Rate> = rates
        .iter()
        .filter(|rate| Some(rate.size) == smallest)
        .cloned()
        .collect();
    for rate in rates {
        let figures = || rate.rounds.iter().flatten();
        rate.value = Spread::of(&figures().map(|f| f.per_second).collect::<Vec<_>>());
        rate.cpu_ns = Spread::of(&figures().map(|f| f.cpu_ns).collect::<Vec<_>>());
        let mut others = smallest.iter();
        let same = others.find(|other| (other.subject, other.case) == (rate.subject, rate.case));
        if let Some(same) = same.filter(|same| same.size != rate.size) {
            let pairs = rate.rounds.iter().zip(&same.rounds);
            let ratios: Vec<f64> = pairs
                .filter_map(|(now, least)| {
                    Some(now.as_ref()?.per_second / least.as_ref()?.per_second)
                })
                .collect();
            rate.beside_smallest = Interval::of(&ratios);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(size: u32, rounds: &[Option<f64>]) -> Rate {
        let figures = |&round: &Option<f64>| {
            round.map(|per_second| Figures {
                per_second,
                cpu_ns: 1e9 / per_second,
            })
        };
        Rate {
            rounds: rounds.iter().map(figures).collect(),
            ..Rate::new(Axis::Leases, size, Subject::Kernel, Case::Udp64, None)
        }
    }

    #[test]
    fn sizes_are_held_against_the_smallest_round_by_round() {
        let mut rates = [
            rate(2, &[Some(10.0), Some(20.0), None]),
            rate(10_000, &[Some(9.0), Some(18.0), Some(5.0)]),
        ];
        conclude(&mut rates);
        assert_eq!(rates[0].beside_smallest, None);
        assert!((rates[1].beside_smallest.unwrap().median - 0.9).abs() < 1e-9);
        assert!((rates[1].value.unwrap().median - 9.0).abs() < 1e-9);
        assert!((rates[1].cpu_ns.unwrap().median - 1e9 / 9.0).abs() < 1.0);
    }
}
