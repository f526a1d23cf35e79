//! What cannot be told from a program that loads: whether a helper takes the flags we give it.
//!
//! No packet meets these programs. The agent runs them once, by `BPF_PROG_TEST_RUN`, before it
//! promises a fast path.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::access::Packet;

/// Zero where the kernel makes room for the outer headers, with the very flags of `encap`.
/// Before 5.13 it does not know `BPF_F_ADJ_ROOM_ENCAP_L2_ETH` (`d01b59c9ae94`).
#[classifier]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro hands the context over by value"
)]
pub fn probe_encap(ctx: TcContext) -> i32 {
    i32::from(Packet::new(&ctx).add_outer_headers().is_err())
}
