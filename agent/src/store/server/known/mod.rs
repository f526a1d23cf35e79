//! What the agent knows of the store, and what an answer makes of that. Pure.
//!
//! The rule: a peer goes only when the store that we know says so. A store that we do not
//! know (it was replaced, or set back) can add peers; those that it lacks are kept for as
//! long as their leases can last, in which their nodes will have registered again.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use thiserror::Error;

use twill_core::event::Event;
use twill_core::lease::Lease;
use twill_core::subnet::Subnet;

use super::answer::{AnswerError, Line, List, UnreadLease};

/// How long a lease lasts where none says it.
const USUAL_TERM: Duration = Duration::from_hours(24);

/// What is known of the store.
#[derive(Debug, Default)]
pub(super) struct Known {
    store: Option<String>,
    revision: u64,
    must_list: bool,
    leases: BTreeMap<Subnet, Lease>,
    /// Of `leases`, those that only a former store had, and how long they are kept.
    orphans: BTreeMap<Subnet, Instant>,
}

/// What an answer made of it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Step {
    /// What happened.
    pub(super) events: Vec<Event>,
    /// Leases that could not be read; they stay as they were.
    pub(super) unread: Vec<UnreadLease>,
    /// The store is not the one that was known.
    pub(super) replaced: bool,
}

/// Why a watch cannot go on, so that a list is needed.
#[derive(Debug, Error)]
pub(super) enum WatchError {
    #[error("a line of the watch is not a lease server's")]
    Unreadable(#[from] AnswerError),
    #[error("revision {got} came after {known}: changes were lost on the way")]
    Lost { known: u64, got: u64 },
    #[error("the watch is of store {got:?}, not of {known:?}")]
    OtherStore { known: String, got: String },
    #[error("the lease server asks to list again: {0}")]
    Gone(String),
}

impl Known {
    /// The store and revision to watch from; `None` if a list is needed first.
    pub(super) fn resume(&self) -> Option<(&str, u64)> {
        let store = self.store.as_deref()?;
        (!self.must_list).then_some((store, self.revision))
    }

    /// The next thing to do is to list.
    pub(super) fn forget_position(&mut self) {
        self.must_list = true;
    }

    /// Whether the store has this lease, as far as is known.
    pub(super) fn confirms(&self, subnet: Subnet) -> bool {
        self.leases.contains_key(&subnet) && !self.orphans.contains_key(&subnet)
    }

    /// Takes in a list.
    pub(super) fn listed(&mut self, list: List, now: Instant) -> Step {
        let List {
            store,
            revision,
            leases,
            unread,
        } = list;
        let replaced = match &self.store {
            Some(known) => *known != store || revision < self.revision,
            None => false,
        };
        let listed: BTreeMap<Subnet, Lease> = leases
            .into_iter()
            .map(|lease| (lease.subnet, lease))
            .collect();
        let former = std::mem::take(&mut self.leases);
        self.orphans
            .retain(|subnet, until| *until > now && !listed.contains_key(subnet));
        if replaced {
            let until = now + longest_term(&former);
            for subnet in former.keys().filter(|subnet| !listed.contains_key(subnet)) {
                self.orphans.entry(*subnet).or_insert(until);
            }
        }

        // A lease whose subnet cannot be read may be any of those that are missing.
        let nameless = unread.iter().any(|unread| unread.subnet.is_none());
        let unreadable: HashSet<Subnet> =
            unread.iter().filter_map(|unread| unread.subnet).collect();
        let holders: HashSet<Ipv4Addr> =
            listed.values().map(|lease| lease.attrs.public_ip).collect();
        let kept: Vec<(Subnet, Lease)> = former
            .into_iter()
            .filter(|(subnet, lease)| {
                !listed.contains_key(subnet)
                    && (nameless
                        || unreadable.contains(subnet)
                        || self.orphans.contains_key(subnet))
                    && !holders.contains(&lease.attrs.public_ip)
                    && !overlaps_any(*subnet, &listed)
            })
            .collect();
        self.leases = listed;
        self.leases.extend(kept);
        self.orphans
            .retain(|subnet, _| self.leases.contains_key(subnet));

        self.store = Some(store);
        self.revision = revision;
        self.must_list = false;
        Step {
            events: vec![Event::Resync(self.leases.values().cloned().collect())],
            unread,
            replaced,
        }
    }

    /// Takes in one line of a watch. After an error only a list can be taken in.
    pub(super) fn line(&mut self, text: &[u8], now: Instant) -> Result<Step, WatchError> {
        let step = Line::parse(text)
            .map_err(WatchError::from)
            .and_then(|line| self.apply(line, now));
        if step.is_err() {
            self.forget_position();
        }
        step
    }

    fn apply(&mut self, line: Line, now: Instant) -> Result<Step, WatchError> {
        let mut step = Step::default();
        match line {
            Line::Added { revision, lease } => {
                self.advance(revision)?;
                match lease {
                    Ok(lease) => {
                        self.orphans.remove(&lease.subnet);
                        self.drop_orphans(&mut step, |known, _| {
                            known.subnet.overlaps(lease.subnet)
                                || known.attrs.public_ip == lease.attrs.public_ip
                        });
                        self.leases.insert(lease.subnet, lease.clone());
                        step.events.push(Event::LeaseAdded(lease));
                    }
                    Err(unread) => step.unread.push(unread),
                }
            }
            Line::Removed { revision, subnet } => {
                self.advance(revision)?;
                self.orphans.remove(&subnet);
                self.leases.remove(&subnet);
                step.events.push(Event::LeaseRemoved(subnet));
            }
            Line::Bookmark { revision, store } => {
                if let Some(known) = &self.store
                    && *known != store
                {
                    return Err(WatchError::OtherStore {
                        known: known.clone(),
                        got: store,
                    });
                }
                if revision != self.revision {
                    return Err(self.lost(revision));
                }
                self.drop_orphans(&mut step, |_, until| until <= now);
            }
            Line::Gone { why } => return Err(WatchError::Gone(why)),
        }
        Ok(step)
    }

    fn advance(&mut self, revision: u64) -> Result<(), WatchError> {
        // Every change has the revision after the one before.
        if self.revision.checked_add(1) != Some(revision) {
            return Err(self.lost(revision));
        }
        self.revision = revision;
        Ok(())
    }

    fn lost(&self, got: u64) -> WatchError {
        WatchError::Lost {
            known: self.revision,
            got,
        }
    }

    fn drop_orphans(&mut self, step: &mut Step, ends: impl Fn(&Lease, Instant) -> bool) {
        let leases = &mut self.leases;
        self.orphans.retain(|subnet, until| {
            let Some(lease) = leases.get(subnet) else {
                return false;
            };
            if !ends(lease, *until) {
                return true;
            }
            leases.remove(subnet);
            step.events.push(Event::LeaseRemoved(*subnet));
            false
        });
    }
}

fn longest_term(leases: &BTreeMap<Subnet, Lease>) -> Duration {
    leases
        .values()
        .filter_map(|lease| lease.ttl_seconds)
        .max()
        .map_or(USUAL_TERM, |seconds| {
            Duration::from_secs(seconds).min(USUAL_TERM * 30)
        })
}

/// Whether a subnet shares an address with one of these, which are apart from each other.
fn overlaps_any(subnet: Subnet, leases: &BTreeMap<Subnet, Lease>) -> bool {
    let before = leases.range(..=subnet).next_back();
    let after = leases.range(subnet..).next();
    before
        .into_iter()
        .chain(after)
        .any(|(other, _)| other.overlaps(subnet))
}

#[cfg(test)]
mod tests;
