//! TC egress of the vxlan device: what the stack routed to the overlay.
//!
//! Netfilter has said all it has to say of the inner packet here, so this is where its
//! acceptance is learned, and where one map lookup does the work of neighbour table and FDB.

use twill_abi::{CONFIG_FLAG_OVERLAY_POLICY, Program, Reason};
use twill_packet::ethernet::ETHERNET_LEN;
use twill_packet::ipv4::Ipv4Header;

use crate::access::Packet;
use crate::encap::Failure;
use crate::verdict::Verdict;
use crate::{count, encap, flow, maps, nexthop, permit, route, settings};

/// The program that this is.
pub const PROGRAM: Program = Program::ToOverlay;

/// Decides about one packet.
#[inline(always)]
pub fn decide(packet: &Packet) -> Verdict {
    match try_decide(packet) {
        Ok(verdict) => verdict,
        Err(Failure::Untouched(reason)) => Verdict::Pass(reason),
        Err(Failure::Broken(reason)) => Verdict::Drop(reason),
    }
}

#[inline(always)]
fn try_decide(packet: &Packet) -> Result<Verdict, Failure> {
    let pass = |reason| Err(Failure::Untouched(reason));
    let Some(config) = &settings::active() else {
        return pass(Reason::ModeKernel);
    };
    let accepted = packet.take_mark_bit(config.mark_bit);
    // The kernel's vxlan routes its packet by the mark of this one.
    let routed_by_mark = packet.mark() & config.rule_marks != 0;
    flow::ethernet(packet).map_err(Failure::Untouched)?;
    let ip: Ipv4Header = flow::ipv4(packet, ETHERNET_LEN).map_err(Failure::Untouched)?;
    let Some(index) = route::lookup(config, ip.destination()) else {
        return pass(Reason::NoOverlayRoute);
    };
    let Some(vtep) = route::vtep(index) else {
        return pass(Reason::NoVtep);
    };
    let Some(state) = maps::vtep_state(index) else {
        return pass(Reason::NoVtep);
    };
    let now = permit::now();
    let headers_len = match flow::parse(packet, ETHERNET_LEN, &ip) {
        Ok(flow) => {
            if settings::fast_path(config) {
                let may_be_fast = accepted && !routed_by_mark;
                permit::learn_out(packet, config, &flow, may_be_fast, (index, vtep), now);
            }
            flow.headers_len
        }
        Err(_) if packet.gso_size() == 0 => 0,
        Err(_) => return pass(Reason::UnknownGso),
    };
    if routed_by_mark {
        return pass(Reason::RoutedByRule);
    }
    if config.flags & CONFIG_FLAG_OVERLAY_POLICY != 0 {
        return pass(Reason::NeverFast);
    }
    let path =
        nexthop::resolve(packet, config, (index, vtep), state, now).map_err(Failure::Untouched)?;
    if !nexthop::fits(packet, headers_len, &path) {
        return pass(Reason::OverPathMtu);
    }
    nexthop::ask_outer(packet, config, vtep, state, now).map_err(Failure::Untouched)?;
    let len = packet.len();
    encap::outer(packet, config, vtep, &path, ip.tos, packet.flow_hash(), now)?;
    count::encap(index, len);
    Ok(Verdict::Redirect {
        ifindex: path.ifindex,
        len,
    })
}
