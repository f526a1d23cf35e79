//! Twill's agent: the parts that touch the world, each its own kind.
//!
//! `run` alone knows them all, and `noise` for the tests; they never import one another. What the
//! operator's tool or the CNI plugin needs as well is a crate of its own, named here as a module.

#![forbid(unsafe_code)]

pub mod admin;
pub mod args;
mod complaint;
#[cfg(any(test, feature = "fuzzing"))]
pub mod noise;
mod open_files;
pub mod podcidr;
mod random;
pub mod run;
pub mod serve;
pub mod store;

pub use twill_core::instance;
pub use twill_datapath as datapath;
use twill_datapath::crash;
pub use twill_files as files;
pub use twill_netfilter as netfilter;
pub use twill_netlink as netlink;
