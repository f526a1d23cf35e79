//! What readers see: the leases that are on the disk, and the latest changes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Serialize;
use tokio::sync::watch;

use twill_core::subnet::Subnet;

use super::clock::Timestamp;
use super::record::{Change, LeaseView, Record};

/// How many changes are kept for watchers that come back.
pub(super) const HISTORY: usize = 16_384;

/// How many changes a watcher gets at once.
const CHUNK: usize = 512;

/// How long one answer serves everybody who lists, if nothing changed: when a hundred
/// agents start together, the list is written once.
const LIST_AGE: Duration = Duration::from_secs(1);

/// The leases and the latest changes. The writer publishes, everybody reads.
#[derive(Debug)]
pub(super) struct View {
    store: String,
    state: RwLock<State>,
    list: Mutex<Option<CachedList>>,
    latest: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    revision: u64,
    leases: BTreeMap<Subnet, Arc<Record>>,
    /// One line each; the last is that of `revision`, the one before of the revision before.
    history: VecDeque<Bytes>,
}

#[derive(Debug)]
struct CachedList {
    revision: u64,
    written: Instant,
    text: Bytes,
}

/// Why there is nothing to go on from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Gone {
    /// The changes after this revision are no longer kept.
    TooOld,
    /// This store never had that revision.
    Future,
}

/// The changes after a revision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Changes {
    /// One JSON object per line; empty if there is nothing new.
    pub(super) lines: Bytes,
    /// The revision of the last line.
    pub(super) revision: u64,
}

#[derive(Serialize)]
struct List<'a> {
    store: &'a str,
    revision: u64,
    leases: Vec<LeaseView<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Added { revision: u64, lease: LeaseView<'a> },
    Removed { revision: u64, subnet: Subnet },
}

impl View {
    /// What was on the disk at start.
    pub(super) fn new(
        store: String,
        revision: u64,
        records: impl Iterator<Item = Arc<Record>>,
    ) -> Self {
        Self {
            store,
            state: RwLock::new(State {
                revision,
                leases: records.map(|record| (record.subnet, record)).collect(),
                history: VecDeque::new(),
            }),
            list: Mutex::new(None),
            latest: watch::Sender::new(revision),
        }
    }

    /// The store's name.
    pub(super) fn store(&self) -> &str {
        &self.store
    }

    /// Tells when the revision changes.
    pub(super) fn latest(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    /// Makes committed changes visible.
    pub(super) fn publish(
        &self,
        changes: &[Change],
        now: Timestamp,
    ) -> Result<(), serde_json::Error> {
        let lines = changes
            .iter()
            .filter_map(|change| line(change, now).transpose())
            .collect::<Result<Vec<_>, _>>()?;
        let revision = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            for change in changes {
                match change {
                    Change::Added { record, .. } | Change::Renewed(record) => {
                        state.leases.insert(record.subnet, Arc::clone(record));
                    }
                    Change::Removed { subnet, .. } => {
                        state.leases.remove(subnet);
                    }
                }
            }
            for (revision, line) in lines {
                state.revision = revision;
                state.history.push_back(line);
            }
            let surplus = state.history.len().saturating_sub(HISTORY);
            state.history.drain(..surplus);
            state.revision
        };
        self.latest.send_if_modified(|latest| {
            let newer = *latest != revision;
            *latest = revision;
            newer
        });
        Ok(())
    }

