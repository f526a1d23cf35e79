//! What the next start is told of the store that this one's peers are from: a store that lost its
//! data meanwhile takes no peer away.

use std::time::{Duration, Instant};

use tracing::warn;
use twill_core::chain::chain;
use twill_core::leases::Checkpoint;

use crate::complaint::Complaint;
use crate::files::last_store::LastStore;

/// How old the position in the file may be: it is not worth a write for each of many nodes that
/// come at once.
const STALE: Duration = Duration::from_secs(2);

/// The file, and what was written to it last.
#[derive(Debug)]
pub(super) struct CheckpointFile {
    file: LastStore,
    written: Option<(Checkpoint, Instant)>,
    unwritten: Complaint,
}

impl CheckpointFile {
    pub(super) fn new(file: LastStore) -> Self {
        Self {
            file,
            written: None,
            unwritten: Complaint::default(),
        }
    }

    /// What an earlier start left.
    pub(super) fn read(&self) -> Option<Checkpoint> {
        self.file.read()
    }

    /// Writes a checkpoint: at once where leases were listed or the time changes for which some
    /// are kept, else soon.
    pub(super) fn keep(&mut self, checkpoint: Option<Checkpoint>, listed: bool, now: Instant) {
        let Some(checkpoint) = checkpoint else {
            return;
        };
        let is_written = self.written.as_ref().is_some_and(|(written, at)| {
            let is_fresh = !listed && now.duration_since(*at) < STALE;
            written.kept_until == checkpoint.kept_until
                && (written.position == checkpoint.position || is_fresh)
        });
        if is_written {
            return;
        }
        match self.file.write(&checkpoint) {
            Ok(()) => drop(self.unwritten.is_over()),
            Err(error) => {
                let error = chain(&error);
                if self.unwritten.is_news(&error) {
                    // It costs something only if the store loses its data before the next start.
                    warn!(error, "where the leases are from is not noted");
                }
            }
        }
        self.written = Some((checkpoint, now));
    }
}

#[cfg(test)]
mod tests {
    use twill_core::leases::Position;

    use super::*;

    #[test]
    fn the_next_start_knows_how_far_the_store_had_come() {
        let root = tempfile::tempdir().unwrap();
        let last = LastStore::new(root.path());
        let mut file = CheckpointFile::new(last.clone());
        let start = Instant::now();
        let at = |position: &str, kept_until: Option<u64>| Checkpoint {
            position: Position::new(position),
            kept_until: kept_until.map(Duration::from_secs),
        };
        file.keep(None, true, start);
        assert_eq!(last.read(), None);
        file.keep(Some(at("one@7", None)), true, start);
        assert_eq!(last.read(), Some(at("one@7", None)));
        // Not for every change, but soon.
        file.keep(Some(at("one@8", None)), false, start + STALE / 2);
        assert_eq!(last.read(), Some(at("one@7", None)));
        file.keep(Some(at("one@8", None)), false, start + STALE);
        assert_eq!(last.read(), Some(at("one@8", None)));
        // After a list, and when some are kept, at once.
        file.keep(Some(at("two@1", None)), true, start + STALE);
        assert_eq!(last.read(), Some(at("two@1", None)));
        file.keep(Some(at("two@1", Some(9))), false, start + STALE);
        assert_eq!(file.read(), Some(at("two@1", Some(9))));
    }
}
