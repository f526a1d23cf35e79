//! What an earlier start of the agent left: the peers in the kernel, and the store that they are
//! from. A store that lost its data since takes no peer away.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use tracing::warn;
use twill_core::lease::Lease;

use super::known::Known;
use crate::complaint::Complaint;
use crate::datapath::chain;
use crate::files::last_store::{LastStore, Noted};

/// How old the revision in a note may be: it is not worth a write for each of many nodes that
/// come at once.
const STALE: Duration = Duration::from_secs(2);

/// What an earlier start left.
#[derive(Debug)]
pub(super) struct Former {
    last: LastStore,
    peers: Vec<Lease>,
}

/// Notes for the next start.
#[derive(Debug)]
pub(super) struct Notes {
    last: LastStore,
    /// What was noted last, and when.
    noted: Option<(Position, Instant)>,
    unwritten: Complaint,
}

/// The store, its revision, and until when peers are kept that it lacks.
#[derive(Debug, Eq, PartialEq)]
struct Position {
    store: String,
    revision: u64,
    kept_until: Option<Instant>,
}

impl Former {
    pub(super) fn new(last: LastStore, peers: Vec<Lease>) -> Self {
        Self { last, peers }
    }

    /// What is known by that before the store has said anything.
    pub(super) fn known(&self) -> Known {
        let Some(noted) = self.last.read() else {
            return Known::default();
        };
        let left = |end| Duration::from_secs(end).saturating_sub(uptime());
        let kept_for = noted.kept_until.map(left);
        Known::before(noted, self.peers.clone(), kept_for, Instant::now())
    }

    /// What this start leaves.
    pub(super) fn notes(&self) -> Notes {
        Notes {
            last: self.last.clone(),
            noted: None,
            unwritten: Complaint::default(),
        }
    }
}

impl Position {
    fn of(known: &Known) -> Option<Self> {
        Some(Self {
            store: known.store()?.to_owned(),
            revision: known.revision(),
            kept_until: known.orphans.values().max().copied(),
        })
    }
}

impl Notes {
    /// When to take the next note, if there is more to note than the last one says.
    pub(super) fn due(&self, known: &Known) -> Option<Instant> {
        let (noted, at) = self.noted.as_ref()?;
        (Position::of(known).as_ref() != Some(noted)).then(|| *at + STALE)
    }

    /// Notes which store the peers are from, how far it has come, and how long those are kept
    /// that it lacks: the next start goes on with that time and does not begin it anew.
    pub(super) fn take(&mut self, known: &Known, now: Instant) {
        let Some(position) = Position::of(known) else {
            return;
        };
        let is_noted = self.noted.as_ref().is_some_and(|(noted, at)| {
            let is_fresh = now.duration_since(*at) < STALE;
            noted.store == position.store
                && noted.kept_until == position.kept_until
                && (noted.revision == position.revision || is_fresh)
        });
        if is_noted {
            return;
        }
        let left = |until: Instant| until.saturating_duration_since(now);
        let kept_until = position
            .kept_until
            .map(|until| uptime().saturating_add(left(until)).as_secs());
        let noting = Noted {
            store: position.store.clone(),
            revision: position.revision,
            kept_until,
        };
        match self.last.write(&noting) {
            Ok(()) => drop(self.unwritten.is_over()),
            Err(error) => {
                let error = chain(&error);
                if self.unwritten.is_news(&error) {
                    // It costs something only if the store loses its data before the next start.
                    warn!(error, "the store's name is not noted");
                }
            }
        }
        self.noted = Some((position, now));
    }
}

/// How long the machine has been up, which no clock that is set changes; where the kernel does not
/// say it, as long as ever, so that nothing is kept for it.
fn uptime() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::known::List;

    fn list(store: &str, revision: u64, subnets: &[&str]) -> List {
        let lease = |subnet: &&str| {
            let text = format!(
                r#"{{"subnet":"{subnet}","attrs":{{"PublicIP":"192.0.2.7","BackendType":"vxlan"}}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        List {
            store: store.to_owned(),
            revision,
            leases: subnets.iter().map(lease).collect(),
            unread: Vec::new(),
        }
    }

    #[test]
    fn the_next_start_knows_store_and_revision() {
        let root = tempfile::tempdir().unwrap();
        let last = LastStore::new(root.path());
        let former = Former::new(last.clone(), Vec::new());
        let (mut known, mut notes) = (former.known(), former.notes());
        let start = Instant::now();
        let read = || last.read().map(|found| (found.store, found.revision));

        notes.take(&known, start);
        assert_eq!(read(), None);
        known.listed(list("one", 7, &["10.244.1.0/24"]), start);
        notes.take(&known, start);
        assert_eq!(read(), Some(("one".to_owned(), 7)));
        assert_eq!(notes.due(&known), None);
        // Not for every change, but soon.
        known.reached(8);
        notes.take(&known, start + STALE / 2);
        assert_eq!(read(), Some(("one".to_owned(), 7)));
        assert_eq!(notes.due(&known), Some(start + STALE));
        notes.take(&known, start + STALE);
        assert_eq!(read(), Some(("one".to_owned(), 8)));
        assert_eq!(notes.due(&known), None);
    }

    /// Its revision grows with every start, and may be what it was before.
    #[test]
    fn a_peer_that_one_start_keeps_is_kept_by_the_next() {
        for emptied in [list("one", 2, &[]), list("two", 2, &[])] {
            let root = tempfile::tempdir().unwrap();
            let last = LastStore::new(root.path());
            let full = list("one", 7, &["10.244.1.0/24"]);
            let peers = full.leases.clone();
            let former = Former::new(last.clone(), Vec::new());
            let (mut known, mut notes) = (former.known(), former.notes());
            let now = Instant::now();
            known.listed(full, now);
            notes.take(&known, now);
            let store = emptied.store.clone();
            assert!(known.listed(emptied, now).replaced);
            notes.take(&known, now);

            let mut next = Former::new(last, peers).known();
            next.listed(list(&store, 1_000, &[]), now);
            assert_eq!(next.leases.len(), 1);
        }
    }
}
