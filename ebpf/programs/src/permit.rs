//! Permits: netfilter's acceptance of a flow, learned, used, probed and ended.
//!
//! Every acceptance is learned from a packet that the host's whole rule set has let pass; what
//! a pod or the wire claims is never enough. See docs/packet-walk.md.

use twill_abi::maps::PACE_OF_PERMITS;
use twill_abi::{
    CONFIG_FLAG_TCP_PERMITS, Config, FlowTuple, Mapping, PERMIT_BURST_NS, PERMIT_LIVE,
    PERMIT_TOMBSTONE, Pending, Permit, Program, Reason, VETH_FLAG_NEVER_FAST, Vtep,
};

use crate::access::{self, Packet};
use crate::flow::Flow;
use crate::settings::Settings;
use crate::{count, direct, maps};

/// How long a closed flow is not learned again, nanoseconds.
const TOMBSTONE_NS: u64 = 120_000_000_000;
/// Age at which a note of what a pod sent is too old to belong to the packet at hand, nanoseconds.
const PENDING_NS: u64 = 100_000_000;
/// How long what a flow that was never answered went out as is not looked at again, nanoseconds.
const BEGINNING_NS: u64 = 1_000_000;
/// Age at which what a flow went out as that was never answered is forgotten, nanoseconds.
const ANSWER_NS: u64 = 60_000_000_000;
/// Never: the probe in waits for the probe out.
const NEVER: u64 = u64::MAX;

/// Which way a packet goes.
#[derive(Clone, Copy, Eq, PartialEq)]
pub enum Direction {
    /// Out of the pod.
    Out,
    /// Into the pod.
    In,
}

/// Whether a record may carry a packet right now, in both directions' eyes.
#[inline(always)]
pub fn check(permit: &Permit, now: u64) -> Result<(), Reason> {
    if permit.state != PERMIT_LIVE {
        return Err(if now < permit.tombstone_until_ns {
            Reason::Tombstone
        } else {
            Reason::NoPermit
        });
    }
    if now >= permit.out_until_ns || now >= permit.in_until_ns {
        return Err(Reason::PermitExpired);
    }
    Ok(())
}

/// Whether this packet is the one that asks netfilter again. The next attempt, should its answer
/// not come, is a quarter of the permit time away.
#[inline(always)]
pub fn is_probe(config: &Config, permit: &mut Permit, direction: Direction, now: u64) -> bool {
    let at = match direction {
        Direction::Out => &mut permit.probe_out_at_ns,
        Direction::In => &mut permit.probe_in_at_ns,
    };
    if now < *at {
        return false;
    }
    *at = now + config.permit_ns / 4;
    permit.probes += 1;
    true
}

/// A FIN or RST was seen: conntrack shall see the whole close, so nothing is learned until a SYN.
#[inline(always)]
pub fn close(permit: &mut Permit, now: u64) {
    permit.tombstone_until_ns = now + TOMBSTONE_NS;
    permit.state = PERMIT_TOMBSTONE;
}

/// Forgets a flow.
#[inline(always)]
pub fn end(pod: &FlowTuple) {
    if let Some(permit) = maps::permit(pod) {
        let wire = permit.wire;
        if wire != *pod {
            maps::remove_wire_mapping(&wire);
        }
        maps::remove_permit(pod);
    }
}

/// The host may deliver the flow elsewhere than its record says. What netfilter has accepted holds
/// again once the stack has delivered a packet, to whomever that is; a direct record, of which it
/// knows nothing, ends.
#[inline(always)]
pub fn doubt(permit: &mut Permit) {
    if direct::is_direct(permit) {
        let pod = permit.pod;
        end(&pod);
    } else {
        permit.in_until_ns = 0;
    }
}

/// The record of a flow that comes in with this tuple on the wire, and the tuple that the pod
/// knows it by.
#[inline(always)]
pub fn by_wire(wire: &FlowTuple) -> Option<(FlowTuple, &'static mut Permit)> {
    if let Some(permit) = maps::permit(wire)
        && permit.wire == *wire
    {
        return Some((*wire, permit));
    }
    let pod = maps::wire_mapping(wire)?.tuple;
    let permit = maps::permit(&pod)?;
    (permit.wire == *wire).then_some((pod, permit))
}

