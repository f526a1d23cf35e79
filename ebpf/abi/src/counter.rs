//! What is counted.

use crate::layout::abi_struct;

abi_struct! {
    /// Value of `counters`, one for each [`crate::counter_index`], per CPU.
    pub struct Counter: 16, align 8 {
        /// Packets; a GSO packet is one.
        pub packets: u64 = 0,
        /// Bytes of the packet as the program met it, Ethernet header included.
        pub bytes: u64 = 8,
    }
}

abi_struct! {
    /// Value of `vtep_counters`, one for each index of `vteps`, per CPU.
    pub struct VtepCounter: 32, align 8 {
        /// Packets that BPF encapsulated to the VTEP; a GSO packet is one.
        pub encap_packets: u64 = 0,
        /// Bytes of the inner packets, Ethernet header included.
        pub encap_bytes: u64 = 8,
        /// Trusted VXLAN packets from the VTEP.
        pub uplink_packets: u64 = 16,
        /// Bytes of the outer packets, Ethernet header included.
        pub uplink_bytes: u64 = 24,
    }
}
