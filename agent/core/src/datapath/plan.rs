//! Entries of the maps: which VTEP gets which index, and in what order entries change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{MapOp, ObservedMaps};
use crate::backend::{Peer, Wanted};
use crate::plan::Op;
use crate::subnet::Subnet;
use crate::vtep::RemoteVtep;

/// The maps' part of a plan.
///
/// An entry of `vteps` is cleared only when no route leads to it any more: before the
/// insertions where all its subnets are gone, after them where one of them moves. Only where
/// the map is full does a moving subnet lose its route for a moment; the kernel forwards then.
pub(crate) struct MapPlan<'a> {
    observed: &'a ObservedMaps,
    wanted: Wanted<'a>,
    /// The one subnet that is planned; `None` for all.
    only: Option<Subnet>,
    /// By underlay address, of which each has one VTEP.
    index: BTreeMap<IpAddr, u32>,
    /// Indices that have to be written.
    unwritten: BTreeSet<u32>,
    sources_done: BTreeSet<IpAddr>,
    /// Subnets that lost their route to make room.
    evicted: BTreeSet<Subnet>,
    unmapped: BTreeSet<Subnet>,
    early: Vec<MapOp>,
    late: Vec<MapOp>,
}

impl<'a> MapPlan<'a> {
    fn new(observed: &'a ObservedMaps, wanted: Wanted<'a>, only: Option<Subnet>) -> Self {
        Self {
            observed,
            wanted,
            only,
            index: BTreeMap::new(),
            unwritten: BTreeSet::new(),
            sources_done: BTreeSet::new(),
            evicted: BTreeSet::new(),
            unmapped: BTreeSet::new(),
            early: Vec::new(),
            late: Vec::new(),
        }
    }

    /// Plans all entries.
    pub(crate) fn full(observed: &'a ObservedMaps, wanted: Wanted<'a>) -> Self {
        let mut plan = Self::new(observed, wanted, None);
        let admitted = plan.admit();
        let stale = plan.keep(&admitted);
        let movers = plan.sort_routes();
        let occupied = plan.clear(&admitted, stale, &movers);
        plan.assign(&occupied);
        plan.leave_out();
        plan
    }

    /// Plans one subnet's entries, or all where the maps may have no room for everybody.
    pub(crate) fn single(observed: &'a ObservedMaps, wanted: Wanted<'a>, subnet: Subnet) -> Self {
        let mut plan = Self::new(observed, wanted, Some(subnet));
        if plan.only_one(subnet).is_some() {
            plan
        } else {
            Self::full(observed, wanted)
        }
    }

    /// The peers to [`MapPlan::set`].
    pub(crate) fn peers(&self) -> Vec<(Subnet, RemoteVtep)> {
        let peers = self.wanted.peers;
        match self.only {
            Some(subnet) => peers
                .get(subnet)
                .and_then(Peer::vtep)
                .map(|vtep| (subnet, vtep))
                .into_iter()
                .collect(),
            None => peers.vteps().collect(),
        }
    }

    /// Whether packets to this VTEP go past the device. In the kernel everything else is as for
    /// other peers, so that only the route has to change when the way does.
    fn is_direct(&self, vtep: RemoteVtep) -> bool {
        self.wanted.direct(vtep.underlay).is_some()
    }

    /// What to do before any insertion.
    pub(crate) fn early(&mut self) -> impl Iterator<Item = Op> + use<> {
        std::mem::take(&mut self.early).into_iter().map(Op::Map)
    }

    /// A peer's insertions: VTEP, source, route.
    pub(crate) fn set(
        &mut self,
        subnet: Subnet,
        vtep: RemoteVtep,
    ) -> impl Iterator<Item = Op> + use<> {
        let mut ops = Vec::new();
        let underlay = vtep.underlay;
        if let Some(&index) = self.index.get(&underlay)
            && !self.unmapped.contains(&subnet)
        {
            if self.unwritten.remove(&index) {
                ops.push(MapOp::SetVtep {
                    index,
                    vtep,
                    subnet,
                });
            }
            if self.observed.sources.get(&underlay) != Some(&index)
                && self.sources_done.insert(underlay)
            {
                ops.push(MapOp::SetSource { underlay, index });
            }
            let has_route = self.observed.routes.get(&subnet) == Some(&index)
                && !self.evicted.contains(&subnet);
            if !has_route && !self.is_direct(vtep) {
                ops.push(MapOp::SetRoute { subnet, index });
            }
        }
        ops.into_iter().map(Op::Map)
    }

