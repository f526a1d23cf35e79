//! TC ingress of a pod's host-side veth: the fast path out.

use twill_abi::{Config, FlowTuple, Program, Reason};
use twill_packet::ethernet::{ETHERNET_LEN, EthernetHeader};

use crate::access::Packet;
use crate::encap::Failure;
use crate::flow::Flow;
use crate::guard::Answer;
use crate::permit::Direction;
use crate::settings::Settings;
use crate::verdict::Verdict;
use crate::{count, direct, encap, flow, guard, maps, nexthop, permit, place, route, settings};

/// The program that this is.
pub const PROGRAM: Program = Program::FromPod;

/// Decides about one packet.
#[inline(always)]
pub fn decide(packet: &Packet) -> Verdict {
    let Some(config) = &settings::active() else {
        return Verdict::Pass(Reason::ModeKernel);
    };
    // A pod cannot claim a permit, whatever mark its packets came with.
    packet.take_mark_bit(config.mark_bit);
    if guard::from_pod(packet, config) == Answer::Drop {
        return Verdict::Refused;
    }
    if !settings::fast_path(config) {
        return Verdict::Pass(Reason::FastPathOff);
    }
    let ethernet = match flow::ethernet(packet) {
        Ok(ethernet) => ethernet,
        Err(reason) => {
            place::hear_arp(packet, config);
            return Verdict::Pass(reason);
        }
    };
    let (flow, pod) = match parse(packet, config) {
        Ok(parsed) => parsed,
        Err(reason) => return Verdict::Pass(reason),
    };
    let now = permit::now();
    let (direct, opened) = if direct::is_on(config) {
        goes_direct(packet, config, &flow, &pod, &ethernet, now)
    } else {
        (false, false)
    };
    let reason = if !direct && flow.flags.closes() {
        close(&pod, packet.ifindex(), now);
        permit::set_hash(packet, config, &pod);
        return Verdict::Pass(Reason::Closing);
    } else if !direct && flow.flags.opens() {
        open(&pod, packet.ifindex(), now);
        Reason::Opening
    } else {
        match fast(packet, config, &flow, &pod, &ethernet, now) {
            Ok(verdict) => return verdict,
            Err(Failure::Broken(reason)) => return Verdict::Drop(reason),
            Err(Failure::Untouched(reason)) => {
                if opened {
                    // The stack gets the first packet, so it gets the flow: its NAT may have
                    // its say, and a peer must not see one half with it and one without.
                    permit::end(&pod);
                }
                reason
            }
        }
    };
    if !flow.is_error() {
        permit::note_pending(packet, config, &pod, ethernet.destination, now);
    }
    Verdict::Pass(reason)
}

/// Mode `direct`: whether the flow has a record of that kind, and whether this first packet has
/// just made it.
#[inline(always)]
fn goes_direct(
    packet: &Packet,
    config: &Config,
    flow: &Flow,
    pod: &FlowTuple,
    ethernet: &EthernetHeader,
    now: u64,
) -> (bool, bool) {
    if flow.flags.is_first() {
        let unheard = maps::permit(pod).is_some_and(|permit| direct::is_unheard(permit));
        open(pod, packet.ifindex(), now);
        if unheard {
            return (false, false);
        }
    }
    if let Some(permit) = maps::permit(pod) {
        let is_direct = direct::is_direct(permit);
        if !is_direct || !direct::is_spent(permit, now) {
            if is_direct {
                direct::answered(permit);
            }
            return (is_direct, false);
        }
        // Kept, it would hold the flow on the stack and hide from it what netfilter says.
        permit::end(pod);
    }
    let opened = direct::open_out(packet, config, flow, pod, ethernet, now).is_ok();
    (opened, opened)
}

