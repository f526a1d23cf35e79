//! A lease as the server keeps it, in memory and on disk.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use twill_core::lease::{Lease, LeaseAttrs};
use twill_core::subnet::Subnet;

use super::clock::Timestamp;

/// How long a lease lasts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Term {
    /// How long it was granted for.
    pub(super) granted: Duration,
    /// When it ends.
    pub(super) ends: Timestamp,
}

impl Term {
    /// A term that begins now.
    pub(super) fn starting(now: Timestamp, granted: Duration) -> Self {
        Self {
            granted,
            ends: now.after(granted),
        }
    }

    /// The term as it is taken up after a restart.
    ///
    /// One that lies further ahead than it was granted for means that the host's clock was
    /// set back: it is shortened to a whole term. One that ended while nobody could renew
    /// it gets one more term; its holder is asking again, or never will.
    pub(super) fn resumed(self, now: Timestamp) -> Self {
        let whole = Self::starting(now, self.granted);
        if self.ends <= now || self.ends > whole.ends {
            whole
        } else {
            self
        }
    }
}

/// A lease.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Record {
    /// The subnet.
    pub(super) subnet: Subnet,
    /// Who holds it.
    pub(super) attrs: LeaseAttrs,
    /// How long it lasts; `None` for a reservation.
    pub(super) term: Option<Term>,
}

impl Record {
    /// The lease as it is answered.
    pub(super) fn lease(&self, now: Timestamp) -> Lease {
        Lease {
            subnet: self.subnet,
            attrs: self.attrs.clone(),
            ttl_seconds: self.ttl_seconds(now),
        }
    }

    /// The same without copying what it holds.
    pub(super) fn view(&self, now: Timestamp) -> LeaseView<'_> {
        LeaseView {
            subnet: self.subnet,
            attrs: &self.attrs,
            ttl_seconds: self.ttl_seconds(now),
        }
    }

    fn ttl_seconds(&self, now: Timestamp) -> Option<u64> {
        self.term.map(|term| term.ends.since(now).as_secs())
    }
}

/// A [`Lease`] by reference; it is written the same.
#[derive(Debug, Serialize)]
pub(super) struct LeaseView<'a> {
    subnet: Subnet,
    attrs: &'a LeaseAttrs,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<u64>,
}

/// What changes in the store, in the order in which it happens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Change {
    /// A lease is new, or says something else than before.
    Added {
        /// The store's revision with it.
        revision: u64,
        /// The lease.
        record: Arc<Record>,
    },
    /// A lease lasts longer; nobody but the disk needs to know.
    Renewed(Arc<Record>),
    /// A lease is gone.
    Removed {
        /// The store's revision with it.
        revision: u64,
        /// The subnet.
        subnet: Subnet,
    },
}

/// A record's value on disk, as JSON; its key is the subnet.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredRecord {
    attrs: LeaseAttrs,
    term: Option<StoredTerm>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct StoredTerm {
    granted_ms: u64,
    ends_unix_ms: u64,
}

impl StoredRecord {
    /// With the key, the record.
    pub(super) fn into_record(self, subnet: Subnet) -> Record {
        Record {
            subnet,
            attrs: self.attrs,
            term: self.term.map(|term| Term {
                granted: Duration::from_millis(term.granted_ms),
                ends: Timestamp(term.ends_unix_ms),
            }),
        }
    }
}

impl From<&Record> for StoredRecord {
    fn from(record: &Record) -> Self {
        Self {
            attrs: record.attrs.clone(),
            term: record.term.map(|term| StoredTerm {
                granted_ms: u64::try_from(term.granted.as_millis()).unwrap_or(u64::MAX),
                ends_unix_ms: term.ends.0,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const NOON: Timestamp = Timestamp(1_800_000_000_000);

    fn resumed(ends: Timestamp) -> Duration {
        let term = Term {
            granted: HOUR,
            ends,
        };
        term.resumed(NOON).ends.since(NOON)
    }

    #[test]
    fn a_term_goes_on_over_a_restart() {
        assert_eq!(resumed(NOON.after(HOUR / 4)), HOUR / 4);
        assert_eq!(resumed(NOON.after(HOUR)), HOUR);
    }

    #[test]
    fn a_term_that_ended_while_the_server_was_away_gets_one_more() {
        assert_eq!(resumed(NOON), HOUR);
        assert_eq!(resumed(Timestamp(0)), HOUR);
    }

    #[test]
    fn a_clock_set_back_leaves_one_whole_term() {
        assert_eq!(resumed(NOON.after(HOUR * 10_000)), HOUR);
        assert_eq!(resumed(Timestamp(u64::MAX)), HOUR);
    }

    #[test]
    fn a_lease_is_written_the_same_by_value_and_by_reference() {
        let attrs = serde_json::from_str(
            r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan",
                "BackendData":{"VNI":1,"VtepMAC":"02:00:5e:10:00:01"}}"#,
        )
        .unwrap();
        let mut record = Record {
            subnet: "10.244.1.0/24".parse().unwrap(),
            attrs,
            term: Some(Term::starting(NOON, HOUR)),
        };
        for term in [record.term, None] {
            record.term = term;
            assert_eq!(
                serde_json::to_string(&record.lease(NOON)).unwrap(),
                serde_json::to_string(&record.view(NOON)).unwrap(),
            );
            let stored = serde_json::to_vec(&StoredRecord::from(&record)).unwrap();
            let read: StoredRecord = serde_json::from_slice(&stored).unwrap();
            assert_eq!(read.into_record(record.subnet), record);
        }
    }
}
