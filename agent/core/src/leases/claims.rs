//! Claims to be a peer: who is taken, and who contradicts an older one or this node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use super::Own;
use crate::backend::Peer;
use crate::event::Change;
use crate::lease::LeaseError;
use crate::peers::{Objection, Peers};
use crate::subnet::Subnet;

/// A lease that is not taken as a peer because an older one says otherwise.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Conflict {
    /// The subnet that it claims.
    pub subnet: Subnet,
    /// The peer that it names.
    pub peer: Peer,
    /// What speaks against it.
    pub objection: Objection,
}

/// Every claim of a lease that names a peer.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    peers: Peers,
    /// Those that contradict a peer or ourselves, oldest first.
    contested: Vec<(Subnet, Peer)>,
    /// Leases that do not say where the subnet is, and why.
    rejected: BTreeMap<Subnet, LeaseError>,
}

impl Claims {
    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    pub(crate) fn rejected(&self) -> &BTreeMap<Subnet, LeaseError> {
        &self.rejected
    }

    pub(crate) fn conflicts(&self, own: &Own) -> impl Iterator<Item = Conflict> {
        self.contested.iter().filter_map(move |&(subnet, peer)| {
            let objection = match own.objection(subnet, peer) {
                Some(_) => own.conflict(subnet, peer),
                None => self.peers.objection(subnet, peer),
            };
            objection.map(|objection| Conflict {
                subnet,
                peer,
                objection,
            })
        })
    }

    /// The underlay addresses of all but this node.
    pub(crate) fn elsewhere(&self, own: &Own) -> BTreeSet<Ipv4Addr> {
        let claims = self.peers.iter().chain(self.contested.iter().copied());
        let others = claims.filter(|&(subnet, peer)| !own.is_of(subnet, peer));
        others
            .filter_map(|(_, peer)| match peer.underlay() {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            })
            .collect()
    }

    /// These leases name no peer, and no others.
    pub(super) fn set_rejected(&mut self, rejected: BTreeMap<Subnet, LeaseError>) {
        self.rejected = rejected;
    }

    /// This lease names no peer; what an earlier one named stays.
    pub(super) fn reject(&mut self, subnet: Subnet, why: LeaseError) {
        self.rejected.insert(subnet, why);
    }

    pub(super) fn put(&mut self, subnet: Subnet, peer: Peer, own: &Own) -> Change {
        self.rejected.remove(&subnet);
        let before = self.peers.get(subnet);
        if before == Some(peer) {
            return Change::Nothing;
        }
        self.contested.retain(|&(other, _)| other != subnet);
        self.peers.remove(subnet);
        self.offer(subnet, peer, own);
        self.changed(subnet, before, own)
    }

    pub(super) fn remove(&mut self, subnet: Subnet, own: &Own) -> Change {
        self.rejected.remove(&subnet);
        self.contested.retain(|&(other, _)| other != subnet);
        let before = self.peers.remove(subnet);
        self.changed(subnet, before, own)
    }

    /// There are these claims and no others.
    pub(super) fn replace(&mut self, mut claims: Vec<(Subnet, Peer)>, own: &Own) {
        let before = std::mem::take(&mut self.peers);
        // Whoever was there with the same words is older; of the others the lowest subnet is.
        claims.sort_by_key(|&(subnet, peer)| {
            let new = before.get(subnet) != Some(peer);
            (new, subnet, peer)
        });
        claims.dedup();
        self.contested.clear();
        for (subnet, peer) in claims {
            self.offer(subnet, peer, own);
        }
    }

    /// Judges every claim again, the accepted ones first.
    pub(super) fn judge_again(&mut self, own: &Own) {
        let accepted = std::mem::take(&mut self.peers);
        let contested = std::mem::take(&mut self.contested);
        for (subnet, peer) in accepted.iter().chain(contested) {
            self.offer(subnet, peer, own);
        }
    }

    /// What to plan after one subnet's claim changed. A claim that went may have stood in
    /// others' way, and then more than one peer changes.
    fn changed(&mut self, subnet: Subnet, before: Option<Peer>, own: &Own) -> Change {
        let now = self.peers.get(subnet);
        if now == before {
            Change::Nothing
        } else if before.is_some() && self.settle(own) {
            Change::Everything
        } else {
            Change::Peer(subnet)
        }
    }

    /// Takes in contested claims that nothing speaks against any more.
    fn settle(&mut self, own: &Own) -> bool {
        let contested = std::mem::take(&mut self.contested);
        let before = contested.len();
        for (subnet, peer) in contested {
            self.offer(subnet, peer, own);
        }
        self.contested.len() < before
    }

    fn offer(&mut self, subnet: Subnet, peer: Peer, own: &Own) {
        let accepted = own.objection(subnet, peer).is_none() && self.peers.insert(subnet, peer);
        if !accepted {
            self.contested.push((subnet, peer));
        }
    }

    /// A claim that is contested, and that nothing speaks against.
    #[cfg(test)]
    pub(crate) fn waits_for_nothing(&self, own: &Own) -> Option<Subnet> {
        let mut waiting = self.contested.iter().filter(|&&(subnet, peer)| {
            let objection = own.objection(subnet, peer);
            objection.or(self.peers.objection(subnet, peer)).is_none()
        });
        waiting.next().map(|&(subnet, _)| subnet)
    }
}
