//! What an earlier start of the agent left: the peers in the kernel, and the name of the store
//! that they are from.

use tracing::warn;

use twill_core::lease::Lease;

use crate::datapath::chain;
use crate::files::last_store::LastStore;
use crate::store::known::Known;

/// What an earlier start left.
#[derive(Debug)]
pub(super) struct Former {
    last: LastStore,
    peers: Vec<Lease>,
}

impl Former {
    pub(super) fn new(last: LastStore, peers: Vec<Lease>) -> Self {
        Self { last, peers }
    }

    /// What is known by that before the store has said anything.
    pub(super) fn known(&self) -> Known {
        match self.last.read() {
            Some(store) => Known::before(store, self.peers.clone()),
            None => Known::default(),
        }
    }

    /// Notes which store the peers are from, once all of them are from one.
    pub(super) fn note(&self, known: &Known, noted: &mut Option<String>) {
        let Some(store) = known.store() else { return };
        if noted.as_deref() == Some(store) || !known.orphans.is_empty() {
            return;
        }
        if let Err(error) = self.last.write(store) {
            // It costs something only if the store loses its data before the next start.
            warn!(error = %chain(&error), "the store's name is not noted");
        }
        *noted = Some(store.to_owned());
    }
}
