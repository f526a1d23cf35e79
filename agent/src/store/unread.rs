//! Leases that could not be read, each said of once.

use std::collections::BTreeSet;

use tracing::warn;

use super::known::UnreadLease;

/// How many are remembered: whoever writes rubbish fills no log.
const UNREAD: usize = 256;

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
