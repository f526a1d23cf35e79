//! Twill's agent: the parts that touch the world, each its own kind.
//!
//! `run` alone knows them all, and `noise` for the tests; they never import one another.

#![forbid(unsafe_code)]

pub mod admin;
pub mod args;
mod complaint;
mod crash;
pub mod ctl;
pub mod datapath;
pub mod files;
pub mod instance;
pub mod netfilter;
pub mod netlink;
#[cfg(any(test, feature = "fuzzing"))]
pub mod noise;
mod open_files;
mod random;
pub mod run;
pub mod serve;
pub mod store;
