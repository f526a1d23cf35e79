//! What Twill asks of netfilter: one small table that marks what it has accepted, the conntrack
//! settings that let a flow rest while BPF carries it, and flannel's masquerading on request.
//!
//! Nothing else of the host's rule set is read or changed.

mod conntrack;
mod expression;
mod keeper;
mod masquerade;
mod nft;
mod ruleset;
mod table;

pub use conntrack::{Conntrack, ConntrackError};
pub use keeper::{Keeper, Kept, Rules};
pub use masquerade::MasqueradeTable;
pub use nft::NftError;
pub use ruleset::{InForce, TableError};
pub use table::{PermitTable, TABLE};