    /// What to do after all insertions, and the peers that have no entries.
    pub(crate) fn finish(self) -> (impl Iterator<Item = Op>, Vec<Subnet>) {
        let late = self.late.into_iter().map(Op::Map);
        (late, self.unmapped.into_iter().collect())
    }

    /// The fast path; `None` where it cannot tell without looking at the others.
    fn only_one(&mut self, subnet: Subnet) -> Option<()> {
        let (observed, peers) = (self.observed, self.wanted.peers);
        if exceeds(peers.len(), observed.route_capacity)
            || exceeds(peers.node_count(), observed.vtep_capacity)
        {
            return None;
        }
        let old = observed.routes.get(&subnet).copied();
        let others_mapped = observed.routes.len() - usize::from(old.is_some());
        let others = peers.len() - usize::from(peers.get(subnet).is_some());
        if others_mapped < others {
            // Some had no room, and may have now.
            return None;
        }
        let Some(vtep) = peers.get(subnet).and_then(Peer::vtep) else {
            if let Some(old) = old.filter(|_| self.wanted.complete) {
                self.early.push(MapOp::RemoveRoute { subnet });
                let ops = self.retire(old);
                self.early.extend(ops);
            }
            return Some(());
        };
        if old.is_none() && exceeds(observed.routes.len() + 1, observed.route_capacity) {
            return None;
        }
        let source = observed.sources.get(&vtep.underlay).copied();
        let has_it = |index: &u32| {
            *index < observed.vtep_capacity && observed.vteps.get(index) == Some(&vtep)
        };
        let index = if let Some(index) = source.filter(has_it).or(old.filter(has_it)) {
            index
        } else {
            let index = lowest_free(observed)?;
            self.unwritten.insert(index);
            index
        };
        self.index.insert(vtep.underlay, index);
        if let Some(old) = old.filter(|&old| old != index && self.wanted.complete) {
            self.late = self.retire(old);
        }
        Some(())
    }

    /// Clears an index that one subnet left, unless its VTEP has others.
    fn retire(&self, index: u32) -> Vec<MapOp> {
        let Some(&vtep) = self.observed.vteps.get(&index) else {
            return Vec::new();
        };
        if self.wanted.peers.has(vtep.into()) {
            return Vec::new();
        }
        let underlay = vtep.underlay;
        let is_source = !self.wanted.peers.is_at(underlay)
            && self.observed.sources.get(&underlay) == Some(&index);
        let source = is_source.then_some(MapOp::RemoveSource { underlay });
        source
            .into_iter()
            .chain([MapOp::ClearVtep { index }])
            .collect()
    }

    /// The underlay addresses that the maps have room for, by ascending subnet. Subnets above
    /// the capacity are unmapped, unless an admitted node holds them.
    fn admit(&mut self) -> BTreeSet<IpAddr> {
        let mut admitted = BTreeSet::new();
        let mut mapped = 0;
        for (subnet, vtep) in self.wanted.peers.vteps() {
            let known = admitted.contains(&vtep.underlay);
            let full = exceeds(mapped + 1, self.observed.route_capacity)
                || (!known && exceeds(admitted.len() + 1, self.observed.vtep_capacity));
            if full {
                self.unmapped.insert(subnet);
            } else {
                admitted.insert(vtep.underlay);
                mapped += 1;
            }
        }
        admitted
    }

    /// Keeps indices whose content is right; returns the others.
    fn keep(&mut self, admitted: &BTreeSet<IpAddr>) -> Vec<u32> {
        let mut stale = Vec::new();
        for (&index, &vtep) in &self.observed.vteps {
            let right = index < self.observed.vtep_capacity
                && admitted.contains(&vtep.underlay)
                && self.wanted.peers.has(vtep.into())
                && !self.index.contains_key(&vtep.underlay);
            if right {
                self.index.insert(vtep.underlay, index);
            } else {
                stale.push(index);
            }
        }
        stale
    }

    /// Removes stale routes; returns the subnets that will move, by the index they leave.
    fn sort_routes(&mut self) -> BTreeMap<u32, Vec<Subnet>> {
        let mut movers: BTreeMap<u32, Vec<Subnet>> = BTreeMap::new();
        for (&subnet, &index) in &self.observed.routes {
            let peer = self.wanted.peers.get(subnet).and_then(Peer::vtep);
            let mapped =
                |&vtep: &RemoteVtep| !self.unmapped.contains(&subnet) && !self.is_direct(vtep);
            match peer.filter(mapped) {
                Some(vtep) if self.index.get(&vtep.underlay) == Some(&index) => {}
                Some(_) => movers.entry(index).or_default().push(subnet),
                None if peer.is_some() || self.wanted.complete => {
                    self.early.push(MapOp::RemoveRoute { subnet });
                }
                None => {}
            }
        }
        movers
    }

