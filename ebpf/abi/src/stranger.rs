//! Who sent VXLAN here and is no VTEP.

use crate::layout::abi_struct;

abi_struct! {
    /// Value of `strangers`, by the outer source.
    pub struct Stranger: 40, align 8 {
        /// When the first packet came that is remembered, `CLOCK_MONOTONIC` nanoseconds.
        pub first_ns: u64 = 0,
        /// When the last one came, `CLOCK_MONOTONIC` nanoseconds.
        pub last_ns: u64 = 8,
        /// Packets.
        pub packets: u64 = 16,
        /// Packets of these that were dropped.
        pub dropped: u64 = 24,
        /// Interface index that the last one came by.
        pub ifindex: u32 = 32,
        /// What was wrong with the last one first of all, a [`crate::Reason`].
        pub reason: u16 = 36,
        /// Zero.
        pub reserved: u16 = 38,
    }
}
