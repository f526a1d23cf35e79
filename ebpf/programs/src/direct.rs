//! The mode `direct`: pod to pod without asking netfilter, for clusters that have no policy in it.
//!
//! It fails closed. A record is made only by a flow's first packet, a bare SYN or a UDP datagram
//! out of a pod, that itself goes direct, or by a UDP datagram that the stack has delivered with
//! the very tuple that the wire brought: then no NAT has a say in it. A packet without a record
//! goes to the stack, and what the stack or a NAT owns never becomes direct. Out of a pod it is
//! made only towards a VTEP from which VXLAN comes by the uplink's hook, as the answer will.

use twill_abi::{
    Address, Be16, CONFIG_FLAG_EXCLUSIONS, Config, FlowTuple, LocalPod, Mapping,
    PERMIT_FLAG_DIRECT, PERMIT_FLAG_UNANSWERED, PERMIT_FLAG_UNHEARD, PERMIT_LIVE, Permit, Program,
    Reason, VETH_FLAG_NEVER_FAST, Vtep,
};
use twill_packet::ethernet::{ETHERNET_LEN, EthernetHeader};
use twill_packet::ipv4::{IPV4_LEN, IPV4_TAIL_OFFSET, IpProtocol, Ipv4Header, Rewrite};
use twill_packet::transport::IcmpError;

use crate::access::{Fib, Packet, fib_params};
use crate::encap::Failure;
use crate::flow::Flow;
use crate::settings::{self, Settings};
use crate::verdict::Verdict;
use crate::{count, maps, nexthop, permit, place, route};

/// How long a record outlives its last packet, nanoseconds.
const IDLE_NS: u64 = 3_600_000_000_000;
/// How long a place of a local pod is believed, nanoseconds.
const PLACE_NS: u64 = 600_000_000_000;
/// How often a place is confirmed at the most, nanoseconds.
const CONFIRM_NS: u64 = 1_000_000_000;
/// Age at which a datagram that came in is no more the one that is delivered, nanoseconds.
const ARRIVAL_NS: u64 = 1_000_000_000;

/// Whether the mode is on.
#[inline(always)]
pub fn is_on(settings: &Settings) -> bool {
    settings::direct(settings)
}

/// Whether a record is void because the mode is not on any more: netfilter was never asked.
#[inline(always)]
pub fn is_void(settings: &Settings, permit: &Permit) -> bool {
    is_direct(permit) && !is_on(settings)
}

/// Whether a record was made by its own first packet.
#[inline(always)]
pub fn is_direct(permit: &Permit) -> bool {
    permit.flags & PERMIT_FLAG_DIRECT != 0
}

/// Whether a flow is direct for as long as its record lasts.
#[inline(always)]
pub fn owns(permit: &Permit) -> bool {
    is_direct(permit) && permit.state == PERMIT_LIVE
}

/// Whether a record of this kind carries nothing any more: it was idle for too long, or its VTEP's
/// index is another's.
#[inline(always)]
pub fn is_spent(permit: &Permit, now: u64) -> bool {
    let same = route::vtep(permit.vtep).is_some_and(|v| v.generation == permit.vtep_generation);
    permit.state == PERMIT_LIVE && (now >= permit.out_until_ns || !same)
}

/// Keeps a record that is in use; one write in half the idle time.
#[inline(always)]
pub fn keep(permit: &mut Permit, now: u64) {
    if permit.out_until_ns < now + IDLE_NS / 2 {
        permit.out_until_ns = now + IDLE_NS;
        permit.in_until_ns = now + IDLE_NS;
    }
}

/// Hands a packet of a direct flow to the kernel's vxlan device, as the stack would have done
/// without netfilter: the way to the VTEP is not known, too narrow, or to be asked for.
#[inline(always)]
pub fn to_device(
    packet: &Packet,
    config: &Config,
    flow: &Flow,
    vtep: &Vtep,
    reason: Reason,
) -> Result<Verdict, Failure> {
    let mut rewrite = Rewrite::new(&flow.ip);
    rewrite.decrement_ttl();
    let macs = [vtep.mac, config.vtep_mac];
    let len = packet.len();
    if !packet.store(0, &macs) {
        return Err(Failure::Untouched(reason));
    }
    if !packet.store(ETHERNET_LEN + IPV4_TAIL_OFFSET, &rewrite.tail()) {
        return Err(Failure::Broken(Reason::NoMemory));
    }
    count::packet(Program::FromPod, reason, len);
    Ok(Verdict::Redirect {
        ifindex: config.overlay_ifindex,
        len,
    })
}

