//! What a packet costs in each program, branch by branch, by `BPF_PROG_TEST_RUN`.
//!
//! Every run has a packet of its own: asked to repeat, the kernel runs a program again on
//! the packet that the first run has changed. So each of many system calls times one run,
//! and what is told is the mean of their middle half less that of a program of the same kind
//! which does nothing but ask for the mode. Caches are as warm as a system call leaves them.

pub(crate) mod branch;
mod context;
pub(crate) mod lab;
mod report;
pub(crate) mod scene;
mod table;
mod tables;
mod verifier;

use std::path::Path;

use anyhow::{Context, Result};
use twill_testbed::netns::Namespace;
use twill_testbed::wait::check_interrupt;

pub use self::branch::Branch;
pub use self::report::{BranchCost, Comparison, ProgramsReport};
pub use self::scene::{MOST_LEASES, Scene};
pub use self::table::{beside_stored, text};

use self::lab::{Devices, Lab};
use crate::machine::Machine;
use crate::progress::Progress;
use crate::report::SCHEMA;
use crate::stats::midmean;

/// Runs of one branch in one round.
const RUNS: usize = 1000;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The objects: the one that it is about, and perhaps one from before a change.
    pub objects: Vec<Object>,
    /// What the maps hold.
    pub scenes: Vec<Scene>,
    /// How often everything is measured.
    pub rounds: u32,
    /// Which branches.
    pub branches: Vec<Branch>,
}

/// A BPF object.
#[derive(Clone, Debug)]
pub struct Object {
    /// What it is called in reports.
    pub name: String,
    /// The file's bytes.
    pub bytes: Vec<u8>,
}

impl Object {
    /// Reads one.
    pub fn read(name: &str, path: &Path) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            bytes: std::fs::read(path)
                .with_context(|| format!("read the BPF object {}", path.display()))?,
        })
    }
}

/// The same branch under one object in one scene, and its times.
struct Row {
    object: usize,
    scene: Scene,
    branch: Branch,
    costs_ns: Vec<f64>,
    problem: Option<String>,
}

/// Measures in turns: everything once in each round.
pub fn run(plan: &Plan) -> Result<ProgramsReport> {
    let namespace = Namespace::new("programs")?;
    // On one thread inside: the kernel looks for devices where the caller is.
    namespace.enter(|| measure(plan))?
}

fn measure(plan: &Plan) -> Result<ProgramsReport> {
    let devices = Devices::make()?;
    let mut rows: Vec<Row> = Vec::new();
    for (object, _) in plan.objects.iter().enumerate() {
        for &scene in &plan.scenes {
            rows.extend(plan.branches.iter().map(|&branch| Row {
                object,
                scene,
                branch,
                costs_ns: Vec::new(),
                problem: None,
            }));
        }
    }
    let mut progress = Progress::new(plan.rounds);
    for round in 0..plan.rounds {
        progress.step(&format!("round {} of {}", round + 1, plan.rounds));
        // Loaded anew in each round: where code and maps happen to lie is worth some
        // nanoseconds to a program, and would else be taken for a difference.
        let mut labs = Vec::new();
        for object in &plan.objects {
            for &scene in &plan.scenes {
                check_interrupt()?;
                let lab = Lab::open(&object.bytes, scene, devices)
                    .with_context(|| format!("the object {}, {scene}", object.name))?;
                labs.push(lab);
            }
        }
        // The first is for warm caches and counts for nobody.
        one_round(plan, &mut labs, &mut rows, round > 0)?;
    }
    drop(progress);
    let costs: Vec<_> = rows
        .into_iter()
        .map(|row| report::cost(plan, row))
        .collect();
    Ok(ProgramsReport {
        schema: SCHEMA,
        machine: Machine::here(None)?,
        objects: plan.objects.iter().map(|o| o.name.clone()).collect(),
        rounds: plan.rounds.saturating_sub(1),
        runs: RUNS as u64,
        verifier: verifier::instructions(plan)?,
        growth: report::growth(&costs),
        change: report::change(&costs),
        branches: costs,
    })
}

/// Branch by branch, and within each the labs right after one another.
fn one_round(plan: &Plan, labs: &mut [Lab], rows: &mut [Row], counts: bool) -> Result<()> {
    for (place, &branch) in plan.branches.iter().enumerate() {
        check_interrupt()?;
        for (lab, rows) in labs.iter_mut().zip(rows.chunks_mut(plan.branches.len())) {
            let Some(row) = rows.get_mut(place) else {
                continue;
            };
            let times = lab
                .time(branch.zero(), RUNS / 4)
                .and_then(|zero| Ok((zero, lab.time(branch, RUNS)?)));
            match times {
                Ok((zero, cost)) => {
                    let cost = midmean(&cost).zip(midmean(&zero));
                    if let Some((cost, zero)) = cost.filter(|_| counts) {
                        row.costs_ns.push(cost - zero);
                    }
                }
                Err(error) => row.problem = Some(format!("{error:#}")),
            }
        }
    }
    Ok(())
}
