//! Permits as userspace sees them: listed, ended, and bound to the veths that there are.
//!
//! Only the programs make permits. What is here ends them: when a pod's veth is gone or may
//! not be fast any more, and when the operator says so.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{HashMap, Map, MapData, MapError};
use twill_abi::maps::{LOCAL_PODS, PERMITS_POD, PERMITS_WIRE, VETH_FLAGS};
use twill_abi::{
    Address, FlowTuple, LocalPod, Mapping, Permit, VETH_FLAG_ATTACHED, VETH_FLAG_NEVER_FAST,
    VethFlags,
};

use super::maps::{MapsError, gone};

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
        macro_rules! typed {
            ($spec:expr) => {
                take($spec.name)?
                    .try_into()
                    .map_err(|source| MapsError::Open {
                        map: $spec.name,
                        source,
                    })?
            };
        }
        Ok(Self {
            pod: typed!(PERMITS_POD),
            wire: typed!(PERMITS_WIRE),
            places: typed!(LOCAL_PODS),
            veths: typed!(VETH_FLAGS),
            lost: BTreeSet::new(),
        })
    }

    /// Every record, tombstones and expired ones too, in no order. The programs go on
    /// meanwhile, so a record may be missing or be there twice.
    pub fn list(&self) -> Result<Vec<Permit>, MapsError> {
        let mut records = Vec::new();
        for key in self.pod.keys() {
            let key = key.map_err(read)?;
            match self.pod.get(&key, 0) {
                Ok(record) => records.push(record),
                // Gone since it was seen.
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(read(error)),
            }
        }
        Ok(records)
    }

    /// Ends every permit that `which` says; gives how many.
    pub fn end(&mut self, which: impl Fn(&Permit) -> bool) -> Result<usize, MapsError> {
        let mut ended = 0;
        for record in self.list()?.iter().filter(|record| which(record)) {
            let write = |source| MapsError::Write {
                map: PERMITS_POD.name,
                what: "the end of a permit".to_owned(),
                source,
            };
            gone(self.pod.remove(&record.pod)).map_err(write)?;
            // There is one only where NAT made the tuples differ.
            gone(self.wire.remove(&record.wire)).map_err(write)?;
            ended += 1;
        }
        Ok(ended)
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
        let mut known = BTreeMap::new();
        for entry in &self.veths {
            let (ifindex, flags) = entry.map_err(|source| MapsError::Read {
                map: VETH_FLAGS.name,
                source,
            })?;
            known.insert(ifindex, flags.flags);
        }
        let write = |ifindex: u32| {
            move |source| MapsError::Write {
                map: VETH_FLAGS.name,
                what: format!("interface {ifindex}"),
                source,
            }
        };
        for (&ifindex, &pod) in pods {
            let flags = flags_of(pod);
            if known.remove(&ifindex) == Some(flags) {
                continue;
            }
            let value = VethFlags { flags, reserved: 0 };
            self.veths
                .insert(ifindex, value, 0)
                .map_err(write(ifindex))?;
            // Also a veth that is new: its index may have been another's.
            self.lost.insert(ifindex);
        }
        for &ifindex in known.keys() {
            self.lost.insert(ifindex);
            gone(self.veths.remove(&ifindex)).map_err(write(ifindex))?;
        }
        if !self.lost.is_empty() {
            let lost = self.lost.clone();
            // First, or a record could be made of a place that is no more.
            self.forget_places(|place| lost.contains(&place.ifindex))?;
            self.end(|record| lost.contains(&record.ifindex))?;
            self.lost.clear();
        }
        Ok(())
    }
}

fn flags_of(pod: VethUse) -> u32 {
    match pod {
        VethUse::Fast => VETH_FLAG_ATTACHED,
        VethUse::NeverFast => VETH_FLAG_ATTACHED | VETH_FLAG_NEVER_FAST,
    }
}

fn read(source: MapError) -> MapsError {
    MapsError::Read {
        map: PERMITS_POD.name,
        source,
    }
}