/// Makes a record for a flow whose first packet leaves the pod right now.
#[inline(always)]
pub fn open_out(
    packet: &Packet,
    config: &Config,
    flow: &Flow,
    pod: &FlowTuple,
    ethernet: &EthernetHeader,
    now: u64,
) -> Result<(), Reason> {
    if !flow.is_udp() && !flow.flags.is_first() {
        return Err(Reason::NoPermit);
    }
    let Some(index) = route::lookup(config, flow.ip.destination()) else {
        return Err(Reason::NoOverlayRoute);
    };
    let Some(vtep) = route::vtep(index) else {
        return Err(Reason::NoVtep);
    };
    let Some(state) = maps::vtep_state(index) else {
        return Err(Reason::NoVtep);
    };
    if !nexthop::is_heard(vtep, state, now) {
        return Err(Reason::NoPermit);
    }
    let ifindex = packet.ifindex();
    may_open(config, pod, ifindex)?;
    if !is_home(packet, config, flow, &pod.local, ethernet.source, now) {
        return Err(Reason::ForeignVeth);
    }
    if owned(pod) {
        return Err(Reason::StackOwned);
    }
    let Some(record) = permit::blank(pod, pod, ifindex, now) else {
        return Err(Reason::NoPermit);
    };
    record.flags = PERMIT_FLAG_DIRECT | PERMIT_FLAG_UNHEARD;
    record.vtep = index;
    record.vtep_generation = vtep.generation;
    record.pod_mac = ethernet.source;
    record.gateway_mac = ethernet.destination;
    record.sent_to_mac = ethernet.destination;
    start(record, now);
    Ok(())
}

/// Whether a veth and a flow may have a record of this kind at all.
#[inline(always)]
fn may_open(config: &Config, tuple: &FlowTuple, ifindex: u32) -> Result<(), Reason> {
    let excluded = config.flags & CONFIG_FLAG_EXCLUSIONS != 0
        && (maps::is_excluded(tuple.local) || maps::is_excluded(tuple.remote));
    if excluded || maps::veth_flags(ifindex) & VETH_FLAG_NEVER_FAST != 0 {
        Err(Reason::NeverFast)
    } else {
        Ok(())
    }
}

/// Whether a pod's address is where a packet of that source comes from: what answers it would go
/// there past the stack, and a pod can claim its neighbour's address. The pod's place is known, or
/// the host's own neighbour table has this MAC address for it; and where pods have no bridge but a
/// route each, the route leads to this veth.
#[inline(always)]
fn is_home(
    packet: &Packet,
    config: &Config,
    flow: &Flow,
    address: &Address,
    mac: [u8; 6],
    now: u64,
) -> bool {
    let ifindex = packet.ifindex();
    if let Some(place) = maps::local_pod(address)
        && place.ifindex == ifindex
        && place.pod_mac == mac
        && is_fresh(place, now)
    {
        return true;
    }
    // As a reply would be forwarded.
    let (peer, pod) = (flow.ip.destination(), flow.ip.source());
    match packet.forwards_to(&mut fib_params(), config.overlay_ifindex, peer, pod) {
        Fib::Found(next) => next.mac == mac && place::leads_to(next.ifindex, ifindex),
        Fib::NoNeighbour | Fib::Unusable => false,
    }
}

/// Whether the stack has delivered to a place not long ago. Where only the pod says so, nobody has
/// seen it: a clock that began a moment ago says less.
#[inline(always)]
fn is_fresh(place: &LocalPod, now: u64) -> bool {
    place.seen_ns != 0 && now.wrapping_sub(place.seen_ns) <= PLACE_NS
}

