//! The outer headers, and the rewrite of the inner ones behind them.

use twill_abi::{Be16, Config, FlowTuple, Reason, Vtep};
use twill_packet::ipv4::{IPV4_LEN, IPV4_TAIL_OFFSET, Rewrite};
use twill_packet::transport::{TCP_CHECK_OFFSET, UDP_CHECK_OFFSET};
use twill_packet::vxlan::{Encap, INNER_IP_OFFSET};

use crate::access::Packet;
use crate::flow::Flow;
use crate::nexthop::{self, Path};

/// Where the destination port is in a TCP or UDP header, bytes.
const DESTINATION_PORT_OFFSET: u32 = 2;

/// What went wrong, and whether the packet is still what it was.
pub enum Failure {
    /// Nothing has changed: the packet may go to the kernel.
    Untouched(Reason),
    /// The packet is half rewritten and must not go anywhere.
    Broken(Reason),
}

/// Puts the outer headers in front of the frame; `hash` is the flow's, and decides the source port.
///
/// The mark goes: nobody's mark belongs on an outer packet. While outer permits are asked for,
/// our own bit says "made by BPF" as far as `to_uplink`, which clears it.
#[inline(always)]
pub fn outer(
    packet: &Packet,
    config: &Config,
    vtep: &Vtep,
    path: &Path,
    inner_tos: u8,
    hash: u32,
    now: u64,
) -> Result<(), Failure> {
    let headers = Encap {
        nexthop_mac: path.mac,
        source_mac: path.source_mac,
        source: config.underlay.last_word(),
        destination: vtep.underlay.last_word(),
        source_port: nexthop::port_of(config, hash),
        port: config.vxlan_port,
        vni: config.vni,
        remote_vtep_mac: vtep.mac,
        local_vtep_mac: config.vtep_mac,
        identification: identification(hash, now),
        inner_tos,
        frame_len: packet.len(),
    }
    .headers();
    if packet.add_outer_headers().is_err() {
        return Err(Failure::Untouched(Reason::EncapRefused));
    }
    if !packet.store(0, &headers) {
        return Err(Failure::Broken(Reason::NoMemory));
    }
    packet.set_mark(if config.outer_permit_ns == 0 {
        0
    } else {
        config.mark_bit
    });
    Ok(())
}

/// Identification of an outer packet: by the clock, so that a flow's packets differ, and by the
/// flow, so that those of two processors do.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the low bits are those that change from packet to packet"
)]
fn identification(hash: u32, now: u64) -> u16 {
    hash as u16 ^ now as u16
}

/// What the node's forwarding would have done to the inner packet: TTL, and the destination
/// that netfilter has chosen for the flow. The outer headers are there already.
#[inline(always)]
pub fn inner(
    packet: &Packet,
    flow: &Flow,
    pod: &FlowTuple,
    wire: &FlowTuple,
) -> Result<(), Failure> {
    let mut rewrite = Rewrite::new(&flow.ip);
    rewrite.decrement_ttl();
    let transport = INNER_IP_OFFSET + IPV4_LEN;
    let udp = flow.is_udp();
    let check = transport
        + if udp {
            UDP_CHECK_OFFSET
        } else {
            TCP_CHECK_OFFSET
        };
    let mut done = true;
    if pod.remote != wire.remote {
        let (from, to) = (pod.remote.last_word(), wire.remote.last_word());
        rewrite.set_destination(to);
        done &= packet.follow_address(check, from, to, udp);
    }
    if pod.remote_port != wire.remote_port {
        done &= packet.follow_port(check, pod.remote_port, wire.remote_port, udp);
        let port: Be16 = wire.remote_port;
        done &= packet.store(transport + DESTINATION_PORT_OFFSET, &port);
    }
    done &= packet.store(INNER_IP_OFFSET + IPV4_TAIL_OFFSET, &rewrite.tail());
    if done {
        Ok(())
    } else {
        Err(Failure::Broken(Reason::NoMemory))
    }
}
