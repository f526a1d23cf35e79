//! Permits as userspace sees them: listed, ended, and bound to the veths that there are.
//!
//! Only the programs make permits. What is here ends them: when a pod's veth is gone or may
//! not be fast any more, and when the operator says so.

use std::collections::{BTreeMap, BTreeSet, HashMap as HashedMap};

use aya::maps::{HashMap, Map, MapData, MapError};
use twill_abi::maps::{LOCAL_PODS, PENDING, PERMITS_POD, PERMITS_WIRE, VETH_FLAGS};
use twill_abi::{
    Address, FlowTuple, LocalPod, Mapping, Pending, Permit, VETH_FLAG_ATTACHED,
    VETH_FLAG_NEVER_FAST, VethFlags,
};

use super::maps::{MapsError, gone, typed};

/// How many keys are looked at: four times as many as the largest map has.
const MOST_KEYS: usize = 4 << 20;

/// What a pod's veth may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum VethUse {
    /// Its flows may have permits.
    Fast,
    /// They never do.
    NeverFast,
}

/// The maps of the fast path, open.
pub struct Permits {
    pod: HashMap<MapData, FlowTuple, Permit>,
    wire: HashMap<MapData, FlowTuple, Mapping>,
    notes: HashMap<MapData, u32, Pending>,
    places: HashMap<MapData, Address, LocalPod>,
    veths: HashMap<MapData, u32, VethFlags>,
    /// Veths whose permits are still to be ended: an end that failed is made up for.
    lost: BTreeSet<u32>,
}

