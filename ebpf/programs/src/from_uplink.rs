//! TC ingress of the uplink: VXLAN that arrives, judged, and carried where a permit says so.

use twill_abi::{
    Address, Be32, CONFIG_FLAG_BARE_UPLINK, CONFIG_FLAG_POD_VXLAN, Config, Permit, Program, Reason,
};
use twill_packet::ethernet::{ETHERNET_LEN, EtherType, EthernetHeader};
use twill_packet::ipv4::{IPV4_LEN, IpProtocol, Ipv4Header};
use twill_packet::transport::{UDP_LEN, UdpHeader};
use twill_packet::vxlan::{FLAGS_VNI, INNER_IP_OFFSET, OuterTail};

use crate::access::Packet;
use crate::decap::Arrival;
use crate::encap::Failure;
use crate::flow::Flow;
use crate::guard::Answer;
use crate::permit::Direction;
use crate::settings::Settings;
use crate::verdict::Verdict;
use crate::{count, decap, direct, flow, guard, maps, nexthop, permit, place, route, settings};

/// The program that this is.
pub const PROGRAM: Program = Program::FromUplink;

/// What is left to know of a packet that passed every check.
#[derive(Default)]
struct Trusted {
    /// Index of the VTEP that sent it.
    vtep: u32,
    /// The outer TOS byte.
    outer_tos: u8,
    /// The outer UDP source port.
    outer_port: u16,
    /// Whether the outer UDP header carries a checksum.
    checked_outer: bool,
    /// The byte behind the VNI, which the kernel's decap wants to be zero.
    reserved: u8,
    /// The inner IP header.
    ip: Ipv4Header,
}

/// Decides about one packet.
#[inline(always)]
pub fn decide(packet: &Packet) -> Verdict {
    let Some(config) = &settings::active() else {
        return Verdict::Pass(Reason::ModeKernel);
    };
    if config.flags & CONFIG_FLAG_BARE_UPLINK != 0 {
        return match guard::decide_bare(packet, config) {
            Answer::Drop => Verdict::Refused,
            Answer::Pass => Verdict::Ignore,
        };
    }
    // Nothing is left unset where nothing is trusted: the verifier would see it copied.
    let (trusted, is_trusted) = match judge(packet, config) {
        Ok(trusted) => (trusted, true),
        Err(reason) => {
            // Here, and not behind the guard: else the verifier goes through the guard once for
            // each reason.
            count::packet(PROGRAM, reason, packet.len());
            (Trusted::default(), false)
        }
    };
    if is_trusted {
        count::from_vtep(trusted.vtep, packet.len());
    }
    let at_tc = guard::at_tc(config);
    // What was judged here is not judged again, but for VXLAN within VXLAN: it goes the slow way.
    if !is_trusted || (at_tc && carries_vxlan(packet, config, &trusted)) {
        if is_trusted {
            count::packet(PROGRAM, Reason::Trusted, packet.len());
        }
        return if at_tc && guard::decide(packet, config) == Answer::Drop {
            Verdict::Refused
        } else {
            Verdict::Ignore
        };
    }
    if at_tc {
        count::packet(Program::Guard, Reason::Trusted, packet.len());
    }
    if !settings::fast_path(config) {
        return Verdict::Pass(Reason::Trusted);
    }
    match fast(packet, config, &trusted) {
        Ok(verdict) => verdict,
        Err(Failure::Untouched(reason)) => Verdict::Pass(reason),
        Err(Failure::Broken(reason)) => Verdict::Drop(reason),
    }
}

