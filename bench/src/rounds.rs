//! The run: subjects are built, stand side by side, and are measured in turns.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use twill_testbed::wait::{check_interrupt, pass};

use crate::case::{Shape, Unit};
use crate::cpu::{CpuTime, ProcessUse};
use crate::judge::{self, Went};
use crate::load::{Measured, Timing, measure};
use crate::machine::Machine;
use crate::plan::{Plan, Step};
use crate::progress::Progress;
use crate::report::{
    AgentUse, Problem, Report, Round, SCHEMA, Sample, Settings, SubjectReport, ratio, seconds,
};
use crate::subject::{Lane, Programs};
use crate::topology::Setup;

/// How long the machine is watched before each round, with nothing measured.
const WATCH: Duration = Duration::from_millis(250);

/// A lane, and what its agents had used when the run began.
struct Ready {
    lane: Lane,
    used: Vec<ProcessUse>,
}

/// Makes the run that `plan` says. A subject that cannot be had is told in the report; so is
/// a measurement that did not go as meant. Errors are what leaves nothing to report, and an
/// interrupt.
pub fn run(plan: &Plan, programs: Option<&Programs>, command: String) -> Result<Report> {
    let began = Instant::now();
    let mut report = Report {
        schema: SCHEMA,
        began_unix_s: unix_now(),
        took_s: 0.0,
        machine: Machine::here(programs.map(|programs| programs.flanneld.as_path()))?,
        settings: Settings {
            command,
            rounds: plan.rounds,
            warm_up_s: seconds(plan.timing.warm_up),
            window_s: seconds(plan.timing.window),
            services: plan.services,
        },
        subjects: Vec::new(),
        rounds: Vec::new(),
        samples: Vec::new(),
        results: Vec::new(),
        ratios: Vec::new(),
        latency_ratios: Vec::new(),
        cpu_ratios: Vec::new(),
        problems: Vec::new(),
    };
    let a_round = count(plan.steps(1, &plan.subjects).len());
    let shapes = count(plan.shapes.len());
    let mut progress = Progress::new((plan.rounds + 1) * a_round * shapes);
    for (&shape, left) in plan.shapes.iter().zip((1..=shapes).rev()) {
        let until = began + plan.limit * (shapes - left + 1) / shapes;
        run_shape(plan, shape, programs, until, &mut report, &mut progress)?;
    }
    conclude(&mut report);
    report.took_s = seconds(began.elapsed());
    Ok(report)
}

/// Everything on one kind of wire.
fn run_shape(
    plan: &Plan,
    shape: Shape,
    programs: Option<&Programs>,
    until: Instant,
    report: &mut Report,
    progress: &mut Progress,
) -> Result<()> {
    let mut lanes = build(plan, shape, programs, report, progress)?;
    let available: Vec<_> = lanes.iter().map(|ready| ready.lane.subject).collect();
    if available.is_empty() {
        let reasons = report
            .problems
            .iter()
            .map(|problem| problem.reason.as_str());
        bail!(
            "no subject can be measured: {}",
            reasons.collect::<Vec<_>>().join("; ")
        );
    }
    // Caches, neighbours, the scheduler: once around for nobody's figure.
    for step in plan.steps(1, &available) {
        check_interrupt()?;
        progress.step(&format!("warming up: {}", told(step, shape)));
        let timing = Timing {
            warm_up: Duration::ZERO,
            window: plan.timing.warm_up,
        };
        // What fails here fails again below, where it counts.
        drop(measure_step(plan, &lanes, step, timing));
    }
    let mut longest = plan.step_time() * count(plan.steps(1, &available).len());
    for number in 1..=plan.rounds {
        let steps = plan.steps(number, &available);
        if number > 1 && Instant::now() + longest > until {
            let left = (plan.rounds - number + 1) * count(steps.len());
            progress.skip(left);
            progress.note(&format!(
                "shape {shape}: the time is up after {} of {} rounds",
                number - 1,
                plan.rounds
            ));
            break;
        }
        let round_began = Instant::now();
        report.rounds.push(Round {
            number,
            shape,
            busy_before: watch_machine()?,
        });
        for step in steps {
            check_interrupt()?;
            progress.step(&format!(
                "round {number} of {}: {}",
                plan.rounds,
                told(step, shape)
            ));
            let measured = measure_step(plan, &lanes, step, plan.timing);
            // An interrupt is no finding.
            check_interrupt()?;
            report.samples.push(sample(number, shape, step, measured));
        }
        longest = longest.max(round_began.elapsed());
    }
    for Ready { lane, used } in &mut lanes {
        let subject = lane.subject;
        let mut subjects = report.subjects.iter_mut();
        let told = subjects.find(|told| (told.subject, told.shape) == (subject, shape));
        match (agents_since(lane, used), told) {
            (Ok(agents), Some(told)) => told.agents = agents,
            (Ok(_), None) => {}
            (Err(error), _) => report.problems.push(Problem {
                case: None,
                shape,
                target: None,
                subject,
                rounds: plan.rounds,
                reason: format!("an agent did not live to the end: {error:#}"),
            }),
        }
    }
    Ok(())
}

