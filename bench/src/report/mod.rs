//! What a run found, as data: everything else, from JSON to charts, is made of it.

pub mod chart;
pub mod columns;
pub mod html;
pub mod ratio;
pub mod terminal;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::case::{Case, Shape, Subject, Target, Unit};
use crate::judge::Went;
use crate::load::Percentiles;
use crate::machine::Machine;
use crate::stats::Spread;

pub use self::ratio::Ratio;

/// Changes when the meaning of a field does.
pub const SCHEMA: u32 = 1;

/// One run.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When it began, seconds since 1970 (UTC).
    pub began_unix_s: u64,
    /// How long it took, seconds.
    pub took_s: f64,
    /// What it ran on.
    pub machine: Machine,
    /// How it was run.
    pub settings: Settings,
    /// What was compared.
    pub subjects: Vec<SubjectReport>,
    /// The rounds, with what the machine did besides.
    pub rounds: Vec<Round>,
    /// Every measurement, in the order in which it was made.
    pub samples: Vec<Sample>,
    /// Medians and spread of each subject in each case.
    pub results: Vec<Summary>,
    /// What is compared: medians of the rounds' ratios, with their 95 % intervals.
    pub ratios: Vec<Ratio>,
    /// The same for the percentiles of the time from request to answer: less is better. Their
    /// cases are called `tcp_rr_p50`, `latency_p999` and the like.
    pub latency_ratios: Vec<Ratio>,
    /// The same for the CPU time that a bit or a transaction costs: less is better.
    pub cpu_ratios: Vec<Ratio>,
    /// What did not run as meant.
    pub problems: Vec<Problem>,
}

/// How a run was made.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Settings {
    /// The command line.
    pub command: String,
    /// Rounds that were meant to be.
    pub rounds: u32,
    /// Seconds of traffic before each measurement.
    pub warm_up_s: f64,
    /// Seconds of each measurement.
    pub window_s: f64,
    /// Services beside the one that is measured.
    pub services: u32,
}

/// A subject, as it was found.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SubjectReport {
    /// Which.
    pub subject: Subject,
    /// The wire.
    pub shape: Shape,
    /// Why it could not be measured, if so.
    pub unavailable: Option<String>,
    /// What its agents used, all of the run, a node each.
    pub agents: Vec<AgentUse>,
}

/// What one agent used.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct AgentUse {
    /// CPU time from its start to its node being set up, seconds.
    pub cpu_start_s: f64,
    /// CPU time while the run went on, seconds.
    pub cpu_run_s: f64,
    /// Memory at the end, bytes.
    pub memory_bytes: u64,
    /// The most memory ever, bytes.
    pub memory_peak_bytes: u64,
}

/// One round.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Round {
    /// Its number, from 1; each shape counts anew.
    pub number: u32,
    /// The wire.
    pub shape: Shape,
    /// Share of the CPUs that something else used just before, while nothing was measured.
    pub busy_before: f64,
}

impl Round {
    /// Something else used the CPUs: kept, and shown.
    pub fn is_noisy(&self) -> bool {
        /// Of all CPUs together.
        const QUIET: f64 = 0.05;
        self.busy_before > QUIET
    }
}

/// One measurement.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Sample {
    /// Its round.
    pub round: u32,
    /// The traffic.
    pub case: Case,
    /// The wire.
    pub shape: Shape,
    /// What the client talked to.
    pub target: Target,
    /// Who was measured.
    pub subject: Subject,
    /// The figure; none if there is a problem.
    pub value: Option<f64>,
    /// Its unit.
    pub unit: Unit,
    /// Why there is no figure.
    pub problem: Option<String>,
    /// Times from request to answer, microseconds.
    pub latency_us: Option<Percentiles>,
    /// CPU time of the whole machine: seconds for a Gbit, or for 10,000 of anything else.
    pub cpu_s: Option<f64>,
    /// What was sent, the warm-up's as well.
    pub sent: u64,
    /// What of it was lost.
    pub lost: u64,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// The way which the mode is about, and the share of the packets that took it.
    #[serde(default)]
    pub went: Option<Went>,
    /// Share of the time that other virtual machines had.
    pub stolen: f64,
}

/// Medians and spread.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Summary {
    /// The traffic.
    pub case: Case,
    /// The wire.
    pub shape: Shape,
    /// What the client talked to.
    pub target: Target,
    /// Who was measured.
    pub subject: Subject,
    /// The unit of `value`.
    pub unit: Unit,
    /// The figure.
    pub value: Spread,
    /// Median of the percentiles, microseconds.
    pub latency_us: Option<Percentiles>,
    /// Median CPU time: seconds for a Gbit, or for 10,000 of anything else.
    pub cpu_s: Option<f64>,
    /// The way which the mode is about, and the median share of the packets that took it.
    #[serde(default)]
    pub went: Option<Went>,
    /// Rounds with a figure.
    pub rounds: u32,
}

/// Something that did not run as meant.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Problem {
    /// The traffic; none where it is about the whole subject.
    pub case: Option<Case>,
    /// The wire.
    pub shape: Shape,
    /// What the client talked to.
    pub target: Option<Target>,
    /// Whose.
    pub subject: Subject,
    /// In how many rounds.
    pub rounds: u32,
    /// What, of the first such round.
    pub reason: String,
}

/// Seconds with their fraction.
pub fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
