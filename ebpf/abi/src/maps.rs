//! Every map: name, kind, sizes. Names have at most 15 bytes, so that `bpftool` shows them whole.

use crate::{
    Address, COUNTERS, Config, Counter, FlowTuple, LocalPod, Mapping, Pending, Permit, RouteKey,
    RoutePrefix, Stranger, VethFlags, Vtep, VtepCounter, VtepState,
};

/// Kind of a map, with the number of `enum bpf_map_type` (`include/uapi/linux/bpf.h`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH`.
    Hash = 1,
    /// `BPF_MAP_TYPE_ARRAY`.
    Array = 2,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PerCpuArray = 6,
    /// `BPF_MAP_TYPE_LRU_HASH`.
    LruHash = 9,
    /// `BPF_MAP_TYPE_LPM_TRIE`.
    LpmTrie = 11,
}

/// `BPF_F_NO_PREALLOC`: memory is taken entry by entry. LPM tries demand it.
pub const NO_PREALLOC: u32 = 1;

/// One map as both sides agree on it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MapSpec {
    /// Name in the object, in `bpftool` and of the pin.
    pub name: &'static str,
    /// Kind.
    pub kind: MapKind,
    /// Size of a key in bytes.
    pub key_size: u32,
    /// Size of a value in bytes; of one CPU's where the kind is per CPU.
    pub value_size: u32,
    /// Entries, before the agent's options.
    pub max_entries: u32,
    /// `BPF_F_*`.
    pub flags: u32,
}

const fn size_of_u32<T>() -> u32 {
    let size = size_of::<T>();
    assert!(size < 1024);
    #[expect(clippy::cast_possible_truncation, reason = "checked in the line above")]
    let size = size as u32;
    size
}

const fn spec<K, V>(name: &'static str, kind: MapKind, max_entries: u32, flags: u32) -> MapSpec {
    assert!(name.len() <= 15, "longer than BPF_OBJ_NAME_LEN");
    MapSpec {
        name,
        kind,
        key_size: size_of_u32::<K>(),
        value_size: size_of_u32::<V>(),
        max_entries,
        flags,
    }
}

/// Run-time settings, see [`Config`].
pub const CONFIG: MapSpec = spec::<u32, Config>("config", MapKind::Array, 2, 0);
/// Subnet of the common prefix length → index of `vteps`.
pub const OVERLAY_ROUTES: MapSpec =
    spec::<RouteKey, u32>("overlay_routes", MapKind::Hash, 16_384, NO_PREALLOC);
/// Subnet of any other prefix length → index of `vteps`.
pub const ODD_ROUTES: MapSpec =
    spec::<RoutePrefix, u32>("odd_routes", MapKind::LpmTrie, 16_384, NO_PREALLOC);
/// Addresses of which no flow may be direct. In the mode `permit` the table `inet twill` sees to it.
pub const EXCLUDED: MapSpec =
    spec::<RoutePrefix, u32>("excluded", MapKind::LpmTrie, 16_384, NO_PREALLOC);
/// Remote VTEPs.
pub const VTEPS: MapSpec = spec::<u32, Vtep>("vteps", MapKind::Array, 16_384, 0);
/// What the programs found out about them.
pub const VTEP_STATE: MapSpec = spec::<u32, VtepState>("vtep_state", MapKind::Array, 16_384, 0);
/// Underlay address of a VTEP → index of `vteps`.
pub const VTEP_SOURCES: MapSpec =
    spec::<Address, u32>("vtep_sources", MapKind::Hash, 16_384, NO_PREALLOC);
/// Permits by the tuple that the pod sends.
pub const PERMITS_POD: MapSpec =
    spec::<FlowTuple, Permit>("permits_pod", MapKind::LruHash, 65_536, 0);
/// The tuple on the wire → the tuple that the pod sends, where NAT made them differ.
pub const PERMITS_WIRE: MapSpec =
    spec::<FlowTuple, Mapping>("permits_wire", MapKind::LruHash, 65_536, 0);
/// `skb->hash` → what a pod sent, and what became of it.
pub const PENDING: MapSpec = spec::<u32, Pending>("pending", MapKind::LruHash, PENDING_ENTRIES, 0);
/// The next version has a map of another size, so that nothing can take one for the other.
const PENDING_ENTRIES: u32 = if cfg!(feature = "next-abi") {
    32_768
} else {
    65_536
};
/// Flows that are the stack's where the mode is `direct`: the tuple that the pod knows → the tuple
/// on the wire.
pub const MAPPINGS: MapSpec = spec::<FlowTuple, Mapping>("mappings", MapKind::LruHash, 65_536, 0);
/// Address of a local pod → where it is.
pub const LOCAL_PODS: MapSpec = spec::<Address, LocalPod>("local_pods", MapKind::LruHash, 4_096, 0);
/// Interface index of a veth → flags.
pub const VETH_FLAGS: MapSpec =
    spec::<u32, VethFlags>("veth_flags", MapKind::Hash, 4_096, NO_PREALLOC);
/// Outer source of VXLAN that is no VTEP's → what came from there.
pub const STRANGERS: MapSpec = spec::<Address, Stranger>("strangers", MapKind::LruHash, 1_024, 0);
/// When each CPU last wrote down a new stranger, and until when its time for new permits is
/// used, `CLOCK_MONOTONIC` nanoseconds; see [`PACE_OF_STRANGERS`] and [`PACE_OF_PERMITS`].
pub const PACES: MapSpec = spec::<u32, u64>("paces", MapKind::PerCpuArray, 2, 0);
/// Place of the strangers in [`PACES`].
pub const PACE_OF_STRANGERS: u32 = 0;
/// Place of the permits in [`PACES`].
pub const PACE_OF_PERMITS: u32 = 1;
/// Where a program puts a new permit together: its stack is too small for one.
pub const SCRATCH: MapSpec = spec::<u32, Permit>("scratch", MapKind::PerCpuArray, 1, 0);
/// Packets by program and reason.
pub const COUNTERS_MAP: MapSpec =
    spec::<u32, Counter>("counters", MapKind::PerCpuArray, COUNTERS, 0);
/// Packets by VTEP.
pub const VTEP_COUNTERS: MapSpec =
    spec::<u32, VtepCounter>("vtep_counters", MapKind::PerCpuArray, 16_384, 0);

/// Every map of this ABI version.
pub const MAPS: &[MapSpec] = &[
    CONFIG,
    OVERLAY_ROUTES,
    ODD_ROUTES,
    EXCLUDED,
    VTEPS,
    VTEP_STATE,
    VTEP_SOURCES,
    PERMITS_POD,
    PERMITS_WIRE,
    PENDING,
    MAPPINGS,
    LOCAL_PODS,
    VETH_FLAGS,
    STRANGERS,
    PACES,
    SCRATCH,
    COUNTERS_MAP,
    VTEP_COUNTERS,
];