fn build(
    plan: &Plan,
    shape: Shape,
    programs: Option<&Programs>,
    report: &mut Report,
    progress: &mut Progress,
) -> Result<Vec<Ready>> {
    let setup = Setup {
        shape,
        services: plan.services,
        leases: 0,
        permits: 0,
        max_permits: plan.max_permits,
    };
    let mut lanes = Vec::new();
    for &subject in &plan.subjects {
        check_interrupt()?;
        progress.note(&format!("building the nodes of {subject}, shape {shape}"));
        let built = Lane::build(subject, setup, programs).and_then(|mut lane| {
            let used = lane.agents()?;
            Ok(Ready { lane, used })
        });
        check_interrupt()?;
        let unavailable = match built {
            Ok(ready) => {
                lanes.push(ready);
                None
            }
            Err(error) => {
                let reason = format!("{error:#}");
                progress.note(&format!("{subject} cannot be measured: {reason}"));
                report.problems.push(Problem {
                    case: None,
                    shape,
                    target: None,
                    subject,
                    rounds: plan.rounds,
                    reason: reason.clone(),
                });
                Some(reason)
            }
        };
        report.subjects.push(SubjectReport {
            subject,
            shape,
            unavailable,
            agents: Vec::new(),
        });
    }
    Ok(lanes)
}

/// What one measurement gave, with what BPF carried meanwhile.
struct Found {
    measured: Measured,
    went: Option<Went>,
    problem: Option<String>,
}

fn measure_step(plan: &Plan, lanes: &[Ready], step: Step, timing: Timing) -> Result<Found> {
    let mut lanes = lanes.iter().map(|ready| &ready.lane);
    let Some(lane) = lanes.find(|lane| lane.subject == step.subject) else {
        bail!("{} was not built", step.subject);
    };
    let before = lane.carried()?;
    let measured = measure(step.case.traffic(), lane.ends(step.target), timing)?;
    let carried = match (lane.carried()?, before) {
        (Some(after), Some(before)) => Some(after.since(before)),
        _ => None,
    };
    // With less room than a case needs, what goes past the stack is the question.
    let way = match plan.max_permits {
        None => judge::way(step.subject, step.case, step.target),
        Some(_) => None,
    };
    let went = way
        .zip(carried)
        .map(|(way, carried)| judge::went(way, carried));
    Ok(Found {
        problem: judge::problem(&measured, way, carried),
        went,
        measured,
    })
}

fn sample(round: u32, shape: Shape, step: Step, found: Result<Found>) -> Sample {
    let Step {
        case,
        target,
        subject,
    } = step;
    let mut sample = Sample {
        round,
        case,
        shape,
        target,
        subject,
        value: None,
        unit: case.unit(),
        problem: None,
        latency_us: None,
        cpu_s: None,
        sent: 0,
        lost: 0,
        retransmits: 0,
        went: None,
        stolen: 0.0,
    };
    match found {
        Err(error) => sample.problem = Some(format!("{error:#}")),
        Ok(Found {
            measured,
            went,
            problem,
        }) => {
            sample.value = problem.is_none().then_some(measured.per_second);
            sample.problem = problem;
            sample.latency_us = measured.latency;
            sample.cpu_s = Some(cpu_cost(&measured, case.unit()));
            sample.sent = measured.sent;
            sample.lost = measured.lost;
            sample.retransmits = measured.retransmits;
            sample.went = went;
            sample.stolen = measured.cpu.stolen_share();
        }
    }
    sample
}

/// Seconds of CPU time for a Gbit, or for 10,000 of anything else.
fn cpu_cost(measured: &Measured, unit: Unit) -> f64 {
    let amount = match unit {
        Unit::Bits => 1e9,
        Unit::Transactions | Unit::Connections | Unit::Packets => 1e4,
    };
    let done = measured.per_second * measured.window.as_secs_f64() / amount;
    measured.cpu.busy.as_secs_f64() / done
}

/// Medians, ratios and problems of what was measured.
fn conclude(report: &mut Report) {
    let samples = &report.samples;
    report.results = ratio::summaries(samples);
    report.ratios = ratio::ratios(samples);
    report.latency_ratios = ratio::latency_ratios(samples);
    report.cpu_ratios = ratio::cpu_ratios(samples);
    report.problems.extend(ratio::problems(samples));
}

/// Share of the CPUs that is in use while nothing is measured.
fn watch_machine() -> Result<f64> {
    let before = CpuTime::now()?;
    pass(WATCH)?;
    Ok(CpuTime::now()?.since(before).busy_share())
}

fn agents_since(lane: &mut Lane, before: &[ProcessUse]) -> Result<Vec<AgentUse>> {
    let agents = lane.agents()?;
    let both = agents.iter().zip(before);
    Ok(both
        .map(|(now, before)| AgentUse {
            cpu_start_s: seconds(before.cpu),
            cpu_run_s: seconds(now.cpu.saturating_sub(before.cpu)),
            memory_bytes: now.memory_bytes,
            memory_peak_bytes: now.memory_peak_bytes,
        })
        .collect())
}

fn told(step: Step, shape: Shape) -> String {
    let Step {
        case,
        target,
        subject,
    } = step;
    format!("{case}, {shape}, {subject} to the {target}")
}

fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Lists here are short.
fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