impl Permits {
    /// Takes the maps out of `take(name)`, whose shape was verified.
    pub fn open(
        mut take: impl FnMut(&'static str) -> Result<Map, MapsError>,
    ) -> Result<Self, MapsError> {
        Ok(Self {
            pod: typed(&PERMITS_POD, &mut take)?,
            wire: typed(&PERMITS_WIRE, &mut take)?,
            notes: typed(&PENDING, &mut take)?,
            places: typed(&LOCAL_PODS, &mut take)?,
            veths: typed(&VETH_FLAGS, &mut take)?,
            lost: BTreeSet::new(),
        })
    }

    /// Every record by its key, tombstones and expired ones too. The programs go on meanwhile,
    /// so a record that is made or ended right now may be missing.
    pub fn list(&self) -> Result<HashedMap<FlowTuple, Permit>, MapsError> {
        let mut records = HashedMap::new();
        // Where a key goes while it is looked at, the kernel starts from the first one again.
        for key in self.pod.keys().take(MOST_KEYS) {
            let key = key.map_err(read)?;
            if let Some(record) = self.get(&key)? {
                records.insert(key, record);
            }
        }
        Ok(records)
    }

    /// The record of a tuple that a pod sends.
    pub fn get(&self, key: &FlowTuple) -> Result<Option<Permit>, MapsError> {
        match self.pod.get(key, 0) {
            Ok(record) => Ok(Some(record)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(read(error)),
        }
    }

    /// What a veth may do, `VETH_FLAG_*`; none where nothing was said of it.
    pub fn veth_flags(&self, ifindex: u32) -> Result<u32, MapsError> {
        match self.veths.get(&ifindex, 0) {
            Ok(value) => Ok(value.flags),
            Err(MapError::KeyNotFound) => Ok(0),
            Err(source) => Err(MapsError::Read {
                map: VETH_FLAGS.name,
                source,
            }),
        }
    }

    /// Ends every permit that `which` says; gives how many. What netfilter has accepted and no
    /// permit was made of yet is forgotten, whoever it belongs to: that flow asks again.
    pub fn end(&mut self, which: impl Fn(&FlowTuple, &Permit) -> bool) -> Result<usize, MapsError> {
        // First, or a permit could be made of one behind our back.
        self.forget_acceptances()?;
        let mut ended = 0;
        for (key, record) in self.list()? {
            if which(&key, &record) {
                ended += usize::from(self.end_one(&key, &record)?);
            }
        }
        Ok(ended)
    }

    /// Ends one permit; whether it was still there.
    fn end_one(&mut self, key: &FlowTuple, record: &Permit) -> Result<bool, MapsError> {
        // Another flow may have the same tuple on the wire by now.
        let ours = record.wire != *key
            && matches!(self.wire.get(&record.wire, 0), Ok(mapping) if mapping.tuple == *key);
        if ours {
            removed(self.wire.remove(&record.wire), PERMITS_WIRE.name)?;
        }
        removed(self.pod.remove(key), PERMITS_POD.name)
    }

    fn forget_acceptances(&mut self) -> Result<(), MapsError> {
        let mut accepted = Vec::new();
        for entry in self.notes.iter().take(MOST_KEYS) {
            let (hash, note) = entry.map_err(|source| MapsError::Read {
                map: PENDING.name,
                source,
            })?;
            if note.out_until_ns != 0 {
                accepted.push(hash);
            }
        }
        for hash in accepted {
            removed(self.notes.remove(&hash), PENDING.name)?;
        }
        Ok(())
    }

    /// Forgets where pods are, where `which` says so.
    fn forget_places(&mut self, which: impl Fn(&LocalPod) -> bool) -> Result<(), MapsError> {
        let mut places = Vec::new();
        for entry in &self.places {
            let (address, place) = entry.map_err(|source| MapsError::Read {
                map: LOCAL_PODS.name,
                source,
            })?;
            if which(&place) {
                places.push(address);
            }
        }
        for address in places {
            gone(self.places.remove(&address)).map_err(|source| MapsError::Write {
                map: LOCAL_PODS.name,
                what: "the end of a pod's place".to_owned(),
                source,
            })?;
        }
        Ok(())
    }

    /// Writes what each pod's veth may do, and ends the permits of all others.
    pub fn set_pods(&mut self, pods: &BTreeMap<u32, VethUse>) -> Result<(), MapsError> {
        let mut known = self.veths()?;
        for (&ifindex, &pod) in pods {
            if known.remove(&ifindex) != Some(flags_of(pod)) {
                self.write(ifindex, pod)?;
            }
        }
        for &ifindex in known.keys() {
            self.erase(ifindex)?;
        }
        self.end_lost()
    }

    /// Writes what one pod's veth may do; the others stay what they are.
    pub fn add_pod(&mut self, ifindex: u32, pod: VethUse) -> Result<(), MapsError> {
        if self.veth_flags(ifindex)? != flags_of(pod) {
            self.write(ifindex, pod)?;
        }
        self.end_lost()
    }

    /// Forgets the veths of pods, and ends their permits; those of all others stay.
    pub fn remove_pods(
        &mut self,
        ifindexes: impl IntoIterator<Item = u32>,
    ) -> Result<(), MapsError> {
        for ifindex in ifindexes {
            self.erase(ifindex)?;
        }
        self.end_lost()
    }

    /// What every pod's veth may do, `VETH_FLAG_*`, by interface index.
    pub fn veths(&self) -> Result<BTreeMap<u32, u32>, MapsError> {
        let mut known = BTreeMap::new();
        for entry in &self.veths {
            let (ifindex, value) = entry.map_err(|source| MapsError::Read {
                map: VETH_FLAGS.name,
                source,
            })?;
            known.insert(ifindex, value.flags);
        }
        Ok(known)
    }

    fn write(&mut self, ifindex: u32, pod: VethUse) -> Result<(), MapsError> {
        let value = VethFlags {
            flags: flags_of(pod),
            reserved: 0,
        };
        self.veths
            .insert(ifindex, value, 0)
            .map_err(unwritten(ifindex))?;
        // Also a veth that is new: its index may have been another's.
        self.lost.insert(ifindex);
        Ok(())
    }

    fn erase(&mut self, ifindex: u32) -> Result<(), MapsError> {
        self.lost.insert(ifindex);
        gone(self.veths.remove(&ifindex)).map_err(unwritten(ifindex))
    }

    /// Ends the permits of veths that are not what they were.
    fn end_lost(&mut self) -> Result<(), MapsError> {
        if !self.lost.is_empty() {
            let lost = self.lost.clone();
            // First, or a record could be made of a place that is no more.
            self.forget_places(|place| lost.contains(&place.ifindex))?;
            self.end(|_, record| lost.contains(&record.ifindex))?;
            self.lost.clear();
        }
        Ok(())
    }
}

fn unwritten(ifindex: u32) -> impl FnOnce(MapError) -> MapsError {
    move |source| MapsError::Write {
        map: VETH_FLAGS.name,
        what: format!("interface {ifindex}"),
        source,
    }
}

fn flags_of(pod: VethUse) -> u32 {
    match pod {
        VethUse::Fast => VETH_FLAG_ATTACHED,
        VethUse::NeverFast => VETH_FLAG_ATTACHED | VETH_FLAG_NEVER_FAST,
    }
}

/// Whether the entry was there.
fn removed(result: Result<(), MapError>, map: &'static str) -> Result<bool, MapsError> {
    match result {
        Ok(()) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(false)
        }
        Err(source) => Err(MapsError::Write {
            map,
            what: "the end of a permit".to_owned(),
            source,
        }),
    }
}

fn read(source: MapError) -> MapsError {
    MapsError::Read {
        map: PERMITS_POD.name,
        source,
    }
}
