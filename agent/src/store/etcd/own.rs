//! The node's own lease in etcd, as those who keep it and those who watch etcd know it.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use twill_core::subnet::Subnet;

/// A revision that no key has.
const UNKNOWN: i64 = -1;

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Own {
    held: Mutex<Option<Held>>,
    /// Somebody else wrote or removed its key.
    pub(super) touched: Notify,
}

/// The own subnet, and the last revision of its key that we know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Held {
    subnet: Subnet,
    revision: i64,
}

impl Own {
    /// The key was written by us, or read as ours, at this revision.
    pub(super) fn known(&self, subnet: Subnet, revision: i64) {
        *self.lock() = Some(Held { subnet, revision });
    }

    /// The last revision of the key that is known, of this subnet.
    pub(super) fn revision(&self, subnet: Subnet) -> Option<i64> {
        self.lock()
            .filter(|held| held.subnet == subnet)
            .map(|held| held.revision)
    }

    /// Revisions are of another etcd from now on, and say nothing of this key.
    pub(super) fn forget_revision(&self) {
        if let Some(held) = &mut *self.lock() {
            held.revision = UNKNOWN;
        }
    }

    /// Which subnet it is.
    pub(super) fn subnet(&self) -> Option<Subnet> {
        self.lock().map(|held| held.subnet)
    }

    /// The key is at this revision, 0 if it is gone: tells the keeper, if that is news.
    pub(super) fn seen(&self, subnet: Subnet, revision: i64) {
        let news = self
            .lock()
            .is_some_and(|held| held.subnet == subnet && held.revision != revision);
        if news {
            self.touched.notify_one();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
