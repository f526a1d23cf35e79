//! Who holds what: the decisions of the server, without any I/O.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use twill_core::allocate::{AllocateError, Allocation, allocate};
use twill_core::config::NetworkConfig;
use twill_core::lease::{Lease, LeaseAttrs};
use twill_core::subnet::Subnet;

use super::clock::Timestamp;
use super::record::{Change, Record, Term};

/// What a node asks for.
#[derive(Clone, Debug)]
pub(super) enum Request {
    /// A subnet: the one it holds, the previous one, or a free one.
    Acquire {
        /// What it publishes of itself.
        attrs: LeaseAttrs,
        /// The subnet it had before.
        previous: Option<Subnet>,
    },
    /// A new term, and maybe new attributes.
    Renew {
        /// The subnet it holds.
        subnet: Subnet,
        /// The underlay address it holds it under.
        holder: Ipv4Addr,
        /// What it publishes of itself from now on.
        attrs: LeaseAttrs,
    },
    /// To hold it no more.
    Release {
        /// The subnet it holds.
        subnet: Subnet,
        /// The underlay address it holds it under.
        holder: Ipv4Addr,
    },
}

/// Why it does not get it.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub(super) enum Refusal {
    /// No such lease.
    #[error("subnet {subnet} is not leased; acquire it, with {subnet} as the previous subnet")]
    NotHeld {
        /// The subnet asked for.
        subnet: Subnet,
    },
    /// Somebody else's lease.
    #[error("subnet {subnet} is held by {holder}; only the holder may renew or release it")]
    HeldByAnother {
        /// The subnet asked for.
        subnet: Subnet,
        /// Who holds it.
        holder: Ipv4Addr,
    },
    /// The address that a lease is to move to has a lease of its own.
    #[error("PublicIP {public_ip} holds {subnet} already; release it first, or keep the address")]
    HoldsAnother {
        /// The address.
        public_ip: Ipv4Addr,
        /// What it holds.
        subnet: Subnet,
    },
    /// No free subnet.
    #[error(transparent)]
    Allocate(#[from] AllocateError),
    /// The disk does not take it.
    #[error(
        "the lease server cannot store anything now, and still tells what it has stored: {why}; \
         ask again later"
    )]
    NotStored {
        /// The disk's words.
        why: String,
        /// Whether it is full.
        full: bool,
    },
}

/// All leases. Every underlay address holds at most one.
#[derive(Debug)]
pub(super) struct Table {
    config: NetworkConfig,
    term: Duration,
    pick: fn(usize) -> usize,
    revision: u64,
    records: HashMap<Subnet, Arc<Record>>,
    holders: HashMap<Ipv4Addr, Subnet>,
    ends: BTreeSet<(Timestamp, Subnet)>,
    taken: Taken,
}

/// The leases as [`allocate`] wants them: in one slice, without the backends' data.
#[derive(Debug, Default)]
struct Taken {
    leases: Vec<Lease>,
    places: HashMap<Subnet, usize>,
}

impl Taken {
    fn set(&mut self, record: &Record) {
        let slim = Lease {
            subnet: record.subnet,
            attrs: LeaseAttrs {
                backend_data: None,
                backend_v6_data: None,
                ..record.attrs.clone()
            },
            ttl_seconds: record.term.map(|term| term.granted.as_secs()),
        };
        let place = *self
            .places
            .entry(record.subnet)
            .or_insert(self.leases.len());
        match self.leases.get_mut(place) {
            Some(lease) => *lease = slim,
            None => self.leases.push(slim),
        }
    }

    fn remove(&mut self, subnet: Subnet) {
        let Some(place) = self.places.remove(&subnet) else {
            return;
        };
        self.leases.swap_remove(place);
        if let Some(moved) = self.leases.get(place) {
            self.places.insert(moved.subnet, place);
        }
    }
}

impl Table {
    /// An empty table at this revision; `pick(count)` chooses one of so many candidates.
    pub(super) fn new(
        config: NetworkConfig,
        term: Duration,
        revision: u64,
        pick: fn(usize) -> usize,
    ) -> Self {
        Self {
            config,
            term,
            pick,
            revision,
            records: HashMap::new(),
            holders: HashMap::new(),
            ends: BTreeSet::new(),
            taken: Taken::default(),
        }
    }

    /// One for the same network without any lease, at this revision.
    pub(super) fn emptied(&self, revision: u64) -> Self {
        Self::new(self.config.clone(), self.term, revision, self.pick)
    }

    /// The revision after the last change.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Every lease, in no order.
    pub(super) fn records(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.records.values()
    }

    /// Takes up what was stored, after a restart; what changed by that must be stored again.
    pub(super) fn load(&mut self, records: Vec<Record>, now: Timestamp) -> Vec<Change> {
        let mut changes = Vec::new();
        for mut record in records {
            let stored = record.term;
            record.term = stored.map(|term| term.resumed(now));
            let changed = record.term != stored;
            let record = Arc::new(record);
            self.set(&record);
            if changed {
                changes.push(Change::Renewed(record));
            }
        }
        changes
    }

