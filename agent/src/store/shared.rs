//! What every store has, and what the parts of one share.

use tokio::sync::Notify;

use twill_core::subnet::Subnet;

use super::contact::Contacts;
use super::own::OwnLease;

/// What keeper and watcher of a store share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) contacts: Contacts,
    pub(super) own: OwnLease,
    /// Connections that were made before this are from an address that the node had.
    pub(super) moved: Notify,
}

impl Shared {
    /// The store has a subnet's lease in this version, or does not have it.
    pub(super) fn seen(&self, subnet: Subnet, version: Option<i64>) {
        if self.own.seen(subnet, version) {
            self.contacts.lease_seen(version.is_some());
        }
    }
}
