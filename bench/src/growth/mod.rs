//! How costs grow: with leases, with permits, with Services. A run of its own.
//!
//! What a packet costs in the programs is measured by program runs, what it costs on the whole
//! way by traffic between nodes of every size that stand side by side, and what a lease costs
//! by the time that an agent takes until the kernel's tables have it.

mod axis;
mod convergence;
mod medians;
mod rates;
mod table;

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use twill_testbed::wait::check_interrupt;

pub use self::axis::{Axis, Sizes};
pub use self::convergence::Convergence;
pub use self::rates::{Figures, Rate};
pub use self::table::{converge_text, text};

use crate::load::Timing;
use crate::machine::Machine;
use crate::programs::{self, Branch, Object, ProgramsReport, Scene};
use crate::progress::Progress;
use crate::report::SCHEMA;
use crate::subject::Programs;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The BPF object.
    pub object: Object,
    /// flanneld and etcd, to hold Twill's agent against.
    pub flannel: Option<Programs>,
    /// Rounds of everything that is measured in rounds.
    pub rounds: u32,
    /// Each measurement of traffic.
    pub timing: Timing,
    /// How many there are of everything.
    pub sizes: Sizes,
}

/// What a run of `--growth` found.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct GrowthReport {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What it ran on.
    pub machine: Machine,
    /// Nanoseconds in the programs.
    pub programs: ProgramsReport,
    /// Traffic between nodes.
    pub rates: Vec<Rate>,
    /// From an agent's start, or a lease's change, to the kernel's tables.
    pub convergence: Vec<Convergence>,
}

impl GrowthReport {
    /// Whether all of it could be measured.
    pub fn is_complete(&self) -> bool {
        let programs = self.programs.branches.iter();
        programs.map(|cost| &cost.problem).all(Option::is_none)
            && self.rates.iter().all(|rate| rate.problem.is_none())
            && self.convergence.iter().all(|one| one.problem.is_none())
    }
}

/// Branches that look something up.
const BRANCHES: &[Branch] = &[
    Branch::ToOverlayFast,
    Branch::ToOverlaySpread,
    Branch::ToOverlayLearn,
    Branch::FromUplinkTrusted,
    Branch::FromUplinkFast,
    Branch::FromUplinkNat,
    Branch::FromPodNoPermit,
    Branch::FromPodFast,
    Branch::FromPodNat,
    Branch::ToPodLearn,
];

/// Measures everything. What cannot be measured is told in the report.
pub fn run(plan: &Plan) -> Result<GrowthReport> {
    let mut progress = Progress::new(0);
    progress.note("what the programs cost with more leases and more permits");
    let programs = programs::run(&programs::Plan {
        objects: vec![plan.object.clone()],
        scenes: scenes(&plan.sizes),
        // The first counts for nobody.
        rounds: plan.rounds + 1,
        branches: BRANCHES.to_vec(),
    })?;
    let mut rates = Vec::new();
    for axis in Axis::ALL {
        check_interrupt()?;
        progress.note(&format!("traffic with more {axis}"));
        rates.append(&mut rates::run(axis, plan)?);
    }
    let mut convergence = Vec::new();
    for &leases in &plan.sizes.converging {
        check_interrupt()?;
        progress.note(&format!("an agent starts with {leases} leases"));
        convergence.push(convergence::of_twill(leases));
        check_interrupt()?;
        if let Some(flannel) = &plan.flannel {
            progress.note(&format!("flanneld starts with {leases} leases"));
            convergence.push(convergence::of_flannel(leases, flannel));
        }
    }
    check_interrupt()?;
    Ok(GrowthReport {
        schema: SCHEMA,
        machine: Machine::here(plan.flannel.as_ref().map(|f| f.flanneld.as_path()))?,
        programs,
        rates,
        convergence,
    })
}

/// What a run of `--converge` found.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ConvergeReport {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What it ran on.
    pub machine: Machine,
    /// From an agent's start, or a lease's change, to the kernel's tables.
    pub convergence: Vec<Convergence>,
}

/// Measures how long agents take that start with so many leases in etcd, and what one more
/// takes: in rounds, each of them in turn.
pub fn converge(
    counts: &[u32],
    rounds: u32,
    etcd: &Path,
    flannel: Option<&Programs>,
) -> Result<ConvergeReport> {
    let mut progress = Progress::new(0);
    let mut convergence = Vec::new();
    let turns = counts
        .iter()
        .flat_map(|leases| (0..rounds).map(move |_| *leases));
    for leases in turns {
        check_interrupt()?;
        progress.note(&format!("twilld starts with {leases} leases in etcd"));
        convergence.push(convergence::of_twill_on_etcd(leases, etcd));
        if let Some(flannel) = flannel {
            check_interrupt()?;
            progress.note(&format!("flanneld starts with {leases} leases in etcd"));
            convergence.push(convergence::of_flannel(leases, flannel));
        }
    }
    check_interrupt()?;
    Ok(ConvergeReport {
        schema: SCHEMA,
        machine: Machine::here(flannel.map(|flannel| flannel.flanneld.as_path()))?,
        convergence,
    })
}

/// More leases, and with the fewest of them more permits. The first is what others are held
/// against.
fn scenes(sizes: &Sizes) -> Vec<Scene> {
    let leases = sizes
        .leases
        .iter()
        .map(|&leases| Scene { leases, permits: 0 });
    let fewest = sizes.leases.first().copied().unwrap_or_default();
    let permits = sizes.permits.iter().map(|&permits| Scene {
        leases: fewest,
        permits,
    });
    leases.chain(permits).collect()
}