/// Makes a record for a connection whose SYN comes in right now, if the pod's place is known.
#[inline(always)]
pub fn open_in(
    config: &Config,
    flow: &Flow,
    wire: &FlowTuple,
    vtep: (u32, u32),
    now: u64,
) -> Result<(), Reason> {
    if flow.is_udp() || !flow.flags.is_first() {
        return Err(Reason::NoPermit);
    }
    let Some(place) = maps::local_pod(&wire.local) else {
        return Err(Reason::NoPermit);
    };
    if !is_fresh(place, now) {
        return Err(Reason::NoPermit);
    }
    may_open(config, wire, place.ifindex)?;
    if owned(wire) {
        return Err(Reason::StackOwned);
    }
    let Some(record) = permit::blank(wire, wire, place.ifindex, now) else {
        return Err(Reason::NoPermit);
    };
    record.flags = PERMIT_FLAG_DIRECT | PERMIT_FLAG_UNANSWERED;
    (record.vtep, record.vtep_generation) = vtep;
    record.pod_mac = place.pod_mac;
    record.gateway_mac = place.gateway_mac;
    record.sent_to_mac = place.gateway_mac;
    start(record, now);
    Ok(())
}

/// Whether this SYN is one that the pod left unanswered when it went direct: then the pod may
/// have moved since its place was noted, and the stack must find it.
#[inline(always)]
pub fn is_repeated(permit: &mut Permit, flow: &Flow) -> bool {
    if !flow.flags.is_first() || flow.is_udp() {
        return false;
    }
    if permit.flags & PERMIT_FLAG_UNANSWERED != 0 {
        return true;
    }
    // The next connection of the same ports.
    permit.flags |= PERMIT_FLAG_UNANSWERED;
    false
}

/// Whether nothing has come back to a flow that began direct out of the pod: a SYN that is
/// repeated then may be answered by a way that only the stack sees.
#[inline(always)]
pub fn is_unheard(permit: &Permit) -> bool {
    owns(permit) && permit.flags & PERMIT_FLAG_UNHEARD != 0
}

/// Something of this flow has come by the uplink's hook.
#[inline(always)]
pub fn heard(permit: &mut Permit) {
    if permit.flags & PERMIT_FLAG_UNHEARD != 0 {
        permit.flags &= !PERMIT_FLAG_UNHEARD;
    }
}

/// The pod has sent something in this flow.
#[inline(always)]
pub fn answered(permit: &mut Permit) {
    if permit.flags & PERMIT_FLAG_UNANSWERED != 0 {
        permit.flags &= !PERMIT_FLAG_UNANSWERED;
    }
}

/// A datagram without a record comes in and goes to the stack: it may be the reply to a flow
/// that a NAT has changed. Notes its tuple, so that `to_pod` sees whether one did.
#[inline(always)]
pub fn note_arrival(wire: &FlowTuple, now: u64) {
    let key = wire.arrived();
    if let Some(note) = maps::mapping(&key) {
        note.written_ns = now;
        return;
    }
    if owned(wire) {
        return;
    }
    maps::insert_mapping(&key, &Mapping::new(*wire, 0, now));
}

/// Whether a datagram that the stack delivers right now is the one that the wire brought:
/// conntrack gives one delivered tuple to one flow, so what arrived under it and is delivered
/// under it was changed by nobody. Then its flow has its record, if the pod is known to be here.
#[inline(always)]
fn open_delivered(
    config: &Config,
    tuple: &FlowTuple,
    ifindex: u32,
    ethernet: &EthernetHeader,
    at_home: bool,
    now: u64,
) -> bool {
    let Some(note) = maps::mapping(&tuple.arrived()) else {
        return false;
    };
    if now.wrapping_sub(note.written_ns) > ARRIVAL_NS
        || may_open(config, tuple, ifindex).is_err()
        || maps::wire_mapping(tuple).is_some()
    {
        return false;
    }
    let Some(index) = route::lookup(config, tuple.remote.last_word()) else {
        return false;
    };
    let Some(vtep) = route::vtep(index) else {
        return false;
    };
    if !at_home {
        // A bridge that has forgotten a MAC address delivers to every pod.
        return true;
    }
    let Some(record) = permit::blank(tuple, tuple, ifindex, now) else {
        return false;
    };
    record.flags = PERMIT_FLAG_DIRECT;
    record.vtep = index;
    record.vtep_generation = vtep.generation;
    record.pod_mac = ethernet.destination;
    record.gateway_mac = ethernet.source;
    record.sent_to_mac = ethernet.source;
    start(record, now);
    true
}

/// Whether the stack, or a NAT of it, has this tuple: then no direct flow may.
#[inline(always)]
fn owned(tuple: &FlowTuple) -> bool {
    if let Some(permit) = maps::permit(tuple)
        && permit.state == PERMIT_LIVE
        && !is_direct(permit)
    {
        return true;
    }
    maps::mapping(tuple).is_some() || maps::wire_mapping(tuple).is_some()
}

