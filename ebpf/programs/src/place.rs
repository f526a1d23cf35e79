//! Where pods are: whether what is remembered of one is still so.
//!
//! A record leads to a veth and a MAC address for as long as it lasts. Its pod may be gone by
//! then, or its address another pod's, and with the daemon dead nobody ends the record. So the
//! packets themselves look, a few times a second, at what the host would do with them.

use twill_abi::{Address, Config, LocalPod, Permit};
use twill_packet::arp::ArpSender;
use twill_packet::ethernet::{ETHERNET_LEN, EtherType, EthernetHeader};

use crate::access::{Fib, Packet};
use crate::flow::Flow;
use crate::{direct, maps, route};

/// How often a record's packets look, nanoseconds: a moved address is the stack's that soon, and
/// whoever claims one costs its flows that many slow packets at the most.
const LOOK_NS: u64 = 100_000_000;

/// Whether the pod of a record is where the record says. Where the host does not know, it is for
/// the stack to find out; only of a direct flow, which conntrack has never seen, the pods' own
/// word is enough.
#[inline(always)]
pub fn is_there(packet: &Packet, config: &Config, permit: &mut Permit, now: u64) -> bool {
    if now < permit.look_at_ns {
        return true;
    }
    permit.look_at_ns = now + LOOK_NS;
    let (ifindex, mac) = (permit.ifindex, permit.pod_mac);
    let Some(params) = maps::scratch_fib() else {
        return false;
    };
    // What is redirected to a veth that is gone is lost.
    if !packet.has_interface(params, ifindex) {
        return false;
    }
    let place = maps::local_pod(&permit.pod.local);
    let (source, destination) = (permit.wire.remote, permit.wire.local);
    let (source, destination) = (source.last_word(), destination.last_word());
    match packet.forwards_to(params, config.overlay_ifindex, source, destination) {
        // The neighbour table does not know which port of a bridge has a MAC address.
        Fib::Found(next) => {
            let is_there = next.mac == mac
                && leads_to(next.ifindex, ifindex)
                && place.is_none_or(|place| place.ifindex == ifindex || place.pod_mac != mac);
            if is_there {
                // Of a bridge, where the pod hangs on one. No IPv4 packet is longer than the type
                // holds.
                permit.pod_mtu = u16::try_from(next.mtu).unwrap_or(u16::MAX);
            }
            is_there
        }
        Fib::NoNeighbour => {
            direct::is_direct(permit) && place.is_none_or(|place| place.ifindex == ifindex)
        }
        Fib::Unusable => false,
    }
}

/// Whether the host's stack would hand the packet, or its segments, to the pod of a record as it
/// is: larger ones it answers or fragments.
#[inline(always)]
pub fn fits(packet: &Packet, flow: &Flow, permit: &Permit) -> bool {
    let len = match packet.gso_size() {
        0 => flow.ip.total_length(),
        gso_size => gso_size + flow.headers_len,
    };
    permit.pod_mtu == 0 || len <= u32::from(permit.pod_mtu)
}

/// Whether what the host sends by a link comes to this veth: the link is the veth, or none that
/// is a pod's, as a bridge is not.
#[inline(always)]
pub fn leads_to(link: u32, veth: u32) -> bool {
    link == veth || maps::veth_flags(link) == 0
}

/// A pod that asks for or gives a MAC address, as every pod does now and then, says where it is.
/// That alone is believed by nobody, since a pod may claim any address: it makes a record doubtful
/// at the most (see [`is_there`]), and a new one only with the stack's word (`direct`).
#[inline(always)]
pub fn hear_arp(packet: &Packet, config: &Config) {
    if packet.has_vlan_tag() {
        return;
    }
    let Some(ethernet) = packet.get::<EthernetHeader>(0) else {
        return;
    };
    if ethernet.ether_type() != EtherType::ARP {
        return;
    }
    let Some(sender) = packet.fetch::<ArpSender>(ETHERNET_LEN) else {
        return;
    };
    let Some(address) = sender.claims(ethernet.source) else {
        return;
    };
    if !route::is_own(config, address) {
        return;
    }
    let address = Address::from_v4(address);
    let ifindex = packet.ifindex();
    let known = maps::local_pod(&address)
        .is_some_and(|place| place.ifindex == ifindex && place.pod_mac == ethernet.source);
    if known {
        return;
    }
    let place = LocalPod {
        seen_ns: 0,
        ifindex,
        pod_mac: ethernet.source,
        gateway_mac: [0; 6],
    };
    maps::insert_local_pod(&address, &place);
}
