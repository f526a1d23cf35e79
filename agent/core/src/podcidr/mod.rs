//! Which Node of Kubernetes gets which `podCIDR`: what `twilld podcidr` decides.
//!
//! Flags and meaning are those of podcidr-controller 1.1.0. Beyond it: both families, several
//! ranges, Nodes that arrive with a `podCIDR` are seen at any time, and what a Node has left is
//! not given out again at once.

mod controller;
mod leader;
mod node;
mod pool;
mod selector;
mod taint;

pub use self::controller::{Controller, Decision, Trouble};
pub use self::leader::{Candidate, LeaseRecord, Move, Times};
pub use self::node::{CidrNode, ReadNodeError};
pub use self::pool::{Pool, PoolError};
pub use self::selector::{ParseSelectorError, Selector};
pub use self::taint::{ParseTaintError, Taint, TaintPattern};
