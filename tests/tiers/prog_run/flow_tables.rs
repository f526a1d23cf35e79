//! The maps about flows and pods: what a case starts with, and what it left behind.

use std::fmt::Debug;

use aya::Ebpf;
use aya::maps::HashMap;
use twill_abi::maps::{LOCAL_PODS, MAPPINGS, PENDING, PERMITS_POD, PERMITS_WIRE, VETH_FLAGS};
use twill_abi::{Address, FlowTuple, LocalPod, Mapping, Pending, Permit, VethFlags};

use super::lab::monotonic_ns;

/// In what is expected, a time: the moment when the program ran, and this much more nanoseconds
/// (see [`at`]). No time that a case starts with may be as late.
const RUN: u64 = 1 << 62;
/// A time that has long come, and is not zero.
pub(crate) const PAST: u64 = 1;
/// A time that does not come while a test runs.
pub(crate) const FAR: u64 = 1 << 60;
/// Never.
pub(crate) const NEVER: u64 = u64::MAX;
/// Of a note that a case starts with: when the maps are written, which on a slow machine is long
/// after the case was. Something subtracted from it is an age, nanoseconds.
pub(crate) const JUST_NOW: u64 = 1 << 61;
/// The oldest of such.
const OLDEST_NS: u64 = 1_000_000_000;
/// In what is expected, the key of the one note that is new in `pending`.
pub(crate) const ITS_HASH: u32 = 0xffff_fffe;

/// Of a time that is expected: so many nanoseconds after the program's own look at the clock.
pub(crate) const fn at(after_ns: u64) -> u64 {
    RUN + after_ns
}

/// The maps that the programs write for each flow, and `veth_flags`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FlowTables {
    /// `permits_pod`.
    pub(crate) permits: Table<FlowTuple, Permit>,
    /// `permits_wire`.
    pub(crate) wire: Table<FlowTuple, Mapping>,
    /// `mappings`.
    pub(crate) mappings: Table<FlowTuple, Mapping>,
    /// `pending`.
    pub(crate) pending: Table<u32, Pending>,
    /// `local_pods`.
    pub(crate) local_pods: Table<Address, LocalPod>,
    /// `veth_flags`.
    pub(crate) veth_flags: Table<u32, VethFlags>,
}

/// The entries of one map.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Table<K, V>(Vec<(K, V)>);

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: aya::Pod + Debug + PartialEq, V: aya::Pod + Debug> Table<K, V> {
    /// Creates or replaces an entry.
    pub(crate) fn set(&mut self, key: K, value: V) {
        self.remove(&key);
        self.0.push((key, value));
    }

    /// Removes an entry.
    pub(crate) fn remove(&mut self, key: &K) {
        self.0.retain(|(other, _)| other != key);
    }

    /// The entry of a key.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let entry = self.0.iter().find(|(other, _)| other == key);
        entry.map(|(_, value)| value)
    }

    /// The entry of a key, to be changed.
    pub(crate) fn at(&mut self, key: &K) -> &mut V {
        let entry = self.0.iter_mut().find(|(other, _)| other == key);
        entry.map_or_else(|| panic!("no entry for {key:?}"), |(_, value)| value)
    }

    /// The keys.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }

    fn difference(&self, name: &str, found: &Self, tell: &mut impl FnMut(&str, String, String))
    where
        V: PartialEq,
    {
        if self != found {
            let listed = |table: &Self| {
                let entries = table.0.iter().map(|entry| format!("\n    {entry:?}"));
                entries.collect::<String>()
            };
            tell(name, listed(self), listed(found));
        }
    }

    fn sorted(mut self) -> Self {
        self.0.sort_by_cached_key(|(key, _)| format!("{key:?}"));
        self
    }

    fn write(&self, ebpf: &mut Ebpf, name: &str) {
        let mut map = open::<K, V>(ebpf, name);
        let keys: Vec<K> = map.keys().collect::<Result<_, _>>().expect("keys");
        for key in keys {
            map.remove(&key).expect("remove an entry");
        }
        for (key, value) in &self.0 {
            map.insert(key, value, 0).expect("insert an entry");
        }
    }

    fn read(ebpf: &mut Ebpf, name: &str) -> Self {
        let entries = open(ebpf, name).iter().collect::<Result<_, _>>();
        Self(entries.expect("read a hash")).sorted()
    }
}

/// A hash map of the object.
pub(crate) fn open<'a, K: aya::Pod, V: aya::Pod>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> HashMap<&'a mut aya::maps::MapData, K, V> {
    let map = ebpf
        .map_mut(name)
        .unwrap_or_else(|| panic!("the object has no map {name}"));
    HashMap::try_from(map).unwrap_or_else(|error| panic!("open {name}: {error}"))
}

/// How long before [`JUST_NOW`] this is, if it is such a time.
fn age(time_ns: u64) -> Option<u64> {
    let age_ns = JUST_NOW.checked_sub(time_ns)?;
    (age_ns <= OLDEST_NS).then_some(age_ns)
}

