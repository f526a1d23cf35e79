//! The border between Twill's BPF programs and its userspace: every type that
//! crosses it, every map's name and capacity, every reason that is counted.
//!
//! Both sides compile this very source, so each compilation proves its own
//! layout (see [`layout`]). A change of any layout, map or meaning is a new
//! [`ABI_VERSION`]; versions live side by side under `pins::directory`.

#![no_std]
#![deny(clippy::indexing_slicing)]
#![expect(
    clippy::inline_always,
    reason = "a BPF function call costs what these functions save"
)]

pub mod layout;

mod address;
mod config;
mod counter;
mod flow;
pub mod maps;
mod order;
#[cfg(feature = "user")]
mod pod;
mod reason;
mod route;
mod stranger;
mod vtep;

pub use address::Address;
pub use config::{
    CONFIG_FLAG_BARE_UPLINK, CONFIG_FLAG_EXCLUDED_LINKS, CONFIG_FLAG_EXCLUSIONS,
    CONFIG_FLAG_FAST_PATH, CONFIG_FLAG_GUARD_AT_TC, CONFIG_FLAG_LEASES_COMPLETE,
    CONFIG_FLAG_ODD_ROUTES, CONFIG_FLAG_OVERLAY_POLICY, CONFIG_FLAG_POD_VXLAN,
    CONFIG_FLAG_ROUTED_BY_PORT, CONFIG_FLAG_SHARED_PORT, CONFIG_FLAG_STALE,
    CONFIG_FLAG_TCP_PERMITS, CONFIG_KEY_AGENT, CONFIG_KEY_OPERATOR, Config, FastPath,
    GUARD_HEARTBEAT_NS, Guard, Mode, PERMIT_BURST_NS,
};
pub use counter::{Counter, VtepCounter};
pub use flow::{
    FlowTuple, LocalPod, Mapping, PERMIT_FLAG_DIRECT, PERMIT_FLAG_UNANSWERED, PERMIT_FLAG_UNHEARD,
    PERMIT_FLAGS, PERMIT_LIVE, PERMIT_TOMBSTONE, Pending, Permit, VETH_FLAG_ATTACHED,
    VETH_FLAG_NEVER_FAST, VethFlags,
};
pub use maps::{MAPS, MapKind, MapSpec};
pub use order::{Be16, Be32};
pub use reason::{COUNTERS, Program, REASONS_PER_PROGRAM, Reason, counter_index};
pub use route::{RouteKey, RoutePrefix};
pub use stranger::Stranger;
pub use vtep::{HEARD_TICKS, VTEP_FLAG_ACTIVE, Vtep, VtepState};

/// Version of everything in this crate; part of the pin path
/// `/sys/fs/bpf/twill/<instance>/v<ABI_VERSION>/`.
pub const ABI_VERSION: u32 = 1 + cfg!(feature = "next-abi") as u32;

/// Name of the read-only global in which the programs carry [`ABI_VERSION`].
pub const ABI_VERSION_SYMBOL: &str = "TWILL_ABI_VERSION";
