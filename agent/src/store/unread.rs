//! Leases that could not be read, each said of once.

use std::collections::BTreeSet;

use tracing::warn;
use twill_core::subnet::Subnet;

/// How many are remembered: whoever writes rubbish fills no log.
const UNREAD: usize = 256;

/// A lease that could not be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct UnreadLease {
    /// Its subnet, if at least that could be read.
    pub(super) subnet: Option<Subnet>,
    /// The beginning of it.
    pub(super) value: String,
    /// What is wrong.
    pub(super) why: String,
}

/// What was said.
#[derive(Debug, Default)]
pub(super) struct Unread(BTreeSet<String>);

impl Unread {
    /// Says that a lease cannot be read, unless that was said before.
    pub(super) fn tell(&mut self, lease: &UnreadLease) {
        let UnreadLease { subnet, value, why } = lease;
        let subnet = subnet.map(|subnet| subnet.to_string());
        let news = self.0.len() < UNREAD && self.0.insert(format!("{subnet:?} {value} {why}"));
        if news {
            warn!(
                subnet,
                value,
                why,
                "a lease cannot be read; this one stays as it was, the others are taken"
            );
        }
    }
}
