//! VXLAN from strangers: who may send it here, asked of every packet that the kernel's vxlan
//! device would take. By XDP on the uplink, or by TC where XDP cannot be had.

use twill_abi::maps::PACE_OF_STRANGERS;
use twill_abi::{
    Address, Be32, CONFIG_FLAG_GUARD_AT_TC, CONFIG_FLAG_LEASES_COMPLETE, CONFIG_FLAG_POD_VXLAN,
    CONFIG_FLAG_SHARED_PORT, Config, GUARD_HEARTBEAT_NS, Guard, Program, Reason, Stranger,
};
use twill_packet::guard::{self, Bytes, Candidate};

use crate::access::{self, Bare, Frame, Packet};
use crate::settings::{self, Settings};
use crate::{count, maps, route};

/// Under which name it counts, wherever it runs.
const PROGRAM: Program = Program::Guard;
/// How often a CPU writes down a new stranger, nanoseconds: a flood with invented sources would
/// otherwise pay for a new entry with each packet, and push out whom we want to know.
const PACE_NS: u64 = 100_000;

/// A packet that came in by the uplink.
pub trait Incoming: Bytes {
    /// Interface index that it came in by.
    fn ifindex(&self) -> u32;

    /// Whether this host would take in a packet with these addresses.
    fn is_taken_in(&self, source: Be32, destination: Be32) -> bool;
}

impl Incoming for Packet {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.ifindex()
    }

    #[inline(always)]
    fn is_taken_in(&self, source: Be32, destination: Be32) -> bool {
        self.is_taken_in(source, destination)
    }
}

impl Incoming for Bare<'_> {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.0.ifindex()
    }

    #[inline(always)]
    fn is_taken_in(&self, source: Be32, destination: Be32) -> bool {
        self.0.is_taken_in(source, destination)
    }
}

impl<const SPLIT: bool> Incoming for Frame<SPLIT> {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.ifindex()
    }

    #[inline(always)]
    fn is_taken_in(&self, source: Be32, destination: Be32) -> bool {
        self.is_taken_in(source, destination)
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Eq, PartialEq)]
#[must_use]
pub enum Answer {
    /// It goes on.
    Pass,
    /// It is gone.
    Drop,
}

/// Decides about one packet or frame.
#[inline(always)]
pub fn uplink<P: Incoming>(packet: &P) -> Answer {
    match settings::active() {
        Some(config) => decide(packet, &config),
        None => Answer::Pass,
    }
}

/// Whether it is at TC's turn to guard the uplink.
#[inline(always)]
pub fn at_tc(config: &Config) -> bool {
    config.flags & CONFIG_FLAG_GUARD_AT_TC != 0 && config.guard != Guard::Off as u32
}

/// Decides about one packet or frame, the settings being read.
#[inline(always)]
pub fn decide<P: Incoming>(packet: &P, config: &Config) -> Answer {
    if config.guard == Guard::Off as u32 {
        return Answer::Pass;
    }
    match guard::candidate(packet, config.vxlan_port) {
        Ok(None) => Answer::Pass,
        Ok(Some(candidate)) => weigh(packet, config, &candidate),
        Err(reason) => refuse(packet, config, reason, access::now_ns()),
    }
}

/// [`decide`] where the uplink's packets have no Ethernet header.
#[inline(always)]
pub fn decide_bare(packet: &Packet, config: &Config) -> Answer {
    if config.guard == Guard::Off as u32 {
        return Answer::Pass;
    }
    let packet = &Bare(packet);
    match guard::bare_candidate(packet, config.vxlan_port) {
        None => Answer::Pass,
        Some(candidate) => weigh(packet, config, &candidate),
    }
}

/// Decides about VXLAN, if this host takes it in.
#[inline(always)]
fn weigh<P: Incoming>(packet: &P, config: &Config, candidate: &Candidate) -> Answer {
    let &Candidate {
        source,
        destination,
        ..
    } = candidate;
    // The kernel's socket listens on every address of the host, not only on the one that peers
    // send to; what the host forwards is none of our business.
    let taken_in = destination.to_network() == config.underlay.last_word().to_network()
        || packet.is_taken_in(source, destination);
    if !taken_in {
        return Answer::Pass;
    }
    let known = maps::vtep_by_source(Address::from_v4(source)).is_some();
    let reason = match judge(packet, config, candidate, known) {
        Ok(()) => {
            count::packet(PROGRAM, Reason::Trusted, packet.len());
            return Answer::Pass;
        }
        Err(reason) => reason,
    };
    // Somebody else's overlay at the same port is not ours to judge.
    if reason == Reason::WrongVni && config.flags & CONFIG_FLAG_SHARED_PORT != 0 {
        count::packet(PROGRAM, reason, packet.len());
        return Answer::Pass;
    }
    let now = access::now_ns();
    let answer = refuse(packet, config, reason, now);
    if !known {
        remember(
            Address::from_v4(source),
            packet.ifindex(),
            reason,
            answer,
            now,
        );
    }
    answer
}

