//! What the next start is told of this one's lease, in case that there is no store then.

use std::path::PathBuf;
use std::time::SystemTime;

use tracing::warn;
use twill_core::lease::Lease;

use crate::args::AgentArgs;
use crate::datapath::chain;
use crate::files::last_lease::{self, LastLease};

/// The file, and what it says.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    store: String,
    config: String,
    written: Option<LastLease>,
}

impl Memory {
    /// Of an agent with a lease store at this address.
    pub(super) fn new(args: &AgentArgs, store: &str) -> Self {
        Self {
            path: args.lease_file(),
            store: store.to_owned(),
            config: String::new(),
            written: None,
        }
    }

    /// The lease of an earlier start. A file that cannot be read is no reason not to start.
    pub(super) fn last(&self) -> Option<LastLease> {
        last_lease::read(&self.path).unwrap_or_else(|error| {
            warn!(error = %chain(&error), "the last lease cannot be read");
            None
        })
    }

    /// The store has this network config.
    pub(super) fn set_config(&mut self, text: &str) {
        text.clone_into(&mut self.config);
    }

    /// The node has this lease until then, or until somebody takes it away. Without the file
    /// nothing fails but a start without the store: that is said once.
    pub(super) fn keep(&mut self, lease: Lease, until: Option<SystemTime>) {
        let last = LastLease {
            store: self.store.clone(),
            config: self.config.clone(),
            // It counts down; `until` does not.
            lease: Lease {
                ttl_seconds: None,
                ..lease
            },
            until: until.map(last_lease::seconds),
        };
        if self.written.as_ref() == Some(&last) {
            return;
        }
        if let Err(error) = last_lease::write(&self.path, &last) {
            warn!(
                error = %chain(&error),
                "the lease cannot be kept for a start without the lease store"
            );
        }
        self.written = Some(last);
    }

    /// The lease is another node's: the next start does without one.
    pub(super) fn forget(&mut self) {
        self.written = None;
        if let Err(error) = last_lease::remove(&self.path) {
            warn!(error = %chain(&error), "a lease that is lost is still kept");
        }
    }
}
