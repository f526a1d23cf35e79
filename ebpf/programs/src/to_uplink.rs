//! TC egress of the uplink: VXLAN that the kernel sent has passed every rule on its way.

use twill_abi::{Address, CONFIG_FLAG_BARE_UPLINK, Config, Program, Reason};
use twill_packet::ethernet::{ETHERNET_LEN, EtherType, EthernetHeader};
use twill_packet::ipv4::{IPV4_LEN, IpProtocol, Ipv4Header};
use twill_packet::vxlan::OuterTail;

use crate::access::Packet;
use crate::verdict::Verdict;
use crate::{count, maps, nexthop, permit, route, settings};

/// The program that this is.
pub const PROGRAM: Program = Program::ToUplink;

/// Decides about one packet: it always passes.
#[inline(always)]
pub fn decide(packet: &Packet) -> Verdict {
    let Some(config) = &settings::active() else {
        return Verdict::Ignore;
    };
    if packet.take_mark_bit(config.mark_bit) {
        // Made by BPF: no answer to what OUTPUT rules and policies think of it.
        return Verdict::Ignore;
    }
    if packet.ingress_ifindex() != 0 {
        // Forwarded: a pod's own VXLAN says nothing of what OUTPUT rules think of the kernel's.
        return Verdict::Ignore;
    }
    if let Some(reason) = confirm(packet, config) {
        count::packet(PROGRAM, reason, packet.len());
    }
    Verdict::Ignore
}

/// Renews the outer permit of the VTEP that this packet goes to, if it is the kernel's VXLAN, and
/// compares its way with what BPF's would be.
#[inline(always)]
fn confirm(packet: &Packet, config: &Config) -> Option<Reason> {
    if config.flags & CONFIG_FLAG_BARE_UPLINK != 0 {
        return None;
    }
    let ethernet = packet.get::<EthernetHeader>(0)?;
    let ip = packet.get::<Ipv4Header>(ETHERNET_LEN)?;
    let vxlan = ethernet.ether_type() == EtherType::IPV4
        && ip.version_ihl == Ipv4Header::PLAIN
        && ip.protocol() == IpProtocol::UDP
        && ip.source() == config.underlay.last_word();
    if !vxlan {
        return None;
    }
    let tail = packet.get::<OuterTail>(ETHERNET_LEN + IPV4_LEN)?;
    if tail.udp.destination() != config.vxlan_port || tail.vxlan.vni() != config.vni {
        return None;
    }
    let index = maps::vtep_by_source(Address::from_v4(ip.destination()))?;
    let vtep = route::vtep(index)?;
    let state = maps::vtep_state(index)?;
    let (vtep, mac) = ((index, vtep), ethernet.destination);
    match nexthop::confirm_outer(packet, config, vtep, state, mac, permit::now()) {
        Ok(()) => Some(Reason::OuterConfirmed),
        Err(reason) => Some(reason),
    }
}