impl FlowTables {
    /// Makes the maps hold exactly this.
    pub(crate) fn write(&self, ebpf: &mut Ebpf) {
        self.permits.write(ebpf, PERMITS_POD.name);
        self.wire.write(ebpf, PERMITS_WIRE.name);
        self.mappings.write(ebpf, MAPPINGS.name);
        self.local_pods.write(ebpf, LOCAL_PODS.name);
        self.veth_flags.write(ebpf, VETH_FLAGS.name);
        // Last: their time runs.
        let mut pending = self.pending.clone();
        for (_, note) in &mut pending.0 {
            for time_ns in [&mut note.written_ns, &mut note.mapped_ns] {
                if let Some(age_ns) = age(*time_ns) {
                    *time_ns = monotonic_ns() - age_ns;
                }
            }
        }
        pending.write(ebpf, PENDING.name);
    }

    /// What the maps hold.
    pub(crate) fn read(ebpf: &mut Ebpf) -> Self {
        Self {
            permits: Table::read(ebpf, PERMITS_POD.name),
            wire: Table::read(ebpf, PERMITS_WIRE.name),
            mappings: Table::read(ebpf, MAPPINGS.name),
            pending: Table::read(ebpf, PENDING.name),
            local_pods: Table::read(ebpf, LOCAL_PODS.name),
            veth_flags: Table::read(ebpf, VETH_FLAGS.name),
        }
    }

    /// This, with the program's look at the clock and the hash of its note filled in as they
    /// were `found`. All times must tell of one look, within `time_ns`; else they stay as they
    /// are, and differ.
    pub(crate) fn settled(&self, found: &Self, time_ns: (u64, u64)) -> Self {
        let mut settled = self.clone();
        let known = |hash: &&u32| self.pending.get(hash).is_none();
        if let Some(note) = settled.pending.get(&ITS_HASH).copied()
            && let Some(&hash) = found.pending.keys().find(known)
        {
            settled.pending.remove(&ITS_HASH);
            settled.pending.set(hash, note);
        }
        let mut settled = Self {
            permits: settled.permits.sorted(),
            wire: settled.wire.sorted(),
            mappings: settled.mappings.sorted(),
            pending: settled.pending.sorted(),
            local_pods: settled.local_pods.sorted(),
            veth_flags: settled.veth_flags.sorted(),
        };
        let found = found
            .clone()
            .times()
            .iter()
            .map(|time| **time)
            .collect::<Vec<_>>();
        let mut times = settled.times();
        if times.len() != found.len() {
            return settled.clone();
        }
        let mut run = None;
        for (wanted, found) in times.iter_mut().zip(found) {
            if let Some(age_ns) = age(**wanted)
                && found + age_ns <= time_ns.0
            {
                **wanted = found;
            }
            if **wanted < RUN || **wanted == NEVER {
                continue;
            }
            let looked = found.wrapping_sub(**wanted - RUN);
            let right =
                *run.get_or_insert(looked) == looked && (time_ns.0..=time_ns.1).contains(&looked);
            if right {
                **wanted = found;
            }
        }
        settled
    }

    /// Tells of every map that is not as it was `found`.
    pub(crate) fn differences(&self, found: &Self, mut tell: impl FnMut(&str, String, String)) {
        let Self {
            permits,
            wire,
            mappings,
            pending,
            local_pods,
            veth_flags,
        } = self;
        permits.difference("permits_pod", &found.permits, &mut tell);
        wire.difference("permits_wire", &found.wire, &mut tell);
        mappings.difference("mappings", &found.mappings, &mut tell);
        pending.difference("pending", &found.pending, &mut tell);
        local_pods.difference("local_pods", &found.local_pods, &mut tell);
        veth_flags.difference("veth_flags", &found.veth_flags, &mut tell);
    }

    /// Every time in here, in the order of the entries.
    fn times(&mut self) -> Vec<&mut u64> {
        let mut times = Vec::new();
        for (_, permit) in &mut self.permits.0 {
            times.extend([
                &mut permit.out_until_ns,
                &mut permit.in_until_ns,
                &mut permit.probe_out_at_ns,
                &mut permit.probe_in_at_ns,
                &mut permit.tombstone_until_ns,
                &mut permit.since_ns,
                &mut permit.look_at_ns,
            ]);
        }
        let mappings = self.wire.0.iter_mut().chain(&mut self.mappings.0);
        times.extend(mappings.map(|(_, mapping)| &mut mapping.written_ns));
        for (_, pending) in &mut self.pending.0 {
            times.extend([
                &mut pending.written_ns,
                &mut pending.mapped_ns,
                &mut pending.out_until_ns,
            ]);
        }
        let places = self.local_pods.0.iter_mut();
        times.extend(places.map(|(_, place)| &mut place.seen_ns));
        times
    }
}
