//! What the agent knows of the store, and what an answer makes of that. Pure.
//!
//! The rule: a peer goes only when the store that we know says so. A store that we do not
//! know (it was replaced, or set back) can add peers; those that it lacks are kept for as
//! long as their leases can last, in which their nodes will have registered again.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use twill_core::event::Event;
use twill_core::lease::Lease;
use twill_core::subnet::Subnet;

use crate::files::last_store::Noted;

/// How long a lease lasts where none says it.
const USUAL_TERM: Duration = Duration::from_hours(24);
/// No lease is kept for longer than this without its store.
const LONGEST_TERM: Duration = Duration::from_hours(30 * 24);

/// A list of leases.
#[derive(Debug)]
pub(super) struct List {
    /// The store's name.
    pub(super) store: String,
    /// The revision that the list is of.
    pub(super) revision: u64,
    /// Every lease that could be read.
    pub(super) leases: Vec<Lease>,
    /// The others.
    pub(super) unread: Vec<UnreadLease>,
}

/// A lease that could not be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct UnreadLease {
    /// Its subnet, if at least that could be read.
    pub(super) subnet: Option<Subnet>,
    /// The beginning of it.
    pub(super) value: String,
    /// What is wrong.
    pub(super) why: String,
}

/// What is known of the store.
#[derive(Debug, Default)]
pub(super) struct Known {
    store: Option<String>,
    revision: u64,
    must_list: bool,
    pub(super) leases: BTreeMap<Subnet, Lease>,
    /// Of `leases`, those that only a former store had, and how long they are kept.
    pub(super) orphans: BTreeMap<Subnet, Instant>,
    /// How long those of an earlier start are kept that the store's first list lacks.
    kept_until: Option<Instant>,
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

impl Known {
    /// What is left of an earlier start: peers, and the store that they are from; where that start
    /// kept some for a former store, how long that goes on.
    pub(super) fn before(
        noted: Noted,
        peers: Vec<Lease>,
        kept_for: Option<Duration>,
        now: Instant,
    ) -> Self {
        Self {
            store: Some(noted.store),
            revision: noted.revision,
            must_list: true,
            kept_until: kept_for.map(|left| now + left.min(LONGEST_TERM)),
            leases: peers
                .into_iter()
                .map(|lease| (lease.subnet, lease))
                .collect(),
            ..Self::default()
        }
    }

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
        let until = match self.kept_until.take() {
            _ if replaced => Some(now + longest_term(&former)),
            until => until.filter(|until| *until > now),
        };
        if let Some(until) = until {
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

    /// The revision that is known.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// The store that is known.
    pub(super) fn store(&self) -> Option<&str> {
        self.store.as_deref()
    }

    /// Everything up to this revision is known.
    pub(super) fn reached(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    /// Takes in a lease that is new or changed.
    pub(super) fn put(&mut self, lease: Lease) -> Step {
        let mut step = Step::default();
        self.orphans.remove(&lease.subnet);
        self.drop_orphans(&mut step, |known, _| {
            known.subnet.overlaps(lease.subnet) || known.attrs.public_ip == lease.attrs.public_ip
        });
        self.leases.insert(lease.subnet, lease.clone());
        step.events.push(Event::LeaseAdded(lease));
        step
    }

    /// Takes in that a lease is gone.
    pub(super) fn remove(&mut self, subnet: Subnet) -> Step {
        self.orphans.remove(&subnet);
        self.leases.remove(&subnet);
        Step {
            events: vec![Event::LeaseRemoved(subnet)],
            ..Step::default()
        }
    }

    /// Forgets leases of a former store whose time is over.
    pub(super) fn prune(&mut self, now: Instant) -> Step {
        let mut step = Step::default();
        self.drop_orphans(&mut step, |_, until| until <= now);
        step
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
            Duration::from_secs(seconds).min(LONGEST_TERM)
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
mod tests {
    use super::*;

    fn lease(n: u8) -> Lease {
        let text = format!(
            r#"{{"subnet":"10.244.{n}.0/24","attrs":{{"PublicIP":"192.0.2.{n}","BackendType":"vxlan"}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn list(store: &str, nodes: &[u8]) -> List {
        List {
            store: store.to_owned(),
            revision: 1,
            leases: nodes.iter().copied().map(lease).collect(),
            unread: Vec::new(),
        }
    }

    fn before(store: &str, peers: &[u8], kept_for: Option<Duration>, now: Instant) -> Known {
        let peers = peers.iter().copied().map(lease).collect();
        let noted = Noted {
            store: store.to_owned(),
            revision: 1,
            kept_until: None,
        };
        Known::before(noted, peers, kept_for, now)
    }

    fn subnets(known: &Known) -> Vec<Subnet> {
        known.leases.keys().copied().collect()
    }

    #[test]
    fn peers_of_an_earlier_start_stay_while_another_store_may_not_know_them_yet() {
        let now = Instant::now();
        let mut known = before("old", &[1, 2, 3], None, now);
        assert_eq!(known.resume(), None);
        let step = known.listed(list("new", &[2]), now);
        assert!(step.replaced);
        assert_eq!(step.events, [Event::Resync([1, 2, 3].map(lease).into())]);
        assert_eq!(known.orphans.len(), 2);

        // One registers again, the other has had its time.
        known.put(lease(3));
        assert!(known.prune(now + USUAL_TERM / 2).events.is_empty());
        let step = known.prune(now + USUAL_TERM);
        assert_eq!(step.events, [Event::LeaseRemoved(lease(1).subnet)]);
        assert!(known.orphans.is_empty());
        assert_eq!(subnets(&known), [lease(2).subnet, lease(3).subnet]);
    }

    #[test]
    fn peers_of_an_earlier_start_go_when_their_own_store_has_them_no_more() {
        let now = Instant::now();
        let mut known = before("old", &[1, 2], None, now);
        let step = known.listed(list("old", &[2]), now);
        assert!(!step.replaced);
        assert_eq!(step.events, [Event::Resync(vec![lease(2)])]);
    }

    #[test]
    fn a_store_of_the_same_name_that_is_behind_has_lost_its_data() {
        let now = Instant::now();
        let mut known = before("old", &[1, 2], None, now);
        let emptied = List {
            revision: 0,
            ..list("old", &[2])
        };
        let step = known.listed(emptied, now);
        assert!(step.replaced);
        assert_eq!(step.events, [Event::Resync([1, 2].map(lease).into())]);
    }

    #[test]
    fn restarts_do_not_begin_the_time_of_those_anew_that_the_store_lacks() {
        let start = Instant::now();
        let after = |hours| start + Duration::from_hours(hours);
        let mut known = before("old", &[1, 2], None, start);
        known.listed(list("new", &[2]), start);
        for hours in [6, 12, 18] {
            let until = known.orphans[&lease(1).subnet];
            assert_eq!(until, after(24));
            let left = until - after(hours);
            known = before("new", &[1, 2], Some(left), after(hours));
            let step = known.listed(list("new", &[2]), after(hours));
            assert!(!step.replaced);
            assert_eq!(step.events, [Event::Resync([1, 2].map(lease).into())]);
        }
        // Another list of the same start, and the end of the time.
        known.listed(list("new", &[2]), after(20));
        let step = known.prune(after(24));
        assert_eq!(step.events, [Event::LeaseRemoved(lease(1).subnet)]);

        // The time ended while the agent was away.
        let mut known = before("new", &[1, 2], Some(Duration::ZERO), start);
        let step = known.listed(list("new", &[2]), start);
        assert_eq!(step.events, [Event::Resync(vec![lease(2)])]);
        // A third store has not had its time.
        let mut known = before("new", &[1, 2], Some(Duration::from_hours(1)), start);
        assert!(known.listed(list("third", &[2]), start).replaced);
        assert_eq!(known.orphans[&lease(1).subnet], after(24));
        // What is noted may be rubbish.
        let mut known = before("new", &[1, 2], Some(Duration::MAX), start);
        known.listed(list("new", &[2]), start);
        assert_eq!(known.orphans[&lease(1).subnet], start + LONGEST_TERM);
    }
}