    /// Clears stale indices and sources, early or late; returns the indices that insertions
    /// may not take.
    fn clear(
        &mut self,
        admitted: &BTreeSet<IpAddr>,
        stale: Vec<u32>,
        movers: &BTreeMap<u32, Vec<Subnet>>,
    ) -> BTreeSet<u32> {
        let mut occupied: BTreeSet<u32> = self.observed.vteps.keys().copied().collect();
        if !self.wanted.complete {
            return occupied;
        }
        let mut sources: BTreeMap<u32, Vec<MapOp>> = BTreeMap::new();
        for (&underlay, &index) in &self.observed.sources {
            if !admitted.contains(&underlay) {
                let op = MapOp::RemoveSource { underlay };
                sources.entry(index).or_default().push(op);
            }
        }
        let capacity = self.observed.vtep_capacity;
        let kept = self.index.len();
        let needed = admitted.len() - kept;
        let usable = occupied.range(..capacity).count();
        let mut free = usize::try_from(capacity).unwrap_or(usize::MAX) - usable;
        let (late, early): (Vec<u32>, Vec<u32>) = stale
            .into_iter()
            .partition(|index| movers.contains_key(index));
        let mut clear = |index: u32, ops: &mut Vec<MapOp>| {
            ops.extend(sources.remove(&index).into_iter().flatten());
            ops.push(MapOp::ClearVtep { index });
        };
        for index in early {
            clear(index, &mut self.early);
            occupied.remove(&index);
            free += usize::from(index < capacity);
        }
        for index in late {
            if free >= needed || index >= capacity {
                clear(index, &mut self.late);
                continue;
            }
            for &subnet in movers.get(&index).into_iter().flatten() {
                self.early.push(MapOp::RemoveRoute { subnet });
                self.evicted.insert(subnet);
            }
            clear(index, &mut self.early);
            occupied.remove(&index);
            free += 1;
        }
        self.late.extend(sources.into_values().flatten());
        occupied
    }

    /// Gives every admitted VTEP without an index the lowest free one, by ascending subnet.
    ///
    /// Free ones run out only before the list is complete, when nothing stale may go. A
    /// route that is there leads elsewhere then.
    fn assign(&mut self, occupied: &BTreeSet<u32>) {
        let capacity = self.observed.vtep_capacity;
        let mut free = (0..capacity).filter(|index| !occupied.contains(index));
        for (subnet, vtep) in self.wanted.peers.vteps() {
            if self.unmapped.contains(&subnet) || self.index.contains_key(&vtep.underlay) {
                continue;
            }
            if let Some(index) = free.next() {
                self.index.insert(vtep.underlay, index);
                self.unwritten.insert(index);
            } else {
                self.unmapped.insert(subnet);
                if self.observed.routes.contains_key(&subnet) {
                    self.early.push(MapOp::RemoveRoute { subnet });
                }
            }
        }
    }

    /// Leaves out new routes, by ascending subnet, that stale ones leave no room for.
    fn leave_out(&mut self) {
        let observed = self.observed;
        let removals = |op: &&MapOp| matches!(op, MapOp::RemoveRoute { .. });
        let removed = self.early.iter().filter(removals).count();
        let mut routes = observed.routes.len() - removed;
        for (subnet, vtep) in self.wanted.peers.vteps() {
            let has_route =
                observed.routes.contains_key(&subnet) && !self.evicted.contains(&subnet);
            if has_route || self.unmapped.contains(&subnet) || self.is_direct(vtep) {
                continue;
            }
            if exceeds(routes + 1, observed.route_capacity) {
                self.unmapped.insert(subnet);
            } else {
                routes += 1;
            }
        }
    }
}

fn lowest_free(observed: &ObservedMaps) -> Option<u32> {
    let vteps = &observed.vteps;
    let len = u32::try_from(vteps.len()).ok()?;
    // Without gaps the end tells; else the first gap has to be looked for.
    let dense = vteps.last_key_value().is_none_or(|(&last, _)| last < len);
    let gap = || vteps.keys().zip(0..len).find(|&(&key, index)| key != index);
    let index = if dense {
        len
    } else {
        gap().map_or(len, |(_, index)| index)
    };
    (index < observed.vtep_capacity).then_some(index)
}

fn exceeds(count: usize, capacity: u32) -> bool {
    usize::try_from(capacity).is_ok_and(|capacity| count > capacity)
}