    /// Every lease, and the revision that they are of.
    pub(super) fn leases(&self) -> (u64, Vec<Arc<Record>>) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        (state.revision, state.leases.values().cloned().collect())
    }

    /// The answer to a list: `{"store":…,"revision":…,"leases":[…]}`.
    pub(super) fn list(&self, now: Timestamp) -> Result<Bytes, serde_json::Error> {
        // Held while the list is written, so that it is written once for all who wait.
        let mut cached = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let (revision, records) = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(list) = cached.as_ref()
                && list.revision == state.revision
                && list.written.elapsed() < LIST_AGE
            {
                return Ok(list.text.clone());
            }
            let records: Vec<Arc<Record>> = state.leases.values().cloned().collect();
            (state.revision, records)
        };
        let list = List {
            store: &self.store,
            revision,
            leases: records.iter().map(|record| record.view(now)).collect(),
        };
        let text = Bytes::from(serde_json::to_vec(&list)?);
        *cached = Some(CachedList {
            revision,
            written: Instant::now(),
            text: text.clone(),
        });
        Ok(text)
    }

    /// The next changes after this revision, some hundred at a time.
    pub(super) fn since(&self, revision: u64) -> Result<Changes, Gone> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let behind = state.revision.checked_sub(revision).ok_or(Gone::Future)?;
        let Ok(behind) = usize::try_from(behind) else {
            return Err(Gone::TooOld);
        };
        let first = state
            .history
            .len()
            .checked_sub(behind)
            .ok_or(Gone::TooOld)?;
        let mut lines = BytesMut::new();
        let mut reached = revision;
        for line in state.history.iter().skip(first).take(CHUNK) {
            lines.put_slice(line);
            reached += 1;
        }
        Ok(Changes {
            lines: lines.freeze(),
            revision: reached,
        })
    }
}

fn line(change: &Change, now: Timestamp) -> Result<Option<(u64, Bytes)>, serde_json::Error> {
    let (revision, line) = match change {
        Change::Added { revision, record } => (
            *revision,
            Line::Added {
                revision: *revision,
                lease: record.view(now),
            },
        ),
        Change::Removed { revision, subnet } => (
            *revision,
            Line::Removed {
                revision: *revision,
                subnet: *subnet,
            },
        ),
        Change::Renewed(_) => return Ok(None),
    };
    let mut text = serde_json::to_vec(&line)?;
    text.push(b'\n');
    Ok(Some((revision, Bytes::from(text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removal(revision: u64) -> Change {
        Change::Removed {
            revision,
            subnet: "10.244.1.0/24".parse().unwrap(),
        }
    }

    fn view(from: u64, to: u64) -> View {
        let view = View::new("s".to_owned(), from, std::iter::empty());
        let changes: Vec<Change> = (from + 1..=to).map(removal).collect();
        view.publish(&changes, Timestamp(0)).unwrap();
        view
    }

    #[test]
    fn a_watcher_goes_on_from_where_it_was() {
        let view = view(5, 8);
        let text = |revision: u64| {
            format!(
                "{{\"type\":\"removed\",\"revision\":{revision},\"subnet\":\"10.244.1.0/24\"}}\n"
            )
        };
        let after = |revision| view.since(revision);
        assert_eq!(
            after(6),
            Ok(Changes {
                lines: Bytes::from(text(7) + &text(8)),
                revision: 8
            })
        );
        assert_eq!(
            after(8),
            Ok(Changes {
                lines: Bytes::new(),
                revision: 8
            })
        );
        assert_eq!(after(5).map(|changes| changes.revision), Ok(8));
    }

    #[test]
    fn a_revision_that_is_not_kept_is_gone() {
        let view = view(5, 8);
        assert_eq!(view.since(4), Err(Gone::TooOld));
        assert_eq!(view.since(0), Err(Gone::TooOld));
        assert_eq!(view.since(9), Err(Gone::Future));
        assert_eq!(view.since(u64::MAX), Err(Gone::Future));
    }

    #[test]
    fn the_history_is_bounded_and_given_in_pieces() {
        let kept = u64::try_from(HISTORY).unwrap();
        let view = view(0, kept + 10);
        assert_eq!(view.since(9), Err(Gone::TooOld));
        let piece = view.since(10).unwrap();
        assert_eq!(piece.revision, 10 + u64::try_from(CHUNK).unwrap());
        assert_eq!(
            std::str::from_utf8(&piece.lines).unwrap().lines().count(),
            CHUNK
        );
    }
}
