//! The node's own lease, as those who keep it and those who watch the store tell each other.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use twill_core::subnet::Subnet;

/// What `keep` and `watch` tell each other about the node's own lease.
#[derive(Debug, Default)]
pub(super) struct OwnLease {
    subnet: Mutex<Option<Subnet>>,
    /// The store does not have it: it must be claimed again, before somebody else gets it.
    pub(super) missing: Notify,
}

impl OwnLease {
    pub(super) fn set(&self, subnet: Option<Subnet>) {
        *self.subnet.lock().unwrap_or_else(PoisonError::into_inner) = subnet;
    }

    pub(super) fn get(&self) -> Option<Subnet> {
        *self.subnet.lock().unwrap_or_else(PoisonError::into_inner)
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
