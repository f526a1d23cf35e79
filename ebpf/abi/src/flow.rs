//! Flows: the tuple that names one, and what is remembered of it.

use crate::layout::abi_struct;
use crate::{Address, Be16};

/// Directions that are accepted make this permit fast.
pub const PERMIT_LIVE: u32 = 1;
/// The flow was closed: nothing is learned until a SYN or `tombstone_until_ns`.
pub const PERMIT_TOMBSTONE: u32 = 2;

/// Made by the flow's own first packet in the mode `direct`, not by netfilter's acceptance.
pub const PERMIT_FLAG_DIRECT: u32 = 1 << 0;
/// A SYN that went direct into the pod, to which the pod has not said anything yet.
pub const PERMIT_FLAG_UNANSWERED: u32 = 1 << 1;

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

impl FlowTuple {
    /// The key in `mappings` of a note that a datagram came in with this tuple on the wire. No
    /// flow's own key equals it: `reserved` is zero in all of those.
    #[must_use]
    pub const fn arrived(self) -> Self {
        Self {
            reserved: [1, 0, 0],
            ..self
        }
    }
}

abi_struct! {
    /// Netfilter's remembered acceptance of one flow; value of `permits_pod`, whose key is the
    /// tuple that the pod sends.
    ///
    /// The tuples come first: an entry that the LRU hands to another flow while a program still
    /// reads it is overwritten from its beginning, so tuples that still fit after everything else
    /// was read prove that everything else was this flow's.
    pub struct Permit: 184, align 8 {
        /// The tuple that the pod sends: the key.
        pub pod: FlowTuple = 0,
        /// The tuple on the wire, seen from the pod: differs from `pod` by NAT alone.
        pub wire: FlowTuple = 40,
        /// Until when the direction out of the pod is accepted, `CLOCK_MONOTONIC` nanoseconds.
        pub out_until_ns: u64 = 80,
        /// Until when the direction into the pod is accepted, `CLOCK_MONOTONIC` nanoseconds.
        pub in_until_ns: u64 = 88,
        /// When the next packet out is a probe, `CLOCK_MONOTONIC` nanoseconds.
        pub probe_out_at_ns: u64 = 96,
        /// When the next packet in is a probe, `CLOCK_MONOTONIC` nanoseconds; `u64::MAX` until
        /// the probe out came back.
        pub probe_in_at_ns: u64 = 104,
        /// Until when a tombstone stands, `CLOCK_MONOTONIC` nanoseconds.
        pub tombstone_until_ns: u64 = 112,
        /// When this record was made, `CLOCK_MONOTONIC` nanoseconds.
        pub since_ns: u64 = 120,
        /// Interface index of the pod's host-side veth.
        pub ifindex: u32 = 128,
        /// Index of the remote VTEP in `vteps`.
        pub vtep: u32 = 132,
        /// [`crate::Vtep::generation`] when this was learned.
        pub vtep_generation: u32 = 136,
        /// Probes sent, both directions.
        pub probes: u32 = 140,
        /// Times an acceptance was renewed.
        pub renewals: u32 = 144,
        /// `PERMIT_LIVE` or `PERMIT_TOMBSTONE`.
        pub state: u32 = 148,
        /// The pod's MAC address.
        pub pod_mac: [u8; 6] = 152,
        /// The MAC address that the host's stack sends to the pod from.
        pub gateway_mac: [u8; 6] = 158,
        /// The MAC address that the pod sends this flow to.
        pub sent_to_mac: [u8; 6] = 164,
        /// Zero.
        pub reserved: [u8; 2] = 170,
        /// `PERMIT_FLAG_*`.
        pub flags: u32 = 172,
        /// Room.
        pub reserved_tail: u64 = 176,
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
    pub struct Pending: 64, align 8 {
        /// When it was written, `CLOCK_MONOTONIC` nanoseconds.
        pub written_ns: u64 = 0,
        /// The tuple.
        pub tuple: FlowTuple = 8,
        /// Interface index of the veth that it came in by.
        pub ifindex: u32 = 48,
        /// The MAC address that the pod sends to.
        pub sent_to_mac: [u8; 6] = 52,
        /// Zero.
        pub reserved: [u8; 6] = 58,
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

abi_struct! {
    /// Where a local pod is; value of `local_pods`, whose key is the pod's address.
    pub struct LocalPod: 24, align 8 {
        /// When it was last seen, `CLOCK_MONOTONIC` nanoseconds.
        pub seen_ns: u64 = 0,
        /// Interface index of the pod's host-side veth.
        pub ifindex: u32 = 8,
        /// The pod's MAC address.
        pub pod_mac: [u8; 6] = 12,
        /// The MAC address that the host's stack sends to the pod from.
        pub gateway_mac: [u8; 6] = 18,
    }
}
