//! Keys of the two overlay route tables; the value of both is a `u32`, an index of `vteps`.

use crate::Address;
use crate::layout::abi_struct;

abi_struct! {
    /// Key of `overlay_routes`: a destination masked to the common prefix length.
    pub struct RouteKey: 16, align 4 {
        /// Network address.
        pub network: Address = 0,
    }
}

abi_struct! {
    /// Key of `odd_routes`, an LPM trie: a subnet whose prefix length is not the common one.
    pub struct RoutePrefix: 20, align 4 {
        /// Significant bits of `network` in the mapped form (96 + the length for IPv4), host order.
        pub prefix_length: u32 = 0,
        /// Network address.
        pub network: Address = 4,
    }
}
