//! The node's own lease, as those who keep it and those who watch the store tell each other.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use twill_core::subnet::Subnet;

/// What `keep` and `watch` tell each other about the node's own lease.
#[derive(Debug, Default)]
pub(super) struct OwnLease {
    held: Mutex<Option<Held>>,
    /// Somebody else wrote or removed it, or the store does not have it.
    pub(super) touched: Notify,
}

/// The own subnet, and the last version of its lease that we know, if any: a number that changes
/// with each write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Held {
    subnet: Subnet,
    version: Option<i64>,
}

impl OwnLease {
    /// The lease was written by us, or read as ours, in this version.
    pub(super) fn known(&self, subnet: Subnet, version: i64) {
        *self.lock() = Some(Held {
            subnet,
            version: Some(version),
        });
    }

    /// The last version that is known, of this subnet.
    pub(super) fn version(&self, subnet: Subnet) -> Option<i64> {
        self.lock().filter(|held| held.subnet == subnet)?.version
    }

    /// Versions are of another store from now on, and say nothing of this lease.
    pub(super) fn forget_version(&self) {
        if let Some(held) = &mut *self.lock() {
            held.version = None;
        }
    }

    /// Which subnet it is.
    pub(super) fn subnet(&self) -> Option<Subnet> {
        self.lock().map(|held| held.subnet)
    }

    /// The store has a subnet's lease in this version, or does not have it: tells the keeper, if
    /// it is the own one and that is news. Says whether it is the own one.
    pub(super) fn seen(&self, subnet: Subnet, version: Option<i64>) -> bool {
        let held = self.lock().filter(|held| held.subnet == subnet);
        if held.is_some_and(|held| held.version.is_none() || held.version != version) {
            self.touched.notify_one();
        }
        held.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a kept lease ended.
#[derive(Debug)]
pub enum Ended {
    /// The agent stops. The lease stays, so that the node finds it again.
    Stopped,
    /// The subnet is another node's now. This node must not use it any longer.
    Lost {
        /// The subnet.
        subnet: Subnet,
        /// Why.
        why: String,
    },
}
