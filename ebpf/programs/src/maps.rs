//! Every map, and the few ways in which programs touch one.

#![expect(
    unsafe_code,
    reason = "map values are shared with other CPUs and the agent"
)]

use core::arch::asm;

use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, lpm_trie::Key};
use aya_ebpf::macros::btf_map;
use twill_abi::{
    Address, CONFIG_KEY_AGENT, CONFIG_KEY_OPERATOR, Config, Counter, FlowTuple, LocalPod, Mapping,
    Pending, Permit, RouteKey, Stranger, VethFlags, Vtep, VtepCounter, VtepState, maps,
};
use twill_packet::vxlan::Headers;

use crate::access::FibParams;

const NO_PREALLOC: usize = maps::NO_PREALLOC as usize;
/// `BPF_ANY`: create or replace.
const ANY: u64 = 0;

#[btf_map(name = "config")]
static CONFIG: Array<Config, { maps::CONFIG.max_entries as usize }> = Array::new();
#[btf_map(name = "overlay_routes")]
static OVERLAY_ROUTES: HashMap<
    RouteKey,
    u32,
    { maps::OVERLAY_ROUTES.max_entries as usize },
    NO_PREALLOC,
> = HashMap::new();
#[btf_map(name = "odd_routes")]
static ODD_ROUTES: LpmTrie<Address, u32, { maps::ODD_ROUTES.max_entries as usize }> =
    LpmTrie::new();
#[btf_map(name = "excluded")]
static EXCLUDED: LpmTrie<Address, u32, { maps::EXCLUDED.max_entries as usize }> = LpmTrie::new();
#[btf_map(name = "vteps")]
static VTEPS: Array<Vtep, { maps::VTEPS.max_entries as usize }> = Array::new();
#[btf_map(name = "vtep_state")]
static VTEP_STATE: Array<VtepState, { maps::VTEP_STATE.max_entries as usize }> = Array::new();
#[btf_map(name = "vtep_sources")]
static VTEP_SOURCES: HashMap<
    Address,
    u32,
    { maps::VTEP_SOURCES.max_entries as usize },
    NO_PREALLOC,
> = HashMap::new();
#[btf_map(name = "permits_pod")]
static PERMITS_POD: LruHashMap<FlowTuple, Permit, { maps::PERMITS_POD.max_entries as usize }> =
    LruHashMap::new();
#[btf_map(name = "permits_wire")]
static PERMITS_WIRE: LruHashMap<FlowTuple, Mapping, { maps::PERMITS_WIRE.max_entries as usize }> =
    LruHashMap::new();
#[btf_map(name = "pending")]
static PENDING: LruHashMap<u32, Pending, { maps::PENDING.max_entries as usize }> =
    LruHashMap::new();
#[btf_map(name = "mappings")]
static MAPPINGS: LruHashMap<FlowTuple, Mapping, { maps::MAPPINGS.max_entries as usize }> =
    LruHashMap::new();
#[btf_map(name = "local_pods")]
static LOCAL_PODS: LruHashMap<Address, LocalPod, { maps::LOCAL_PODS.max_entries as usize }> =
    LruHashMap::new();
#[btf_map(name = "veth_flags")]
static VETH_FLAGS: HashMap<u32, VethFlags, { maps::VETH_FLAGS.max_entries as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map(name = "strangers")]
static STRANGERS: LruHashMap<Address, Stranger, { maps::STRANGERS.max_entries as usize }> =
    LruHashMap::new();
#[btf_map(name = "paces")]
static PACES: PerCpuArray<u64, { maps::PACES.max_entries as usize }> = PerCpuArray::new();
#[btf_map(name = "scratch")]
static SCRATCH: PerCpuArray<Permit, { maps::SCRATCH.max_entries as usize }> = PerCpuArray::new();
#[btf_map(name = "counters")]
static COUNTERS: PerCpuArray<Counter, { maps::COUNTERS_MAP.max_entries as usize }> =
    PerCpuArray::new();
#[btf_map(name = "vtep_counters")]
static VTEP_COUNTERS: PerCpuArray<VtepCounter, { maps::VTEP_COUNTERS.max_entries as usize }> =
    PerCpuArray::new();

/// The agent's settings.
#[inline(always)]
pub fn agent_config() -> Option<&'static Config> {
    CONFIG.get(CONFIG_KEY_AGENT)
}

/// The operator's override.
#[inline(always)]
pub fn operator_config() -> Option<&'static Config> {
    CONFIG.get(CONFIG_KEY_OPERATOR)
}

/// Index of the VTEP behind a masked destination.
#[inline(always)]
pub fn route(network: Address) -> Option<u32> {
    // SAFETY: the value is copied out at once; a `u32` is read in one piece.
    unsafe { OVERLAY_ROUTES.get(RouteKey { network }) }.copied()
}

/// Index of the VTEP behind the longest odd prefix that covers an address.
#[inline(always)]
pub fn odd_route(address: Address) -> Option<u32> {
    ODD_ROUTES.get(&Key::new(128, address)).copied()
}

/// Whether the operator has excluded an address.
#[inline(always)]
pub fn is_excluded(address: Address) -> bool {
    EXCLUDED.get(&Key::new(128, address)).is_some()
}

/// A remote VTEP.
#[inline(always)]
pub fn vtep(index: u32) -> Option<&'static Vtep> {
    VTEPS.get(index)
}

