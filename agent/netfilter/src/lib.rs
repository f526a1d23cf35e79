//! What Twill asks of netfilter: one small table that marks what it has accepted, another one and
//! conntrack settings that let a flow rest while BPF carries it, and flannel's own rules.
//!
//! Nothing else of the host's rule set is read or changed.

#![forbid(unsafe_code)]

mod conntrack;
mod expression;
mod keeper;
mod kube_proxy;
#[cfg(any(test, feature = "fuzzing"))]
pub mod noise;
mod overruled;
mod program;
mod ruleset;
mod table;
mod timeouts;
mod traffic;

pub use conntrack::{Conntrack, ConntrackError};
pub use keeper::{Keeper, Kept, Rules};
pub use kube_proxy::tool_of_kube_proxy;
pub use program::ProgramError;
pub use ruleset::{InForce, TableError};
pub use table::PermitTable;
pub use timeouts::TimeoutTable;
pub use traffic::{IptablesError, Tool, TrafficError, TrafficProof, TrafficRules};