#[inline(always)]
fn start(record: &mut Permit, now: u64) {
    record.out_until_ns = now + IDLE_NS;
    record.in_until_ns = now + IDLE_NS;
    record.probe_out_at_ns = u64::MAX;
    permit::create(record);
}

/// Netfilter gave a flow a wire tuple: a direct flow with that very tuple would get its replies.
#[inline(always)]
pub fn yield_to_nat(pod: &FlowTuple, wire: &FlowTuple, ifindex: u32, now: u64) {
    if pod == wire {
        return;
    }
    if let Some(permit) = maps::permit(wire)
        && is_direct(permit)
    {
        maps::remove_permit(wire);
    }
    maps::insert_wire_mapping(wire, &Mapping::new(*pod, ifindex, now));
}

/// A flow of the pod begins on the stack: no direct one may have its tuple.
#[inline(always)]
pub fn leave_to_stack(pod: &FlowTuple, wire: &FlowTuple, ifindex: u32, now: u64) {
    // That there is one is what counts.
    if maps::mapping(pod).is_none() {
        maps::insert_mapping(pod, &Mapping::new(*wire, ifindex, now));
    }
}

/// The stack delivers to a pod where the pod has said it is: only both together are believed.
/// Frames also come to pods that they are not for, where a bridge has forgotten a MAC address.
#[inline(always)]
fn confirm(address: &Address, ifindex: u32, ethernet: &EthernetHeader, now: u64) -> bool {
    let Some(place) = maps::local_pod(address) else {
        return false;
    };
    if place.ifindex != ifindex || place.pod_mac != ethernet.destination {
        return false;
    }
    if now.wrapping_sub(place.seen_ns) >= CONFIRM_NS {
        let place = LocalPod {
            seen_ns: now,
            ifindex,
            pod_mac: ethernet.destination,
            gateway_mac: ethernet.source,
        };
        maps::insert_local_pod(address, &place);
    }
    true
}

/// The stack delivers to a pod: remembers that the pod is there, and that the stack has this
/// tuple, unless it is seen to have done nothing to it.
#[inline(always)]
pub fn note_delivery(
    packet: &Packet,
    config: &Config,
    flow: &Flow,
    ethernet: &EthernetHeader,
    now: u64,
) {
    let tuple = flow.received();
    let ifindex = packet.ifindex();
    let at_home = confirm(&tuple.local, ifindex, ethernet, now);
    if maps::permit(&tuple).is_none() && maps::mapping(&tuple).is_none() {
        if flow.is_udp() && open_delivered(config, &tuple, ifindex, ethernet, at_home, now) {
            return;
        }
        maps::insert_mapping(&tuple, &Mapping::new(tuple, ifindex, now));
    }
}

/// The direct record that an ICMP error is about: conntrack never saw the flow, and would take
/// its errors for invalid. `ours` says whether the quoted packet was sent by the local pod.
#[inline(always)]
pub fn quoted(
    packet: &Packet,
    offset: u32,
    ip: &Ipv4Header,
    ours: bool,
) -> Option<&'static mut Permit> {
    if ip.version_ihl != Ipv4Header::PLAIN || ip.is_fragment() || ip.protocol() != IpProtocol::ICMP
    {
        return None;
    }
    let error = packet.fetch::<IcmpError>(offset + IPV4_LEN)?;
    if !error.quotes_a_flow() {
        return None;
    }
    let source = (
        Address::from_v4(error.ip.source()),
        Be16::from_bytes(error.source),
    );
    let destination = (
        Address::from_v4(error.ip.destination()),
        Be16::from_bytes(error.destination),
    );
    let (local, remote) = if ours {
        (source, destination)
    } else {
        (destination, source)
    };
    let tuple = FlowTuple {
        local: local.0,
        remote: remote.0,
        local_port: local.1,
        remote_port: remote.1,
        protocol: error.ip.protocol,
        reserved: [0; 3],
    };
    // To the one who sent what is quoted, as conntrack would have it. Who says so may be any
    // router on the way: whether it is one of the VTEP's, our caller asks.
    let quoted_by = if ours { local } else { remote };
    let fits =
        quoted_by.0.last_word() == ip.destination() && (ours || local.0.last_word() == ip.source());
    let permit = maps::permit(&tuple)?;
    (fits && permit.state == PERMIT_LIVE && is_direct(permit)).then_some(permit)
}
