//! What the guard is worth: packets that it drops in a second beside rules of nftables that drop
//! the same, and what a flow keeps that goes on beside a flood. A run of its own.

mod drops;
mod flood;
mod flow;
mod table;
mod way;

use anyhow::Result;
use serde::{Deserialize, Serialize};

pub use self::drops::{Beside, Drops};
pub use self::flow::{Flow, Stance};
pub use self::table::text;
pub use self::way::Way;

use crate::machine::Machine;
use crate::programs::Object;
use crate::report::SCHEMA;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The BPF object.
    pub object: Object,
    /// How often everything is measured.
    pub rounds: u32,
    /// Frames that each way of dropping has to drop in a round.
    pub frames: u32,
}

/// What a run of `--guard` found.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct GuardReport {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What it ran on.
    pub machine: Machine,
    /// How often everything was measured.
    pub rounds: u32,
    /// Frames that each way had to drop in a round.
    pub frames: u32,
    /// What each way drops in a second.
    pub drops: Vec<Drops>,
    /// The guard beside the rules.
    pub beside: Vec<Beside>,
    /// A flow beside a flood.
    pub flows: Vec<Flow>,
}

impl GuardReport {
    /// Whether all of it could be measured.
    pub fn is_complete(&self) -> bool {
        self.drops.iter().all(|drops| drops.problem.is_none())
            && self.flows.iter().all(|flow| flow.problem.is_none())
    }
}

/// Makes the run.
pub fn run(plan: &Plan) -> Result<GuardReport> {
    let drops = drops::run(&plan.object, plan.rounds, plan.frames)?;
    Ok(GuardReport {
        schema: SCHEMA,
        machine: Machine::here(None)?,
        rounds: plan.rounds,
        frames: plan.frames,
        beside: drops::beside(&drops),
        drops,
        flows: flow::run(plan.rounds)?,
    })
}