/// Gives a packet that goes slow the hash that its tuple has: a pod may claim any (`permits` in
/// docs/packet-walk.md). The outer source port follows from it, as it does for fast packets.
#[inline(always)]
pub fn set_hash(packet: &Packet, config: &Config, tuple: &FlowTuple) -> u32 {
    let hash = tuple.hash(config.flow_seed);
    packet.set_flow_hash(hash);
    hash
}

/// Notes what a pod sent, so that `to_overlay` finds out what netfilter made of it.
#[inline(always)]
pub fn note_pending(
    packet: &Packet,
    config: &Config,
    tuple: &FlowTuple,
    sent_to_mac: [u8; 6],
    now: u64,
) {
    let hash = set_hash(packet, config, tuple);
    let ifindex = packet.ifindex();
    if let Some(pending) = maps::pending(&hash)
        && pending.tuple == *tuple
        && pending.ifindex == ifindex
        && pending.sent_to_mac == sent_to_mac
    {
        pending.written_ns = now;
        return;
    }
    let pending = Pending::new(tuple, ifindex, sent_to_mac, now);
    maps::insert_pending(&hash, &pending);
}

/// Learns from a packet on its way to the overlay: what netfilter made of the pod's tuple, and
/// whether it took the packet for part of an established connection.
#[inline(always)]
pub fn learn_out(
    packet: &Packet,
    config: &Settings,
    flow: &Flow,
    accepted: bool,
    vtep: (u32, &Vtep),
    now: u64,
) {
    if flow.flags.closes() {
        return;
    }
    let wire = flow.sent();
    let Some(pending) = maps::pending(&packet.hash()) else {
        return;
    };
    let Pending {
        written_ns,
        tuple: pod,
        ifindex,
        sent_to_mac,
        ..
    } = *pending;
    let same_source = pod.local == wire.local
        && pod.local_port == wire.local_port
        && pod.protocol == wire.protocol;
    if !same_source || now.wrapping_sub(written_ns) > PENDING_NS {
        return;
    }
    if direct::is_on(config) {
        direct::yield_to_nat(&pod, &wire, ifindex, now);
        // A packet of a direct flow that was slow for once, to renew its outer permit for one.
        // Conntrack has not seen the others: what it makes of this one is no answer.
        if pod == wire
            && !flow.flags.opens()
            && maps::permit(&pod).is_some_and(|permit| direct::owns(permit))
        {
            return;
        }
    }
    if !accepted || flow.flags.opens() {
        let answers = accepted && !flow.flags.is_first();
        note_beginning(
            packet,
            config,
            pending,
            &wire,
            accepted,
            answers.then_some(vtep),
            now,
        );
        return;
    }
    if !may_learn(config, flow, ifindex, Program::ToOverlay, packet) {
        return;
    }
    let (index, vtep) = vtep;
    match maps::permit(&pod) {
        None if !is_in_time(config, Program::ToOverlay, now) => return,
        Some(permit) if permit.state == PERMIT_TOMBSTONE && now < permit.tombstone_until_ns => {
            return;
        }
        Some(permit)
            if permit.state == PERMIT_LIVE
                && permit.wire == wire
                && !direct::is_void(config, permit) =>
        {
            // Another veth that sends this tuple is not the one that netfilter delivers to.
            if permit.ifindex != ifindex {
                return;
            }
            permit.vtep = index;
            permit.vtep_generation = vtep.generation;
            permit.sent_to_mac = sent_to_mac;
            permit.probe_out_at_ns = now + config.permit_ns / 2;
            // A reply that was accepted a moment ago need not be asked for again.
            if permit.in_until_ns < now + config.permit_ns / 4 * 3 {
                permit.probe_in_at_ns = now;
            }
            permit.out_until_ns = now + config.permit_ns;
            permit.renewals += 1;
            // The map of wire tuples is an LRU map of its own, and may have thrown it out.
            if pod != wire && maps::wire_mapping(&wire).is_none() {
                file_wire(permit);
            }
        }
        // Also where the mode was `direct`: netfilter's acceptance takes the record's place.
        _ => {
            end(&pod);
            let Some(permit) = blank(&pod, &wire, ifindex, now) else {
                return;
            };
            permit.vtep = index;
            permit.vtep_generation = vtep.generation;
            permit.sent_to_mac = sent_to_mac;
            permit.out_until_ns = now + config.permit_ns;
            permit.probe_out_at_ns = now + config.permit_ns / 2;
            create(permit);
        }
    }
    // From now on a packet that is not accepted ends it at once.
    if pending.mapped_ns != 0 {
        pending.mapped_ns = 0;
    }
    count::packet(Program::ToOverlay, Reason::Learned, packet.len());
}

