//! Twill's BPF programs. Each entry point builds the packet, asks its module what to do, and
//! hands the answer to the one exit; see docs/packet-walk.md.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    unsafe_code,
    reason = "sections and symbols are named by unsafe attributes"
)]
#![expect(
    clippy::inline_always,
    reason = "a BPF function call costs what these functions save"
)]
#![expect(
    unreachable_pub,
    reason = "a binary exports nothing: `pub` says what a module offers the others"
)]
#![expect(
    missing_docs,
    reason = "the attribute of an entry point makes a second function without its comment"
)]

mod access;
mod count;
mod decap;
mod direct;
mod encap;
mod flow;
mod from_pod;
mod from_uplink;
mod guard;
mod maps;
mod nexthop;
mod permit;
mod place;
mod probe;
mod route;
mod settings;
mod to_overlay;
mod to_pod;
mod to_uplink;
mod verdict;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

use crate::access::{Frame, Packet};
use crate::guard::Answer;

macro_rules! programs {
    ($($(#[$meta:meta])* $name:ident;)+) => { $(
        $(#[$meta])*
        #[classifier]
        pub fn $name(ctx: TcContext) -> i32 {
            let packet = Packet::new(&ctx);
            verdict::run($name::PROGRAM, &packet, $name::decide(&packet))
        }
    )+ };
}

programs! {
    /// TC egress of the vxlan device.
    to_overlay;
    /// TC ingress of the uplink.
    // Into the entry point that the macro makes: a call costs kernels before 6.6 at least 32 bytes
    // of the stack.
    #[inline(always)]
    from_uplink;
    /// TC ingress of a pod's host-side veth.
    from_pod;
    /// TC egress of a pod's host-side veth.
    to_pod;
    /// TC egress of the uplink.
    to_uplink;
}

/// XDP on the uplink.
#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro hands the context over by value"
)]
pub fn guard(ctx: XdpContext) -> u32 {
    xdp_action(guard::uplink(&Frame::<true>::new(&ctx)))
}

/// XDP on the uplink, for kernels before 5.18, which know no frames in several pieces.
#[xdp]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro hands the context over by value"
)]
pub fn guard_whole(ctx: XdpContext) -> u32 {
    xdp_action(guard::uplink(&Frame::<false>::new(&ctx)))
}

#[inline(always)]
const fn xdp_action(answer: Answer) -> u32 {
    match answer {
        Answer::Pass => XDP_PASS,
        Answer::Drop => XDP_DROP,
    }
}

/// The version of the ABI that this object was built for; the agent compares it before use.
#[unsafe(no_mangle)]
pub static TWILL_ABI_VERSION: u32 = twill_abi::ABI_VERSION;

/// The licence by which the kernel judges which helpers the programs may call.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier rejects a program from which this can be reached: the loop never ends.
    loop {}
}