/// Whether a known VTEP sent this, and has to do with what it carries.
#[inline(always)]
fn judge<P: Incoming>(
    packet: &P,
    config: &Config,
    candidate: &Candidate,
    known: bool,
) -> Result<(), Reason> {
    candidate.vxlan(packet, config.vni)?;
    if !known {
        return Err(Reason::UnknownVtep);
    }
    let inner = candidate.inner(packet)?;
    // A node may speak in its own name; else the source lies in a subnet behind it.
    if inner.source != candidate.source {
        let vtep = route::lookup(config, inner.source).and_then(route::vtep);
        match vtep {
            Some(vtep) if vtep.underlay == Address::from_v4(candidate.source) => {}
            _ => return Err(Reason::ForeignInnerSource),
        }
    }
    if !route::is_own(config, inner.destination) {
        return Err(Reason::ForeignInnerDestination);
    }
    // VXLAN within VXLAN that this host, and not a pod, would take off: a pod of another node
    // speaks to our port by way of its own node.
    if inner.udp_port == Some(config.vxlan_port)
        && config.flags & CONFIG_FLAG_POD_VXLAN == 0
        && packet.is_taken_in(inner.source, inner.destination)
    {
        return Err(Reason::PodVxlan);
    }
    Ok(())
}

#[inline(always)]
fn refuse<P: Bytes>(packet: &P, config: &Config, reason: Reason, now: u64) -> Answer {
    count::packet(PROGRAM, reason, packet.len());
    if enforces(config, now) {
        Answer::Drop
    } else {
        Answer::Pass
    }
}

/// Whether what is refused is dropped: never by what an agent said that may be dead, or that may
/// not know every node.
#[inline(always)]
fn enforces(config: &Config, now: u64) -> bool {
    config.guard == Guard::Enforce as u32
        && config.flags & CONFIG_FLAG_LEASES_COMPLETE != 0
        && now.wrapping_sub(config.heartbeat_ns) < GUARD_HEARTBEAT_NS
}

/// Remembers who sent a packet and is no VTEP.
#[inline(always)]
fn remember(source: Address, ifindex: u32, reason: Reason, answer: Answer, now: u64) {
    let dropped = answer == Answer::Drop;
    if let Some(stranger) = maps::stranger(&source) {
        maps::add_one(&mut stranger.packets);
        if dropped {
            maps::add_one(&mut stranger.dropped);
        }
        stranger.last_ns = now;
        stranger.ifindex = ifindex;
        stranger.reason = reason as u16;
        return;
    }
    let Some(last) = maps::pace(PACE_OF_STRANGERS) else {
        return;
    };
    if now.wrapping_sub(*last) < PACE_NS {
        return;
    }
    *last = now;
    let stranger = Stranger {
        first_ns: now,
        last_ns: now,
        packets: 1,
        dropped: u64::from(dropped),
        ifindex,
        reason: reason as u16,
        reserved: 0,
    };
    maps::insert_stranger(&source, &stranger);
}

/// `from_pod`: whether a pod speaks to a node's VXLAN port, which would take it for a peer. Told
/// apart by the destination, for pods may have a VXLAN of their own among themselves.
#[inline(always)]
pub fn from_pod(packet: &Packet, config: &Settings) -> Answer {
    if config.guard == Guard::Off as u32 || config.flags & CONFIG_FLAG_POD_VXLAN != 0 {
        return Answer::Pass;
    }
    // Behind more tags than that the kernel's bridge takes nothing for IP.
    let Ok(Some(candidate)) = guard::candidate(packet, config.vxlan_port) else {
        return Answer::Pass;
    };
    let Candidate {
        source,
        destination,
        ..
    } = candidate;
    let to_node = maps::vtep_by_source(Address::from_v4(destination)).is_some()
        || is_gateway(config, destination)
        || packet.is_taken_in(source, destination);
    if !to_node {
        return Answer::Pass;
    }
    count::packet(Program::FromPod, Reason::PodVxlan, packet.len());
    // No lease has a say in this: it holds with the agent dead as well.
    if config.guard == Guard::Enforce as u32 {
        Answer::Drop
    } else {
        Answer::Pass
    }
}

/// Whether an address is one of another node inside the overlay: the first of a subnet is its
/// vxlan device's, the second, by the default of the bridge plugin, its bridge's.
#[inline(always)]
fn is_gateway(config: &Config, address: Be32) -> bool {
    let network = route::masked(address, config.common_prefix_v4).to_host();
    address.to_host().wrapping_sub(network) <= 1 && route::lookup(config, address).is_some()
}