/// Whether this is VXLAN from a known VTEP that has to do with what it carries.
#[inline(always)]
fn judge(packet: &Packet, config: &Config) -> Result<Trusted, Reason> {
    let Some(ethernet) = packet.get::<EthernetHeader>(0) else {
        return Err(Reason::Truncated);
    };
    if ethernet.ether_type() != EtherType::IPV4 {
        return Err(Reason::NotIp);
    }
    let Some(outer) = packet.fetch::<Ipv4Header>(ETHERNET_LEN) else {
        return Err(Reason::Truncated);
    };
    let ours =
        outer.protocol() == IpProtocol::UDP && outer.destination() == config.underlay.last_word();
    if !ours {
        return Err(Reason::NotVxlan);
    }
    if packet.has_vlan_tag() {
        return Err(Reason::VlanTag);
    }
    if outer.version() != 4 || outer.header_len() < IPV4_LEN {
        return Err(Reason::IpMalformed);
    }
    if outer.header_len() > IPV4_LEN {
        return Err(Reason::IpOptions);
    }
    if outer.is_fragment() {
        return Err(Reason::Fragment);
    }
    let Some(tail) = packet.fetch::<OuterTail>(ETHERNET_LEN + IPV4_LEN) else {
        return Err(short_tail(packet, config));
    };
    if tail.udp.destination() != config.vxlan_port {
        return Err(Reason::NotVxlan);
    }
    if outer.total_length() + ETHERNET_LEN != packet.len()
        || tail.udp.length() + IPV4_LEN != outer.total_length()
    {
        return Err(Reason::OuterMalformed);
    }
    if tail.vxlan.flags != FLAGS_VNI {
        return Err(Reason::VxlanFlags);
    }
    if tail.vxlan.vni() != config.vni {
        return Err(Reason::WrongVni);
    }
    if tail.ethernet.destination != config.vtep_mac {
        return Err(Reason::ForeignInnerMac);
    }
    if tail.ethernet.ether_type() != EtherType::IPV4 {
        return Err(Reason::NotIp);
    }
    let ip = flow::ipv4(packet, INNER_IP_OFFSET)?;
    let vtep = sender(config, outer.source(), ip.source())?;
    if !route::is_own(config, ip.destination()) {
        return Err(Reason::ForeignInnerDestination);
    }
    Ok(Trusted {
        vtep,
        outer_tos: outer.tos,
        outer_port: tail.udp.source().to_host(),
        checked_outer: tail.udp.check != [0; 2],
        reserved: tail.vxlan.reserved,
        ip,
    })
}

/// Whether what is inside may be VXLAN to our port: a pod of another node may speak to this host,
/// which only the guard asks about.
#[inline(always)]
fn carries_vxlan(packet: &Packet, config: &Config, trusted: &Trusted) -> bool {
    config.flags & CONFIG_FLAG_POD_VXLAN == 0
        && trusted.ip.protocol() == IpProtocol::UDP
        && packet
            .fetch::<UdpHeader>(INNER_IP_OFFSET + trusted.ip.header_len())
            .is_none_or(|udp| udp.destination() == config.vxlan_port)
}

/// A UDP packet to our address that ends before an inner Ethernet header would: to our port it
/// is broken VXLAN, to any other it is somebody else's.
#[inline(always)]
fn short_tail(packet: &Packet, config: &Config) -> Reason {
    match packet.fetch::<[u8; UDP_LEN as usize]>(ETHERNET_LEN + IPV4_LEN) {
        Some([_, _, high, low, ..]) if [high, low] != config.vxlan_port.to_bytes() => {
            Reason::NotVxlan
        }
        _ => Reason::Truncated,
    }
}

/// Index of the VTEP that sent the packet, if the inner source lies behind it.
#[inline(always)]
fn sender(config: &Config, outer: Be32, inner: Be32) -> Result<u32, Reason> {
    let outer = Address::from_v4(outer);
    if let Some(index) = route::lookup(config, inner)
        && let Some(vtep) = route::vtep(index)
        && vtep.underlay == outer
    {
        return Ok(index);
    }
    match maps::vtep_by_source(outer) {
        Some(_) => Err(Reason::ForeignInnerSource),
        None => Err(Reason::UnknownVtep),
    }
}