/// A packet on its way out that makes no permit: netfilter did not take it for an established
/// connection's, which ends a permit of that flow at once, or a connection begins with it. What it
/// went out as is noted for the first packet that comes back; of a SYN-ACK that netfilter accepts,
/// `answering` is the VTEP.
#[inline(always)]
fn note_beginning(
    packet: &Packet,
    config: &Settings,
    pending: &mut Pending,
    wire: &FlowTuple,
    accepted: bool,
    answering: Option<(u32, &Vtep)>,
    now: u64,
) {
    let (pod, ifindex) = (pending.tuple, pending.ifindex);
    let same = pending.wire == *wire;
    if !accepted
        && same
        && pending.out_until_ns == 0
        && now.wrapping_sub(pending.mapped_ns) < BEGINNING_NS
    {
        // One of many that nobody answers: a permit would have taken the note's time away, and
        // an acceptance would be in it.
        return;
    }
    if !accepted
        && let Some(permit) = maps::permit(&pod)
        && permit.state == PERMIT_LIVE
        && permit.ifindex == ifindex
    {
        end(&pod);
        count::packet(Program::ToOverlay, Reason::Ended, 0);
    }
    if direct::is_on(config) {
        direct::leave_to_stack(&pod, wire, ifindex, now);
    }
    let (out_until_ns, vtep, vtep_generation) = match answering {
        Some((index, vtep)) => (now + config.permit_ns, index, vtep.generation),
        None => (0, 0, 0),
    };
    if same && pending.tuple == pod {
        pending.mapped_ns = now;
        pending.out_until_ns = out_until_ns;
        pending.vtep = vtep;
        pending.vtep_generation = vtep_generation;
        return;
    }
    // Another's tuple on the wire is never written over one that somebody may be reading.
    let noted = Pending {
        wire: *wire,
        mapped_ns: now,
        out_until_ns,
        vtep,
        vtep_generation,
        ..Pending::new(&pod, ifindex, pending.sent_to_mac, pending.written_ns)
    };
    maps::insert_pending(&packet.hash(), &noted);
}

/// Learns from a packet that netfilter has accepted and the host delivers to a pod: the veth and
/// both MAC addresses are in front of it.
#[inline(always)]
pub fn learn_in(
    packet: &Packet,
    config: &Settings,
    flow: &Flow,
    pod_mac: [u8; 6],
    gateway_mac: [u8; 6],
    now: u64,
) -> bool {
    let pod = flow.received();
    let ifindex = packet.ifindex();
    if flow.flags.closes() || !may_learn(config, flow, ifindex, Program::ToPod, packet) {
        return false;
    }
    let Some(permit) = maps::permit(&pod) else {
        return learn_reply(config, &pod, pod_mac, gateway_mac, ifindex, now);
    };
    if permit.state != PERMIT_LIVE || direct::is_direct(permit) {
        return false;
    }
    if permit.ifindex != ifindex {
        // What netfilter delivers to is where the pod is; who sent this tuple is somebody else.
        permit.out_until_ns = 0;
        permit.ifindex = ifindex;
    }
    permit.pod_mac = pod_mac;
    permit.gateway_mac = gateway_mac;
    permit.probe_in_at_ns = NEVER;
    permit.in_until_ns = now + config.permit_ns;
    permit.renewals += 1;
    true
}

