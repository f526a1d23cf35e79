//! Permits: netfilter's acceptance of a flow, learned, used, probed and ended.
//!
//! Every acceptance is learned from a packet that the host's whole rule set has let pass; what
//! a pod or the wire claims is never enough. See docs/packet-walk.md.

use twill_abi::{
    CONFIG_FLAG_TCP_PERMITS, Config, FlowTuple, Mapping, PERMIT_LIVE, PERMIT_TOMBSTONE, Pending,
    Permit, Program, Reason, VETH_FLAG_NEVER_FAST, Vtep,
};

use crate::access::{self, Packet};
use crate::flow::Flow;
use crate::settings::Settings;
use crate::{count, direct, maps};

/// How long a closed flow is not learned again, nanoseconds.
const TOMBSTONE_NS: u64 = 120_000_000_000;
/// Age at which a note of what a pod sent is too old to belong to the packet at hand, nanoseconds.
const PENDING_NS: u64 = 100_000_000;
/// Age at which a mapping of a flow that was never established is forgotten, nanoseconds.
const MAPPING_NS: u64 = 60_000_000_000;
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

/// Notes what a pod sent, so that `to_overlay` finds out what netfilter made of it. The hash is
/// computed here from the tuple: a pod may claim any (`permits` in docs/packet-walk.md).
#[inline(always)]
pub fn note_pending(
    packet: &Packet,
    config: &Config,
    tuple: &FlowTuple,
    sent_to_mac: [u8; 6],
    now: u64,
) {
    let hash = tuple.hash(config.flow_seed);
    packet.set_flow_hash(hash);
    let ifindex = packet.ifindex();
    if let Some(pending) = maps::pending(&hash)
        && pending.tuple == *tuple
        && pending.ifindex == ifindex
        && pending.sent_to_mac == sent_to_mac
    {
        pending.written_ns = now;
        return;
    }
    let pending = Pending {
        written_ns: now,
        tuple: *tuple,
        ifindex,
        sent_to_mac,
        reserved: [0; 6],
    };
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
        reject_out(&pod, &wire, ifindex, accepted, now);
        return;
    }
    if !may_learn(config, flow, ifindex, Program::ToOverlay, packet) {
        return;
    }
    let (index, vtep) = vtep;
    match maps::permit(&pod) {
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
            permit.probe_in_at_ns = now;
            permit.out_until_ns = now + config.permit_ns;
            permit.renewals += 1;
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
    count::packet(Program::ToOverlay, Reason::Learned, packet.len());
}

/// A packet on its way out that netfilter did not take for an established connection's: a
/// permit of that flow ends at once, and where the flow is new its mapping is noted.
#[inline(always)]
fn reject_out(pod: &FlowTuple, wire: &FlowTuple, ifindex: u32, accepted: bool, now: u64) {
    if !accepted
        && let Some(permit) = maps::permit(pod)
        && permit.state == PERMIT_LIVE
        && permit.ifindex == ifindex
    {
        end(pod);
        count::packet(Program::ToOverlay, Reason::Ended, 0);
    }
    if let Some(mapping) = maps::mapping(pod)
        && mapping.tuple == *wire
        && mapping.ifindex == ifindex
    {
        mapping.written_ns = now;
        return;
    }
    let mapping = Mapping {
        written_ns: now,
        tuple: *wire,
        ifindex,
        reserved: [0; 4],
    };
    maps::insert_mapping(pod, &mapping);
}

/// Learns from a packet that netfilter has accepted and the host delivers to a pod: the veth and
/// both MAC addresses are in front of it.
#[inline(always)]
pub fn learn_in(
    packet: &Packet,
    config: &Config,
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

/// The first packet that comes back to a flow which the pod has opened: its mapping was noted
/// when it went out.
#[inline(always)]
fn learn_reply(
    config: &Config,
    pod: &FlowTuple,
    pod_mac: [u8; 6],
    gateway_mac: [u8; 6],
    ifindex: u32,
    now: u64,
) -> bool {
    let Some(mapping) = maps::mapping(pod) else {
        return false;
    };
    let Mapping {
        written_ns,
        tuple: wire,
        ifindex: sender,
        ..
    } = *mapping;
    if sender != ifindex || now.wrapping_sub(written_ns) > MAPPING_NS {
        return false;
    }
    let Some(permit) = blank(pod, &wire, ifindex, now) else {
        return false;
    };
    permit.pod_mac = pod_mac;
    permit.gateway_mac = gateway_mac;
    permit.in_until_ns = now + config.permit_ns;
    create(permit);
    maps::remove_mapping(pod);
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

/// Files a record, under the wire's tuple as well where NAT made it another.
#[inline(always)]
pub fn create(permit: &Permit) {
    if permit.wire != permit.pod {
        let mapping = Mapping {
            written_ns: permit.since_ns,
            tuple: permit.pod,
            ifindex: permit.ifindex,
            reserved: [0; 4],
        };
        maps::insert_wire_mapping(&permit.wire, &mapping);
    }
    maps::insert_permit(&permit.pod, permit);
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
