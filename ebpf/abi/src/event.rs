//! What the ring buffer `events` carries, while somebody listens.

use crate::FlowTuple;
use crate::layout::abi_struct;

abi_struct! {
    /// A sampled event.
    pub struct Event: 64, align 8 {
        /// When, `CLOCK_MONOTONIC` nanoseconds.
        pub at_ns: u64 = 0,
        /// The flow, as the pod sees it; zero where none was parsed.
        pub tuple: FlowTuple = 8,
        /// Interface index that the program sat on.
        pub ifindex: u32 = 48,
        /// A [`crate::Program`].
        pub program: u16 = 52,
        /// A [`crate::Reason`].
        pub reason: u16 = 54,
        /// Length of the packet in bytes.
        pub length: u32 = 56,
        /// Zero.
        pub reserved: u32 = 60,
    }
}