/// The first packet that comes back to a flow of which no permit is known: what it went out as
/// was noted. If that was a SYN-ACK that netfilter accepted, both directions are.
#[inline(always)]
fn learn_reply(
    config: &Settings,
    pod: &FlowTuple,
    pod_mac: [u8; 6],
    gateway_mac: [u8; 6],
    ifindex: u32,
    now: u64,
) -> bool {
    let Some(pending) = maps::pending(&pod.hash(config.flow_seed)) else {
        return false;
    };
    let Pending {
        ifindex: sender,
        sent_to_mac,
        wire,
        mapped_ns,
        out_until_ns,
        vtep,
        vtep_generation,
        ..
    } = *pending;
    // The entry may have become another flow's while it was read; then its tuple did first.
    if pending.tuple != *pod
        || sender != ifindex
        || mapped_ns == 0
        || now.wrapping_sub(mapped_ns) > ANSWER_NS
    {
        return false;
    }
    if !is_in_time(config, Program::ToPod, now) {
        return false;
    }
    let Some(permit) = blank(pod, &wire, ifindex, now) else {
        return false;
    };
    permit.pod_mac = pod_mac;
    permit.gateway_mac = gateway_mac;
    permit.in_until_ns = now + config.permit_ns;
    if out_until_ns > now {
        permit.vtep = vtep;
        permit.vtep_generation = vtep_generation;
        permit.sent_to_mac = sent_to_mac;
        permit.out_until_ns = out_until_ns;
        permit.probe_out_at_ns = out_until_ns - config.permit_ns / 2;
    }
    create(permit);
    pending.mapped_ns = 0;
    pending.out_until_ns = 0;
    if direct::is_on(config) {
        maps::remove_mapping(pod);
    }
    true
}

/// Whether this veth and this kind of flow may have permits at all.
#[inline(always)]
fn may_learn(
    config: &Config,
    flow: &Flow,
    ifindex: u32,
    program: Program,
    packet: &Packet,
) -> bool {
    if !flow.is_udp() && config.flags & CONFIG_FLAG_TCP_PERMITS == 0 {
        return false;
    }
    if maps::veth_flags(ifindex) & VETH_FLAG_NEVER_FAST != 0 {
        count::packet(program, Reason::NeverFast, packet.len());
        return false;
    }
    true
}

/// Whether there is time for one more record. Where more flows are in use than there is room
/// for, each new record takes the place of one in use, and making them would cost more than they
/// are worth: so their number is held to what lets each stay for a while.
#[inline(always)]
fn is_in_time(config: &Config, program: Program, now: u64) -> bool {
    let Some(used) = maps::pace(PACE_OF_PERMITS) else {
        return false;
    };
    if *used > now + PERMIT_BURST_NS {
        count::packet(program, Reason::NoRoomForPermit, 0);
        return false;
    }
    *used = if *used < now { now } else { *used } + u64::from(config.permit_pace_ns);
    true
}

/// Files a record, under the wire's tuple as well where NAT made it another.
#[inline(always)]
pub fn create(permit: &Permit) {
    if permit.wire != permit.pod {
        file_wire(permit);
    }
    maps::insert_permit(&permit.pod, permit);
}

#[inline(always)]
fn file_wire(permit: &Permit) {
    let mapping = Mapping::new(permit.pod, permit.ifindex, permit.since_ns);
    maps::insert_wire_mapping(&permit.wire, &mapping);
}

/// A new record that accepts nothing yet, in this CPU's scratch place.
#[inline(always)]
pub fn blank(
    pod: &FlowTuple,
    wire: &FlowTuple,
    ifindex: u32,
    now: u64,
) -> Option<&'static mut Permit> {
    let permit = maps::scratch()?;
    *permit = Permit::new(pod, wire, ifindex, now);
    Some(permit)
}

/// The clock that permits are kept by.
#[inline(always)]
pub fn now() -> u64 {
    access::now_ns()
}
