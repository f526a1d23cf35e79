//! From samples to medians, ratios and problems: pure, and the heart of what is told.

use serde::{Deserialize, Serialize};

use super::{Problem, Sample, Summary};
use crate::case::{Case, Shape, Subject, Target};
use crate::judge::Went;
use crate::load::Percentiles;
use crate::stats::{Interval, Spread, median};

/// A subject beside another, in one case.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Ratio {
    /// The traffic; with `_p50`, `_p99` or `_p999` behind it where it is about latency.
    pub case: String,
    /// The wire.
    pub shape: Shape,
    /// What the client talked to.
    pub target: Target,
    /// Who.
    pub mode: Subject,
    /// Beside whom.
    pub against: Subject,
    /// The median of the rounds' ratios.
    pub median: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Whether the interval includes 1.
    pub no_difference: bool,
    /// How many rounds it is of.
    pub rounds: u32,
}

/// What is taken from a sample to be compared.
#[derive(Clone, Copy, Debug)]
struct Figure {
    /// Added to the name of the case; empty for the case's own figure.
    suffix: &'static str,
    of: fn(&Sample) -> Option<f64>,
}

const VALUE: Figure = Figure {
    suffix: "",
    of: |sample| sample.value,
};
const CPU: Figure = Figure {
    suffix: "",
    of: |sample| sample.value.and(sample.cpu_s),
};
const PERCENTILES: [Figure; 3] = [
    Figure {
        suffix: "_p50",
        of: |sample| percentile(sample, |times| times.p50),
    },
    Figure {
        suffix: "_p99",
        of: |sample| percentile(sample, |times| times.p99),
    },
    Figure {
        suffix: "_p999",
        of: |sample| percentile(sample, |times| times.p999),
    },
];

fn percentile(sample: &Sample, pick: fn(Percentiles) -> f64) -> Option<f64> {
    sample.value.and(sample.latency_us).map(pick)
}

/// What one ratio or summary is about.
type Place = (Case, Shape, Target, Subject);

const fn place(sample: &Sample) -> Place {
    (sample.case, sample.shape, sample.target, sample.subject)
}

/// Every place that was measured, in the order of reports.
fn places(samples: &[Sample]) -> Vec<Place> {
    let mut places: Vec<_> = samples.iter().map(place).collect();
    places.sort_unstable_by_key(|&(case, shape, target, subject)| (shape, case, target, subject));
    places.dedup();
    places
}

/// Medians and spread of everything that has a figure.
pub fn summaries(samples: &[Sample]) -> Vec<Summary> {
    let one = |at: Place| {
        let of_place = || samples.iter().filter(|sample| place(sample) == at);
        let all =
            |pick: fn(&Sample) -> Option<f64>| of_place().filter_map(pick).collect::<Vec<_>>();
        let values = all(VALUE.of);
        let [p50, p99, p999] = PERCENTILES.map(|figure| median(&all(figure.of)));
        let timed = of_place().filter_map(|sample| sample.latency_us);
        let timed = timed.map(|times| times.timed).sum();
        let (case, shape, target, subject) = at;
        Some(Summary {
            case,
            shape,
            target,
            subject,
            unit: case.unit(),
            value: Spread::of(&values)?,
            latency_us: match (p50, p99, p999) {
                (Some(p50), Some(p99), Some(p999)) => Some(Percentiles {
                    p50,
                    p99,
                    p999,
                    timed,
                }),
                _ => None,
            },
            cpu_s: median(&all(CPU.of)),
            went: went(of_place()),
            rounds: u32::try_from(values.len()).ok()?,
        })
    };
    places(samples).into_iter().filter_map(one).collect()
}

/// Every subject beside the references, by the cases' figures.
pub fn ratios(samples: &[Sample]) -> Vec<Ratio> {
    // That case is about percentiles; how many of its transactions fit beside a stream is not.
    let wanted = |&(case, ..): &Place| case != Case::Latency;
    let places = places(samples).into_iter().filter(wanted);
    places
        .flat_map(|at| against_all(samples, at, VALUE))
        .collect()
}

