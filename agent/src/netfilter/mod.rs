//! What Twill asks of netfilter: one small table that marks what it has accepted, and the
//! conntrack settings that let a flow rest while BPF carries it.
//!
//! Nothing else of the host's rule set is read or changed.

mod conntrack;
mod nft;
mod table;

pub use conntrack::{Conntrack, ConntrackError};
pub use nft::NftError;
pub use table::{InForce, PermitTable, TABLE, TableError};
