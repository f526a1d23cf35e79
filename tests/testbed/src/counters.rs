//! The programs' counters as `twillctl counters --json` tells them.

use anyhow::{Context, Result};
use serde::Deserialize;

/// What one program counted for one reason.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Count {
    /// The program, as `to_overlay`.
    pub program: String,
    /// The reason, as `fast`.
    pub reason: String,
    /// Packets; a GSO packet is one.
    pub packets: u64,
    /// Bytes, Ethernet header included.
    pub bytes: u64,
}

/// All counters of a node at one time.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Counters {
    counters: Vec<Count>,
}

impl Counters {
    /// Packets that `program` counted for `reason`. A counter that is not told is an error:
    /// zeroes are told.
    pub fn packets(&self, program: &str, reason: &str) -> Result<u64> {
        self.of(program)
            .find(|count| count.reason == reason)
            .map(|count| count.packets)
            .with_context(|| format!("twillctl tells no counter {program}/{reason}"))
    }

    /// The counters of one program.
    pub fn of(&self, program: &str) -> impl Iterator<Item = &Count> {
        self.counters
            .iter()
            .filter(move |count| count.program == program)
    }
}