/// The same by the time from request to answer.
pub fn latency_ratios(samples: &[Sample]) -> Vec<Ratio> {
    let places = places(samples).into_iter();
    let pairs = places.flat_map(|at| PERCENTILES.map(|figure| (at, figure)));
    pairs
        .flat_map(|(at, figure)| against_all(samples, at, figure))
        .collect()
}

/// The same by CPU time.
pub fn cpu_ratios(samples: &[Sample]) -> Vec<Ratio> {
    let places = places(samples).into_iter();
    places
        .flat_map(|at| against_all(samples, at, CPU))
        .collect()
}

fn against_all(samples: &[Sample], at: Place, figure: Figure) -> Vec<Ratio> {
    let (_, _, _, subject) = at;
    let references = Subject::REFERENCES.iter().copied();
    references
        .filter(|&reference| reference < subject)
        .filter_map(|reference| ratio(samples, at, reference, figure))
        .collect()
}

/// None where too few rounds have both figures: half of a comparison is no comparison.
fn ratio(samples: &[Sample], at: Place, against: Subject, figure: Figure) -> Option<Ratio> {
    let (case, shape, target, mode) = at;
    let of_shape = samples.iter().filter(|sample| sample.shape == shape);
    let rounds = of_shape.map(|sample| sample.round).max()?;
    // The nodes' own network knows no Service: one figure is the limit of both targets.
    let other_target = if against.is_overlay() {
        target
    } else {
        Target::Pod
    };
    let other = (case, shape, other_target, against);
    let find = |at: Place, round: u32| {
        let mut of_round = samples.iter().filter(|sample| sample.round == round);
        of_round
            .find(|sample| place(sample) == at)
            .and_then(figure.of)
            .filter(|value| *value > 0.0)
    };
    let pairs = (1..=rounds).filter_map(|round| Some(find(at, round)? / find(other, round)?));
    let ratios: Vec<f64> = pairs.collect();
    let count = u32::try_from(ratios.len()).ok()?;
    if count * 2 <= rounds {
        return None;
    }
    let interval = Interval::of(&ratios)?;
    let Interval { median, low, high } = interval;
    Some(Ratio {
        case: format!("{case}{}", figure.suffix),
        shape,
        target,
        mode,
        against,
        median,
        low,
        high,
        no_difference: interval.is_no_difference(),
        rounds: count,
    })
}

/// What did not run as meant, once for each place.
pub fn problems(samples: &[Sample]) -> Vec<Problem> {
    let one = |at: Place| {
        let (case, shape, target, subject) = at;
        let of_place = samples.iter().filter(|sample| place(sample) == at);
        let mut reasons = of_place.filter_map(|sample| sample.problem.as_ref());
        let reason = reasons.next()?.clone();
        Some(Problem {
            case: Some(case),
            shape,
            target: Some(target),
            subject,
            rounds: u32::try_from(1 + reasons.count()).ok()?,
            reason,
        })
    };
    places(samples).into_iter().filter_map(one).collect()
}

