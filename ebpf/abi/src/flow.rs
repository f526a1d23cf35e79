//! Flows: the tuple that names one, and what is remembered of it.

use crate::layout::abi_struct;
use crate::{Address, Be16};

/// Directions that are accepted make this permit fast.
pub const PERMIT_LIVE: u8 = 1;
/// The flow was closed: nothing is learned until a SYN or `tombstone_until_ns`.
pub const PERMIT_TOMBSTONE: u8 = 2;

/// A program of ours sits on this veth.
pub const VETH_FLAG_ATTACHED: u32 = 1 << 0;
/// Packets of this veth never take the fast path.
pub const VETH_FLAG_NEVER_FAST: u32 = 1 << 1;

abi_struct! {
    /// A flow as one pod sees it: `local` is the pod's own side, whichever way a packet goes.
    pub struct FlowTuple: 40, align 4 {
        /// The pod's own address.
        pub local: Address = 0,
        /// The other side's address.
        pub remote: Address = 16,
        /// The pod's own port.
        pub local_port: Be16 = 32,
        /// The other side's port.
        pub remote_port: Be16 = 34,
        /// IP protocol number.
        pub protocol: u8 = 36,
        /// Zero.
        pub reserved: [u8; 3] = 37,
    }
}

abi_struct! {
    /// Netfilter's remembered acceptance of one flow; value of `permits_pod`, whose key is the
    /// tuple that the pod sends.
    pub struct Permit: 160, align 8 {
        /// Until when the direction out of the pod is accepted, `CLOCK_MONOTONIC` nanoseconds.
        pub out_until_ns: u64 = 0,
        /// Until when the direction into the pod is accepted, `CLOCK_MONOTONIC` nanoseconds.
        pub in_until_ns: u64 = 8,
        /// When the next packet out is a probe, `CLOCK_MONOTONIC` nanoseconds.
        pub probe_out_at_ns: u64 = 16,
        /// When the next packet in is a probe, `CLOCK_MONOTONIC` nanoseconds; never before
        /// the probe out came back.
        pub probe_in_at_ns: u64 = 24,
        /// Until when a tombstone stands, `CLOCK_MONOTONIC` nanoseconds.
        pub tombstone_until_ns: u64 = 32,
        /// Packets sent fast out of the pod.
        pub fast_out: u64 = 40,
        /// Packets sent fast into the pod.
        pub fast_in: u64 = 48,
        /// The tuple on the wire, seen from the pod: differs from the key by NAT alone.
        pub wire: FlowTuple = 56,
        /// Interface index of the pod's host-side veth.
        pub ifindex: u32 = 96,
        /// Index of the remote VTEP in `vteps`.
        pub vtep: u32 = 100,
        /// [`crate::Vtep::generation`] when this was learned.
        pub vtep_generation: u32 = 104,
        /// Probes sent, both directions.
        pub probes: u32 = 108,
        /// Times an acceptance was renewed.
        pub renewals: u32 = 112,
        /// The pod's MAC address.
        pub pod_mac: [u8; 6] = 116,
        /// The MAC address that the pod sends to.
        pub gateway_mac: [u8; 6] = 122,
        /// `PERMIT_LIVE` or `PERMIT_TOMBSTONE`.
        pub state: u8 = 128,
        /// Zero.
        pub reserved: [u8; 7] = 129,
        /// Room.
        pub reserved_tail: [u64; 3] = 136,
    }
}

abi_struct! {
    /// A wire tuple that is not established yet; value of `mappings`, whose key is the tuple
    /// that the pod sends, and of `permits_wire`, where it is the other way round.
    pub struct Mapping: 56, align 8 {
        /// When it was written, `CLOCK_MONOTONIC` nanoseconds.
        pub written_ns: u64 = 0,
        /// The tuple on the other side of the NAT.
        pub tuple: FlowTuple = 8,
        /// Interface index of the pod's host-side veth.
        pub ifindex: u32 = 48,
        /// Zero.
        pub reserved: [u8; 4] = 52,
    }
}

abi_struct! {
    /// A tuple that a pod sent a moment ago; value of `pending`, whose key is `skb->hash`.
    pub struct Pending: 72, align 8 {
        /// When it was written, `CLOCK_MONOTONIC` nanoseconds.
        pub written_ns: u64 = 0,
        /// The tuple.
        pub tuple: FlowTuple = 8,
        /// Interface index of the veth that it came in by.
        pub ifindex: u32 = 48,
        /// The pod's MAC address.
        pub pod_mac: [u8; 6] = 52,
        /// The MAC address that the pod sends to.
        pub gateway_mac: [u8; 6] = 58,
        /// Zero.
        pub reserved: [u8; 8] = 64,
    }
}

abi_struct! {
    /// Value of `veth_flags`, whose key is an interface index.
    pub struct VethFlags: 8, align 4 {
        /// `VETH_FLAG_*`.
        pub flags: u32 = 0,
        /// Zero.
        pub reserved: u32 = 4,
    }
}