/// What was found out about a VTEP.
#[inline(always)]
pub fn vtep_state(index: u32) -> Option<&'static mut VtepState> {
    let state = VTEP_STATE.get_ptr_mut(index)?;
    // SAFETY: array entries live as long as the program. Other CPUs write the same words, each
    // by one aligned store; no reader depends on two of them agreeing.
    Some(unsafe { &mut *state })
}

/// Index of the VTEP with this underlay address.
#[inline(always)]
pub fn vtep_by_source(underlay: Address) -> Option<u32> {
    // SAFETY: the value is copied out at once; a `u32` is read in one piece.
    unsafe { VTEP_SOURCES.get(underlay) }.copied()
}

macro_rules! flow_map {
    ($map:ident, $key:ty, $value:ty, $get:ident, $insert:ident $(, $remove:ident)?) => {
        /// The entry, shared with other CPUs.
        #[inline(always)]
        pub fn $get(key: &$key) -> Option<&'static mut $value> {
            let value = $map.get_ptr_mut(key)?;
            // SAFETY: the kernel frees an entry only after this program has ended (RCU) and may
            // hand an evicted one to another key before: whoever depends on an entry's identity
            // compares the tuple in it. Fields are written by single aligned stores.
            Some(unsafe { &mut *value })
        }

        /// Creates or replaces the entry; a full map is no error worth more than slow packets.
        #[inline(always)]
        pub fn $insert(key: &$key, value: &$value) -> bool {
            $map.insert(key, value, ANY).is_ok()
        }

        $(
            /// Removes the entry, and says whether there was one.
            #[inline(always)]
            pub fn $remove(key: &$key) -> bool {
                $map.remove(key).is_ok()
            }
        )?
    };
}

flow_map!(
    PERMITS_POD,
    FlowTuple,
    Permit,
    permit,
    insert_permit,
    remove_permit
);
flow_map!(
    PERMITS_WIRE,
    FlowTuple,
    Mapping,
    wire_mapping,
    insert_wire_mapping,
    remove_wire_mapping
);
flow_map!(
    MAPPINGS,
    FlowTuple,
    Mapping,
    mapping,
    insert_mapping,
    remove_mapping
);
flow_map!(PENDING, u32, Pending, pending, insert_pending);

flow_map!(LOCAL_PODS, Address, LocalPod, local_pod, insert_local_pod);

flow_map!(STRANGERS, Address, Stranger, stranger, insert_stranger);

/// A time of this CPU, one of `maps::PACE_OF_*`.
#[inline(always)]
pub fn pace(of: u32) -> Option<&'static mut u64> {
    let pace = PACES.get_ptr_mut(of)?;
    // SAFETY: the entry is this CPU's own; XDP and TC on one CPU do not interrupt each other.
    Some(unsafe { &mut *pace })
}

/// Adds one to a word that other CPUs add to as well.
#[inline(always)]
pub fn add_one(word: &mut u64) {
    // SAFETY: the word is an aligned `u64` of a map value that lives as long as the program. By
    // assembly: `core` has no atomic types for this target.
    unsafe {
        asm!(
            "lock *(u64 *)({word} + 0) += {one}",
            word = in(reg) core::ptr::from_mut(word),
            one = in(reg) 1_u64,
            options(nostack),
        );
    }
}

/// Flags of a veth; none where the agent has said nothing.
#[inline(always)]
pub fn veth_flags(ifindex: u32) -> u32 {
    // SAFETY: the word is copied out at once.
    unsafe { VETH_FLAGS.get(ifindex) }.map_or(0, |flags| flags.flags)
}

/// This CPU's place to put a new permit together.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Permit> {
    let permit = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the entry is this CPU's own, and no program of ours runs inside another.
    Some(unsafe { &mut *permit })
}

/// The same place for a question to the kernel's routing, while nothing else is in it.
#[inline(always)]
pub fn scratch_fib() -> Option<&'static mut FibParams> {
    // SAFETY: plain integers, of which any bit pattern is a value.
    unsafe { scratch_as() }
}

/// The same place for headers, while nothing else is in it.
#[inline(always)]
pub fn scratch_headers() -> Option<&'static mut Headers> {
    // SAFETY: plain bytes, of which any pattern is a value.
    unsafe { scratch_as() }
}

/// # Safety
///
/// Any bit pattern must be a value of `T`, and nothing else of ours in use there.
#[inline(always)]
unsafe fn scratch_as<T>() -> Option<&'static mut T> {
    const { assert!(size_of::<T>() <= size_of::<Permit>()) };
    const { assert!(align_of::<T>() <= align_of::<Permit>()) };
    let place = SCRATCH.get_ptr_mut(0)?.cast::<T>();
    // SAFETY: the entry is this CPU's own, no program of ours runs inside another, and the caller
    // answers for `T`.
    Some(unsafe { &mut *place })
}

/// A counter of this CPU.
#[inline(always)]
pub fn counter(index: u32) -> Option<&'static mut Counter> {
    let counter = COUNTERS.get_ptr_mut(index)?;
    // SAFETY: the entry is this CPU's own, and programs are not preempted by each other here.
    Some(unsafe { &mut *counter })
}

/// The counters of a VTEP on this CPU.
#[inline(always)]
pub fn vtep_counter(index: u32) -> Option<&'static mut VtepCounter> {
    let counter = VTEP_COUNTERS.get_ptr_mut(index)?;
    // SAFETY: the entry is this CPU's own, and programs are not preempted by each other here.
    Some(unsafe { &mut *counter })
}
