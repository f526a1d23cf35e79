//! What the next start is told of this one's lease, in case that there is no store then.

use std::path::PathBuf;
use std::time::SystemTime;

use tracing::warn;
use twill_core::chain::chain;
use twill_core::lease::Lease;

use crate::args::AgentArgs;
use crate::complaint::Complaint;
use crate::files::last_lease::{self, LastLease};

/// The file, and what it says.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    store: String,
    config: String,
    written: Option<LastLease>,
    /// Why it could not be written.
    unwritten: Complaint,
}

impl Memory {
    /// Of an agent with a lease store at this address.
    pub(super) fn new(args: &AgentArgs, store: &str) -> Self {
        Self {
            path: args.lease_file(),
            store: store.to_owned(),
            config: String::new(),
            written: None,
            unwritten: Complaint::default(),
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
    /// nothing fails but a start without the store: that is said once, and tried at each pass.
    pub(super) fn keep(&mut self, lease: Lease, until: Option<SystemTime>) {
        let mut last = LastLease {
            store: self.store.clone(),
            config: self.config.clone(),
            // It counts down; `until` does not.
            lease: Lease {
                ttl_seconds: None,
                ..lease
            },
            until: until.map(last_lease::seconds),
            since: last_lease::seconds(SystemTime::now()),
        };
        if let Some(written) = &self.written {
            let now = std::mem::replace(&mut last.since, written.since);
            if *written == last {
                return;
            }
            last.since = now;
        }
        match last_lease::write(&self.path, &last) {
            Ok(()) => {
                self.written = Some(last);
                self.unwritten.is_over();
            }
            // The next pass tries again.
            Err(error) => self.say(&chain(&error)),
        }
    }

    /// Says an error that was not said last.
    fn say(&mut self, error: &str) {
        if self.unwritten.is_news(error) {
            warn!(
                error,
                "the lease cannot be kept for a start without the lease store; trying again"
            );
        }
    }

    /// The lease is another node's: the next start does without one.
    pub(super) fn forget(&mut self) {
        self.written = None;
        if let Err(error) = last_lease::remove(&self.path) {
            warn!(error = %chain(&error), "a lease that is lost is still kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_could_not_be_written_is_written_when_it_can_be() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("default");
        let mut memory = Memory {
            path: folder.join("lease.json"),
            store: "etcd".to_owned(),
            config: "{}".to_owned(),
            written: None,
            unwritten: Complaint::default(),
        };
        let text = r#"{"subnet":"10.244.3.0/24","attrs":{"PublicIP":"192.0.2.3"}}"#;
        let lease: Lease = serde_json::from_str(text).unwrap();
        // A file where the folder is to be.
        fs::write(&folder, "").unwrap();
        memory.keep(lease.clone(), None);
        assert_eq!(memory.last(), None);
        fs::remove_file(&folder).unwrap();
        memory.keep(lease.clone(), None);
        assert_eq!(memory.last().map(|last| last.lease), Some(lease.clone()));
        assert!(!memory.unwritten.is_over());
        // What is there is not written again.
        fs::remove_file(&memory.path).unwrap();
        memory.keep(lease, None);
        assert_eq!(memory.last(), None);
    }
}