/// The way of one place's samples, and the median of their shares.
fn went<'a>(samples: impl Iterator<Item = &'a Sample>) -> Option<Went> {
    let measured = samples.filter(|sample| sample.value.is_some());
    let went: Vec<Went> = measured.filter_map(|sample| sample.went).collect();
    let shares: Vec<f64> = went.iter().map(|went| went.share).collect();
    Some(Went {
        way: went.first()?.way,
        share: median(&shares)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: u32, subject: Subject, target: Target, value: Option<f64>) -> Sample {
        Sample {
            round,
            case: Case::TcpRr,
            shape: Shape::Gso,
            target,
            subject,
            value,
            unit: Case::TcpRr.unit(),
            problem: value.is_none().then(|| "packets lost: 3 of 4".to_owned()),
            latency_us: None,
            cpu_s: value.map(|value| 1.0 / value),
            sent: 10,
            lost: 0,
            retransmits: 0,
            went: None,
            stolen: 0.0,
        }
    }

    fn rounds(values: &[(f64, f64, Option<f64>)]) -> Vec<Sample> {
        (1..)
            .zip(values)
            .flat_map(|(round, &(host, kernel, permit))| {
                [
                    sample(round, Subject::Host, Target::Pod, Some(host)),
                    sample(round, Subject::Kernel, Target::Service, Some(kernel)),
                    sample(round, Subject::Permit, Target::Service, permit),
                ]
            })
            .collect()
    }

    /// The machine slows down from round to round, the ratio stays: that is the point.
    #[test]
    fn ratios_are_of_one_round_and_a_service_is_held_against_the_host_too() {
        let samples = rounds(&[
            (200.0, 100.0, Some(150.0)),
            (100.0, 50.0, Some(75.0)),
            (20.0, 10.0, Some(15.0)),
        ]);
        let found = ratios(&samples);
        let permit: Vec<_> = found
            .iter()
            .filter(|ratio| ratio.mode == Subject::Permit)
            .map(|ratio| (ratio.against, ratio.median, ratio.low, ratio.no_difference))
            .collect();
        assert_eq!(
            permit,
            [
                (Subject::Host, 0.75, 0.75, false),
                (Subject::Kernel, 1.5, 1.5, false)
            ]
        );
        let cpu = cpu_ratios(&samples);
        let kernel = cpu.iter().find(|ratio| ratio.mode == Subject::Kernel);
        assert!((kernel.unwrap().median - 2.0).abs() < 1e-9);
    }

    #[test]
    fn the_document_has_the_keys_that_scripts_look_for() {
        let samples = rounds(&[(2.0, 1.0, Some(1.0)); 3]);
        let found = serde_json::to_value(&ratios(&samples)[1]).unwrap();
        for (key, value) in [
            ("case", "tcp_rr"),
            ("shape", "gso"),
            ("target", "service"),
            ("mode", "permit"),
            ("against", "host"),
        ] {
            assert_eq!(found[key], value, "{found}");
        }
        for key in ["median", "low", "high"] {
            assert!(found[key].is_number(), "{found}");
        }
    }

    #[test]
    fn half_of_the_rounds_are_no_ratio_but_a_problem() {
        let samples = rounds(&[(2.0, 1.0, Some(1.0)), (2.0, 1.0, None)]);
        assert!(ratios(&samples).iter().all(|r| r.mode != Subject::Permit));
        let found = problems(&samples);
        let [problem] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!((problem.subject, problem.rounds), (Subject::Permit, 1));
        assert!(problem.reason.contains("3 of 4"));
        // Two rounds of three are told, with their number.
        let samples = rounds(&[
            (2.0, 1.0, Some(1.0)),
            (2.0, 1.0, None),
            (2.0, 1.0, Some(1.1)),
        ]);
        let found = ratios(&samples);
        let permit = found.iter().find(|r| r.mode == Subject::Permit).unwrap();
        assert_eq!(permit.rounds, 2);
    }

    #[test]
    fn latency_is_compared_by_its_percentiles() {
        let mut samples = rounds(&[(2.0, 1.0, Some(1.0)); 3]);
        for sample in &mut samples {
            sample.case = Case::Latency;
            let factor = if sample.subject == Subject::Host {
                1.0
            } else {
                2.0
            };
            sample.latency_us = Some(Percentiles {
                p50: 50.0 * factor,
                p99: 90.0,
                p999: 99.0,
                timed: 1000,
            });
        }
        assert_eq!(ratios(&samples), []);
        let found = latency_ratios(&samples);
        let of_permit: Vec<_> = found
            .iter()
            .filter(|r| (r.mode, r.against) == (Subject::Permit, Subject::Host))
            .map(|r| (r.case.as_str(), r.median))
            .collect();
        assert_eq!(
            of_permit,
            [
                ("latency_p50", 2.0),
                ("latency_p99", 1.0),
                ("latency_p999", 1.0)
            ]
        );
    }
}
