//! What a program answers for one packet, and the one exit that counts it.

use twill_abi::{Program, Reason};

use crate::access::{self, Packet};
use crate::count;

/// `TC_ACT_UNSPEC`, which is also `TCX_NEXT`: the packet goes on as if we were not there.
const NEXT: i32 = -1;
/// `TC_ACT_SHOT`.
const SHOT: i32 = 2;

/// What a program answers for one packet.
#[derive(Clone, Copy)]
#[must_use]
pub enum Verdict {
    /// Unmodified, on to the next program and the kernel.
    Pass(Reason),
    /// Out of an interface, counted as fast with this length in bytes.
    Redirect { ifindex: u32, len: u32 },
    /// Into the pod behind a veth, counted as fast with this length in bytes.
    RedirectPeer { ifindex: u32, len: u32 },
    /// Gone.
    Drop(Reason),
    /// Gone, by the guard, who counts by himself.
    Refused,
    /// Not worth a counter: the program has nothing to do with this packet.
    Ignore,
}

/// Counts a verdict and turns it into the kernel's code.
#[inline(always)]
pub fn run(program: Program, packet: &Packet, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass(reason) => {
            count::packet(program, reason, packet.len());
            NEXT
        }
        Verdict::Redirect { ifindex, len } => {
            count::packet(program, Reason::Fast, len);
            access::redirect(ifindex)
        }
        Verdict::RedirectPeer { ifindex, len } => {
            count::packet(program, Reason::Fast, len);
            access::redirect_peer(ifindex)
        }
        Verdict::Drop(reason) => {
            count::packet(program, reason, packet.len());
            SHOT
        }
        Verdict::Refused => SHOT,
        Verdict::Ignore => NEXT,
    }
}