/// The flow and the tuple that its record goes by, if it could ever be fast.
#[inline(always)]
fn parse(packet: &Packet, config: &Settings) -> Result<(Flow, FlowTuple), Reason> {
    let ip = flow::ipv4(packet, ETHERNET_LEN)?;
    if route::is_own(config, ip.destination()) {
        return Err(Reason::LocalDestination);
    }
    if ip.ttl <= 1 {
        return Err(Reason::LastHop);
    }
    match flow::parse(packet, ETHERNET_LEN, &ip) {
        Ok(flow) => Ok((flow, flow.sent())),
        Err(Reason::NotTransport) if direct::is_on(config) => {
            let permit = direct::quoted(packet, ETHERNET_LEN, &ip, false);
            permit
                .map(|permit| (Flow::about(&ip), permit.pod))
                .ok_or(Reason::NotTransport)
        }
        Err(reason) => Err(reason),
    }
}

/// Carries the packet, if a permit says so.
#[inline(always)]
fn fast(
    packet: &Packet,
    config: &Settings,
    flow: &Flow,
    pod: &FlowTuple,
    ethernet: &EthernetHeader,
    now: u64,
) -> Result<Verdict, Failure> {
    let pass = |reason| Err(Failure::Untouched(reason));
    let Some(permit) = maps::permit(pod) else {
        return pass(Reason::NoPermit);
    };
    if direct::is_void(config, permit) {
        return pass(Reason::NoPermit);
    }
    permit::check(permit, now).map_err(Failure::Untouched)?;
    if permit.ifindex != packet.ifindex() || permit.sent_to_mac != ethernet.destination {
        return pass(Reason::ForeignVeth);
    }
    let index = permit.vtep;
    let Some(vtep) = route::vtep(index) else {
        return pass(Reason::StaleVtep);
    };
    let Some(state) = maps::vtep_state(index) else {
        return pass(Reason::StaleVtep);
    };
    if vtep.generation != permit.vtep_generation {
        return pass(Reason::StaleVtep);
    }
    let way = nexthop::resolve(packet, config, (index, vtep), state, now).and_then(|path| {
        if !nexthop::fits(packet, flow.headers_len, &path) {
            return Err(Reason::OverPathMtu);
        }
        nexthop::outer_permit(config, state, now).map(|()| path)
    });
    let path = match way {
        Ok(path) => path,
        // Conntrack has never seen the flow, and would take this packet for invalid. What is too
        // long for the overlay the stack answers before it asks, or fragments.
        Err(reason)
            if direct::is_direct(permit)
                && (reason != Reason::OverPathMtu
                    || nexthop::fits_overlay(packet, flow.headers_len, config, vtep)) =>
        {
            permit::set_hash(packet, config, pod);
            return direct::to_device(packet, config, flow, vtep, reason);
        }
        Err(reason) => return pass(reason),
    };
    if direct::is_direct(permit) {
        direct::keep(permit, now);
    } else if permit::is_probe(config, permit, Direction::Out, now) {
        return pass(Reason::Probe);
    }
    let wire = permit.wire;
    if permit.pod != *pod {
        return pass(Reason::NoPermit);
    }
    let len = packet.len();
    // Not the hash that the pod's socket has chosen, which slow packets have lost on their way:
    // all of a flow's packets have one outer source port.
    let hash = pod.hash(config.flow_seed);
    encap::outer(packet, config, vtep, &path, flow.ip.tos, hash, now)?;
    encap::inner(packet, flow, pod, &wire)?;
    count::encap(index, len);
    Ok(Verdict::Redirect {
        ifindex: path.ifindex,
        len,
    })
}

/// A FIN or RST from the veth that the flow belongs to.
#[inline(always)]
fn close(pod: &FlowTuple, ifindex: u32, now: u64) {
    if let Some(permit) = maps::permit(pod)
        && permit.ifindex == ifindex
    {
        permit::close(permit, now);
    }
}

/// A SYN: what is remembered of the tuple was another connection.
#[inline(always)]
fn open(pod: &FlowTuple, ifindex: u32, now: u64) {
    if let Some(permit) = maps::permit(pod) {
        let lapsed = now >= permit.out_until_ns && now >= permit.in_until_ns;
        let own = permit.ifindex == ifindex;
        if own || lapsed {
            permit::end(pod);
        }
    }
}
