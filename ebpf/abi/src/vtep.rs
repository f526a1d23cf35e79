//! Remote VTEPs: what the agent says of them, and what the programs found out.

use crate::Address;
use crate::layout::abi_struct;

/// The entry is in use.
pub const VTEP_FLAG_ACTIVE: u32 = 1 << 0;

/// For how long a VTEP counts as heard, in the units of [`VtepState::heard_at`]: 69 s.
pub const HEARD_TICKS: u32 = 64;

abi_struct! {
    /// Where to send a packet whose destination lies in a remote subnet. Written by the
    /// agent alone; index of the map `vteps`. What `flags` says is in use is never rewritten but
    /// for `flags`, `generation` and the MTUs: a reader on another CPU sees no mixture of two
    /// VTEPs.
    pub struct Vtep: 64, align 4 {
        /// Underlay address of the remote node: outer destination, and the only trusted outer source.
        pub underlay: Address = 0,
        /// Network address of the first subnet behind this VTEP, for people.
        pub subnet: Address = 16,
        /// MAC address of the remote vxlan device: the inner Ethernet destination.
        pub mac: [u8; 6] = 32,
        /// Prefix length of `subnet` in the mapped form, 0 to 128.
        pub subnet_prefix: u8 = 38,
        /// Zero.
        pub reserved: u8 = 39,
        /// VNI in the low 24 bits.
        pub vni: u32 = 40,
        /// `VTEP_FLAG_*`.
        pub flags: u32 = 44,
        /// Changes whenever the entry does: a [`VtepState`] of another generation is void.
        pub generation: u32 = 48,
        /// Largest outer IP packet that the route to it takes, bytes, where that says so (`mtu`
        /// of `ip route`); 0: nothing said. The programs' own lookup knows learned limits only.
        pub path_mtu: u32 = 52,
        /// Largest outer IP packet with what the routes to its subnets take, bytes, where one of
        /// them says so: its `mtu` and the 50 bytes of encapsulation; 0: nothing said.
        pub subnet_mtu: u32 = 56,
        /// Room.
        pub reserved_tail: u32 = 60,
    }
}

abi_struct! {
    /// What the programs found out about the VTEP of the same index: written by the programs
    /// alone, in the map `vtep_state`, each field by one aligned store, so that a reader on
    /// another CPU never sees half of one.
    pub struct VtepState: 64, align 8 {
        /// Until when BPF may encapsulate to this VTEP, `CLOCK_MONOTONIC` nanoseconds.
        pub outer_permit_until_ns: u64 = 0,
        /// When a packet goes the kernel's way to ask again, `CLOCK_MONOTONIC` nanoseconds.
        pub outer_probe_at_ns: u64 = 8,
        /// Until when the next hop below may be used, `CLOCK_MONOTONIC` nanoseconds.
        pub nexthop_until_ns: u64 = 16,
        /// MAC address of the next hop, in the first six bytes in memory.
        pub nexthop_mac: u64 = 24,
        /// MAC address of the interface towards it, in the first six bytes in memory.
        pub source_mac: u64 = 32,
        /// Interface index towards the next hop; 0: none.
        pub ifindex: u32 = 40,
        /// Largest outer IP packet on the way, bytes: what the kernel's routing says, and the MTU of
        /// the overlay's device and [`Vtep::subnet_mtu`] with it.
        pub path_mtu: u32 = 44,
        /// The [`Vtep::generation`] that this belongs to.
        pub generation: u32 = 48,
        /// When VXLAN from this VTEP last came in by the uplink's hook, in units of 2^30 ns of
        /// `CLOCK_MONOTONIC`; 0: never. Kept in the mode `direct` alone.
        pub heard_at: u32 = 52,
        /// Until when BPF does not encapsulate to this VTEP, because the kernel's own VXLAN was
        /// seen to leave by another next hop than BPF's, `CLOCK_MONOTONIC` nanoseconds.
        pub disputed_until_ns: u64 = 56,
    }
}

impl VtepState {
    /// A time of `CLOCK_MONOTONIC`, nanoseconds, in the units of [`Self::heard_at`].
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a clock that began with the machine"
    )]
    pub const fn tick(now_ns: u64) -> u32 {
        (now_ns >> 30) as u32
    }

    /// Whether VXLAN came from it lately by the uplink's hook.
    #[inline(always)]
    pub const fn is_heard(&self, now_ns: u64) -> bool {
        self.heard_at != 0 && Self::tick(now_ns).wrapping_sub(self.heard_at) <= HEARD_TICKS
    }
}
