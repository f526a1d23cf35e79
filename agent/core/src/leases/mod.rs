//! Which leases hold: the one index of them, and the only arbiter. Pure; the clock is handed in.
//!
//! A lease goes only when the store that we know says so. A store that we do not know (it was
//! replaced, or set back) can add leases; those that it lacks are kept for as long as they can
//! last, in which their nodes will have registered again. Which of several leases that contradict
//! each other is taken as a peer, [`claims`] says.

mod claims;
mod event;
mod kernel;
mod own;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::time::Duration;

pub(crate) use self::claims::Claims;
pub use self::claims::Conflict;
pub use self::event::{Listing, Position, StoreEvent};
pub(crate) use self::own::Own;
use crate::backend::Peer;
use crate::config::NetworkConfig;
use crate::event::Change;
use crate::lease::{Lease, LeaseError};
use crate::subnet::Subnet;

/// How long a lease lasts where none says it.
const USUAL_TERM: Duration = Duration::from_hours(24);
/// No lease is kept for longer than this without its store.
const LONGEST_TERM: Duration = Duration::from_hours(30 * 24);

/// What the next start must know to go on from here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    /// Where the store's changes have come to.
    pub position: Position,
    /// Until when leases are kept that the store lacks, where an earlier one had some: a time
    /// since the machine has started.
    pub kept_until: Option<Duration>,
}

/// By what leases are read and judged.
#[derive(Clone, Copy)]
pub(crate) struct Judge<'a> {
    pub(crate) config: &'a NetworkConfig,
    pub(crate) own: &'a Own,
}

impl Judge<'_> {
    fn peer(&self, lease: &Lease) -> Result<Peer, LeaseError> {
        self.config.backend.peer(lease, self.config.network)
    }
}

/// What the index keeps of a lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Held {
    holder: Ipv4Addr,
    ttl_seconds: Option<u64>,
    /// The peer that it names; that of an earlier one, where this one names none.
    peer: Option<Peer>,
}

impl Held {
    fn of(lease: &Lease, peer: Option<Peer>) -> Self {
        Self {
            holder: lease.attrs.public_ip,
            ttl_seconds: lease.ttl_seconds,
            peer,
        }
    }
}

/// The index. Every time in it is one since the machine has started.
#[derive(Debug, Default)]
pub(crate) struct LeaseIndex {
    held: BTreeMap<Subnet, Held>,
    /// Of `held`, those that only a former store had, and until when they are kept.
    orphans: BTreeMap<Subnet, Duration>,
    /// Until when those of an earlier start are kept that the store's first list lacks.
    kept_until: Option<Duration>,
    /// Where the store's changes have come to; before the first list nobody knows.
    position: Option<Position>,
    /// Why the store is not heard, if it is not.
    lost: Option<String>,
    claims: Claims,
}

impl LeaseIndex {
    /// What an earlier start knew: the leases that it left in the kernel, and until when some of
    /// them were kept for a former store. They count when the first list has come.
    pub(crate) fn remember(
        &mut self,
        leases: &[Lease],
        kept_until: Option<Duration>,
        judge: Judge<'_>,
        now: Duration,
    ) {
        self.kept_until = kept_until.map(|until| until.min(now.saturating_add(LONGEST_TERM)));
        let held = leases
            .iter()
            .map(|lease| (lease.subnet, Held::of(lease, judge.peer(lease).ok())));
        self.held = held.collect();
    }

    /// Takes in what a store says.
    pub(crate) fn apply(&mut self, event: StoreEvent, judge: Judge<'_>, now: Duration) -> Change {
        match event {
            StoreEvent::Listed(listing) => {
                self.listed(listing, judge, now);
                Change::Everything
            }
            StoreEvent::Put(lease) => self.put(&lease, judge),
            StoreEvent::Gone(subnet) => self.gone(subnet, judge.own),
            StoreEvent::Reached(position) => {
                // Before the first list there is nothing that could have come so far.
                self.position = self.position.take().map(|_| position);
                self.lost = None;
                self.drop_orphans(judge.own, |_, _, until| until <= now)
            }
            StoreEvent::Lost(why) => {
                self.lost = Some(why);
                Change::Nothing
            }
        }
    }

    /// Judges every claim again: what speaks for this node has changed.
    pub(crate) fn judge_again(&mut self, own: &Own) {
        self.claims.judge_again(own);
    }

    /// Whether a complete list of leases has been seen.
    pub(crate) fn is_complete(&self) -> bool {
        self.position.is_some()
    }

    /// Why the store is not heard, if it is not.
    pub(crate) fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// Who is taken as a peer, and who is not.
    pub(crate) fn claims(&self) -> &Claims {
        &self.claims
    }

    /// For the next start, once there was a list.
    pub(crate) fn checkpoint(&self) -> Option<Checkpoint> {
        Some(Checkpoint {
            position: self.position.clone()?,
            kept_until: self.orphans.values().max().copied(),
        })
    }

