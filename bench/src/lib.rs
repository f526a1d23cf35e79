//! What a packet costs and what an overlay costs, side by side.
//!
//! Everything that is compared is measured in one run, in turns, and everything that was
//! measured is kept. Where something did not run as meant, the report says so instead of
//! giving a figure.

#![forbid(unsafe_code)]

pub mod alone;
pub mod args;
pub mod case;
pub mod cpu;
pub mod crosscheck;
pub mod growth;
pub mod guard;
pub mod judge;
pub mod leases;
pub mod load;
pub mod machine;
mod pinned;
pub mod plan;
pub mod programs;
pub mod progress;
pub mod report;
pub mod rounds;
pub mod stats;
pub mod subject;
pub mod topology;