/// Carries the packet into the pod, if a permit says so.
#[inline(always)]
fn fast(packet: &Packet, config: &Settings, trusted: &Trusted) -> Result<Verdict, Failure> {
    let pass = |reason| Err(Failure::Untouched(reason));
    let Some(vtep) = route::vtep(trusted.vtep) else {
        return pass(Reason::StaleVtep);
    };
    let flow = match flow::parse(packet, INNER_IP_OFFSET, &trusted.ip) {
        Ok(flow) => flow,
        Err(Reason::NotTransport) if direct::is_on(config) => Flow::about(&trusted.ip),
        Err(reason) => return pass(reason),
    };
    if trusted.reserved != 0 {
        return pass(Reason::VxlanFlags);
    }
    if trusted.checked_outer && !packet.is_checksum_vouched_for() && !is_proven(packet, &flow) {
        return pass(Reason::OuterUnverified);
    }
    let vtep_is = (trusted.vtep, vtep.generation);
    // Most packets that find no permit have no use for the time.
    let early = if direct::is_on(config) {
        let now = permit::now();
        if let Some(state) = maps::vtep_state(trusted.vtep) {
            nexthop::hear(vtep, state, now);
        }
        now
    } else {
        0
    };
    let permit = find(packet, config, &flow, vtep_is, early).map_err(Failure::Untouched)?;
    let now = if early == 0 { permit::now() } else { early };
    permit::check(permit, now).map_err(Failure::Untouched)?;
    // The kernel's decap keeps a UDP GSO packet whole; without the tunnel's GSO type cleared a
    // socket would drop it.
    if flow.is_udp() && packet.gso_size() != 0 {
        return pass(Reason::UdpSegments);
    }
    if (permit.vtep, permit.vtep_generation) != vtep_is {
        return pass(Reason::StaleVtep);
    }
    if flow.ip.ttl <= 1 {
        return pass(Reason::LastHop);
    }
    if !place::is_there(packet, config, permit, now) {
        permit::doubt(permit);
        return pass(Reason::ForeignVeth);
    }
    if !place::fits(packet, &flow, permit) {
        return pass(Reason::OverPathMtu);
    }
    if direct::is_direct(permit) {
        direct::heard(permit);
        direct::keep(permit, now);
    } else {
        let Some(state) = maps::vtep_state(trusted.vtep) else {
            return pass(Reason::StaleVtep);
        };
        if !nexthop::is_confirmed(config, vtep, state, now) {
            return pass(Reason::OuterPermitExpired);
        }
        // What the other node asks by is no probe here: conntrack would need an entry for its port.
        if !nexthop::asks(config, trusted.outer_port)
            && permit::is_probe(config, permit, Direction::In, now)
        {
            return pass(Reason::Probe);
        }
    }
    let rewrite = Arrival::of(permit);
    // The entry may have become another flow's while it was read; then its tuples did first.
    if !flow.is_error() && permit.wire != flow.received() {
        return pass(Reason::NoPermit);
    }
    let len = packet.len();
    decap::into_pod(packet, &flow, &rewrite, trusted.outer_tos)?;
    Ok(Verdict::RedirectPeer {
        ifindex: rewrite.ifindex,
        len,
    })
}

/// Whether the outer UDP checksum is right wherever the inner one is, which the pod verifies: then
/// nobody has to sum up the packet here. A datagram without a checksum has the outer one alone.
#[inline(always)]
fn is_proven(packet: &Packet, flow: &Flow) -> bool {
    let has_checksum = if flow.is_udp() {
        packet
            .get::<UdpHeader>(INNER_IP_OFFSET + IPV4_LEN)
            .is_some_and(|udp| udp.check != [0; 2])
    } else {
        !flow.is_error()
    };
    // Not on the stack, of which kernels before 6.6 leave little to a program of this size.
    let Some(headers) = maps::scratch_headers().filter(|_| has_checksum) else {
        return false;
    };
    packet.load(ETHERNET_LEN, headers)
        && headers
            .tail
            .is_checksum_right(&headers.outer, &headers.inner)
}

/// The record that this packet may go by; a first packet may make one, a last one ends it. `now`
/// counts only in the mode `direct`.
#[inline(always)]
fn find(
    packet: &Packet,
    config: &Settings,
    flow: &Flow,
    vtep: (u32, u32),
    now: u64,
) -> Result<&'static mut Permit, Reason> {
    if flow.is_error() {
        return direct::quoted(packet, INNER_IP_OFFSET, &flow.ip, true).ok_or(Reason::NotTransport);
    }
    let wire = flow.received();
    let mut found = permit::by_wire(&wire);
    if let Some((pod, permit)) = &mut found
        && direct::is_direct(permit)
        && direct::is_repeated(permit, flow)
    {
        permit::end(pod);
        return Err(Reason::Opening);
    }
    if found.is_none() && direct::is_on(config) {
        match direct::open_in(config, flow, &wire, vtep, now) {
            Ok(()) => found = permit::by_wire(&wire),
            Err(refused @ (Reason::StackOwned | Reason::NeverFast)) => return Err(refused),
            Err(_) if flow.is_udp() => direct::note_arrival(&wire, now),
            Err(_) => {}
        }
    }
    let Some((pod, permit)) = found else {
        return Err(match flow.flags {
            flags if flags.closes() => Reason::Closing,
            flags if flags.opens() => Reason::Opening,
            _ => Reason::NoPermit,
        });
    };
    if direct::is_direct(permit) {
        return if direct::is_on(config) {
            Ok(permit)
        } else {
            Err(Reason::NoPermit)
        };
    }
    if flow.flags.closes() {
        permit::close(permit, permit::now());
        return Err(Reason::Closing);
    }
    if flow.flags.opens() {
        if flow.flags.is_first() {
            permit::end(&pod);
        }
        return Err(Reason::Opening);
    }
    Ok(permit)
}