    fn listed(&mut self, listing: Listing, judge: Judge<'_>, now: Duration) {
        let Listing {
            position,
            replaced,
            leases,
            unread,
        } = listing;
        let former = std::mem::take(&mut self.held);
        let mut claims = self.read(&leases, &former, judge);
        let listed = &self.held;

        self.orphans
            .retain(|subnet, until| *until > now && !listed.contains_key(subnet));
        let until = match self.kept_until.take() {
            _ if replaced => Some(now.saturating_add(longest_term(&former))),
            until => until.filter(|until| *until > now),
        };
        if let Some(until) = until {
            for subnet in former.keys().filter(|subnet| !listed.contains_key(subnet)) {
                self.orphans.entry(*subnet).or_insert(until);
            }
        }

        let nameless = unread.contains(&None);
        let unread: HashSet<Subnet> = unread.into_iter().flatten().collect();
        let holders: HashSet<Ipv4Addr> = listed.values().map(|held| held.holder).collect();
        let kept: Vec<(Subnet, Held)> = former
            .into_iter()
            .filter(|(subnet, held)| {
                !listed.contains_key(subnet)
                    && (nameless || unread.contains(subnet) || self.orphans.contains_key(subnet))
                    && !holders.contains(&held.holder)
                    && !overlaps_any(*subnet, listed)
            })
            .collect();
        let peers = kept.iter();
        claims.extend(peers.filter_map(|&(subnet, held)| Some((subnet, held.peer?))));
        self.held.extend(kept);
        self.orphans
            .retain(|subnet, _| self.held.contains_key(subnet));
        self.claims.replace(claims, judge.own);
        self.position = Some(position);
    }

    /// Takes in what is listed, and gives the claims to peers in it. A lease that names no peer
    /// leaves the subnet with the one that it had.
    fn read(
        &mut self,
        leases: &[Lease],
        former: &BTreeMap<Subnet, Held>,
        judge: Judge<'_>,
    ) -> Vec<(Subnet, Peer)> {
        let mut claims = Vec::with_capacity(leases.len());
        let mut rejected = BTreeMap::new();
        for lease in leases {
            let subnet = lease.subnet;
            match judge.peer(lease) {
                Ok(peer) => {
                    claims.push((subnet, peer));
                    self.held.insert(subnet, Held::of(lease, Some(peer)));
                }
                Err(why) => {
                    rejected.insert(subnet, why);
                    self.held.entry(subnet).or_insert(Held::of(lease, None));
                }
            }
        }
        for subnet in rejected.keys() {
            if let Some(held) = self.held.get_mut(subnet)
                && held.peer.is_none()
            {
                held.peer = former.get(subnet).and_then(|former| former.peer);
                claims.extend(held.peer.map(|peer| (*subnet, peer)));
            }
        }
        self.claims.set_rejected(rejected);
        claims
    }

    fn put(&mut self, lease: &Lease, judge: Judge<'_>) -> Change {
        let subnet = lease.subnet;
        self.orphans.remove(&subnet);
        let dropped = self.drop_orphans(judge.own, |other, held, _| {
            other.overlaps(subnet) || held.holder == lease.attrs.public_ip
        });
        let (peer, change) = match judge.peer(lease) {
            Ok(peer) => (Some(peer), self.claims.put(subnet, peer, judge.own)),
            Err(why) => {
                self.claims.reject(subnet, why);
                let before = self.held.get(&subnet).and_then(|held| held.peer);
                (before, Change::Nothing)
            }
        };
        self.held.insert(subnet, Held::of(lease, peer));
        dropped.and(change)
    }

    fn gone(&mut self, subnet: Subnet, own: &Own) -> Change {
        self.orphans.remove(&subnet);
        self.held.remove(&subnet);
        self.claims.remove(subnet, own)
    }

    fn drop_orphans(
        &mut self,
        own: &Own,
        ends: impl Fn(Subnet, &Held, Duration) -> bool,
    ) -> Change {
        let orphans = self.orphans.iter().filter(|&(&subnet, &until)| {
            let held = self.held.get(&subnet);
            held.is_none_or(|held| ends(subnet, held, until))
        });
        let ended: Vec<Subnet> = orphans.map(|(&subnet, _)| subnet).collect();
        let changes = ended.into_iter().map(|subnet| self.gone(subnet, own));
        changes.fold(Change::Nothing, Change::and)
    }
}

fn longest_term(leases: &BTreeMap<Subnet, Held>) -> Duration {
    let terms = leases.values().filter_map(|held| held.ttl_seconds);
    terms.max().map_or(USUAL_TERM, |seconds| {
        Duration::from_secs(seconds).min(LONGEST_TERM)
    })
}

/// Whether a subnet shares an address with one of these, which are apart from each other.
fn overlaps_any(subnet: Subnet, leases: &BTreeMap<Subnet, Held>) -> bool {
    let before = leases.range(..=subnet).next_back();
    let after = leases.range(subnet..).next();
    before
        .into_iter()
        .chain(after)
        .any(|(other, _)| other.overlaps(subnet))
}