    /// Decides one request. Whatever it changes is appended to `changes`.
    pub(super) fn apply(
        &mut self,
        request: Request,
        now: Timestamp,
        changes: &mut Vec<Change>,
    ) -> Result<Arc<Record>, Refusal> {
        match request {
            Request::Acquire { attrs, previous } => self.acquire(attrs, previous, now, changes),
            Request::Renew {
                subnet,
                holder,
                attrs,
            } => self.renew(subnet, holder, attrs, now, changes),
            Request::Release { subnet, holder } => {
                let record = self.held(subnet, holder)?;
                self.remove(subnet, changes);
                Ok(record)
            }
        }
    }

    /// Removes every lease whose term has ended.
    pub(super) fn expire(&mut self, now: Timestamp, changes: &mut Vec<Change>) {
        while let Some(&(ends, subnet)) = self.ends.first()
            && ends <= now
        {
            self.remove(subnet, changes);
        }
    }

    /// When the next term ends.
    pub(super) fn next_end(&self) -> Option<Timestamp> {
        self.ends.first().map(|&(ends, _)| ends)
    }

    fn acquire(
        &mut self,
        attrs: LeaseAttrs,
        previous: Option<Subnet>,
        now: Timestamp,
        changes: &mut Vec<Change>,
    ) -> Result<Arc<Record>, Refusal> {
        let found = allocate(
            &self.config,
            &self.taken.leases,
            &attrs,
            previous,
            self.pick,
        )?;
        let (Allocation::Kept(subnet) | Allocation::Previous(subnet) | Allocation::New(subnet)) =
            found;
        // What this address holds and could not keep does not fit the network any more.
        if let Some(&unfit) = self.holders.get(&attrs.public_ip)
            && unfit != subnet
        {
            self.remove(unfit, changes);
        }
        Ok(self.grant(subnet, attrs, now, changes))
    }

    fn renew(
        &mut self,
        subnet: Subnet,
        holder: Ipv4Addr,
        attrs: LeaseAttrs,
        now: Timestamp,
        changes: &mut Vec<Change>,
    ) -> Result<Arc<Record>, Refusal> {
        self.held(subnet, holder)?;
        match self.holders.get(&attrs.public_ip) {
            Some(&other) if other != subnet => Err(Refusal::HoldsAnother {
                public_ip: attrs.public_ip,
                subnet: other,
            }),
            _ => Ok(self.grant(subnet, attrs, now, changes)),
        }
    }

    fn held(&self, subnet: Subnet, holder: Ipv4Addr) -> Result<Arc<Record>, Refusal> {
        let record = self
            .records
            .get(&subnet)
            .ok_or(Refusal::NotHeld { subnet })?;
        if record.attrs.public_ip != holder {
            return Err(Refusal::HeldByAnother {
                subnet,
                holder: record.attrs.public_ip,
            });
        }
        Ok(Arc::clone(record))
    }

    fn grant(
        &mut self,
        subnet: Subnet,
        attrs: LeaseAttrs,
        now: Timestamp,
        changes: &mut Vec<Change>,
    ) -> Arc<Record> {
        let known = self.records.get(&subnet);
        let reserved = known.is_some_and(|record| record.term.is_none());
        let unchanged = known.is_some_and(|record| record.attrs == attrs);
        let record = Arc::new(Record {
            subnet,
            attrs,
            term: (!reserved).then(|| Term::starting(now, self.term)),
        });
        self.set(&record);
        changes.push(if unchanged {
            Change::Renewed(Arc::clone(&record))
        } else {
            self.revision += 1;
            Change::Added {
                revision: self.revision,
                record: Arc::clone(&record),
            }
        });
        record
    }

    fn set(&mut self, record: &Arc<Record>) {
        self.forget(record.subnet);
        self.taken.set(record);
        self.holders.insert(record.attrs.public_ip, record.subnet);
        if let Some(term) = record.term {
            self.ends.insert((term.ends, record.subnet));
        }
        self.records.insert(record.subnet, Arc::clone(record));
    }

    fn remove(&mut self, subnet: Subnet, changes: &mut Vec<Change>) {
        if self.forget(subnet) {
            self.taken.remove(subnet);
            self.revision += 1;
            changes.push(Change::Removed {
                revision: self.revision,
                subnet,
            });
        }
    }

    /// Drops a record and its entries in the indexes, but not its place in `taken`.
    fn forget(&mut self, subnet: Subnet) -> bool {
        let Some(record) = self.records.remove(&subnet) else {
            return false;
        };
        self.holders.remove(&record.attrs.public_ip);
        if let Some(term) = record.term {
            self.ends.remove(&(term.ends, subnet));
        }
        true
    }
}

#[cfg(test)]
mod tests;
