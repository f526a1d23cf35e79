//! Outer headers off, and the inner ones as the pod shall see them.

use twill_abi::{Be16, Be32, Permit, Reason};
use twill_packet::ecn::{self, Decap};
use twill_packet::ethernet::ETHERNET_LEN;
use twill_packet::ipv4::{IPV4_LEN, IPV4_TAIL_OFFSET, Rewrite};
use twill_packet::transport::{TCP_CHECK_OFFSET, UDP_CHECK_OFFSET};

use crate::access::Packet;
use crate::encap::Failure;
use crate::flow::Flow;

/// Where the TOS byte is in an IPv4 header.
const TOS_OFFSET: u32 = 1;

/// MAC addresses of a frame: destination, source.
#[repr(C)]
struct Addresses {
    destination: [u8; 6],
    source: [u8; 6],
}

/// What a packet becomes on its way into the pod, copied out of the record.
pub struct Arrival {
    /// Interface index of the pod's host-side veth.
    pub ifindex: u32,
    addresses: Addresses,
    /// The other side as the wire has it, and as the pod knows it.
    wire: (Be32, Be16),
    pod: (Be32, Be16),
}

impl Arrival {
    /// Copies what is needed: the record is shared, and may change hands.
    #[inline(always)]
    pub fn of(permit: &Permit) -> Self {
        Self {
            ifindex: permit.ifindex,
            addresses: Addresses {
                destination: permit.pod_mac,
                source: permit.gateway_mac,
            },
            wire: (permit.wire.remote.last_word(), permit.wire.remote_port),
            pod: (permit.pod.remote.last_word(), permit.pod.remote_port),
        }
    }
}

/// Takes the outer headers off a packet of a permitted flow and rewrites the inner ones.
#[inline(always)]
pub fn into_pod(
    packet: &Packet,
    flow: &Flow,
    arrival: &Arrival,
    outer_tos: u8,
) -> Result<(), Failure> {
    let mut rewrite = Rewrite::new(&flow.ip);
    rewrite.decrement_ttl();
    let mut remark = false;
    match ecn::decap(outer_tos, flow.ip.tos) {
        Decap::Keep => {}
        Decap::Set(bits) => {
            rewrite.set_ecn(bits);
            remark = true;
        }
        Decap::Drop => return Err(Failure::Untouched(Reason::EcnBroken)),
    }
    if packet.remove_outer_headers().is_err() {
        return Err(Failure::Untouched(Reason::DecapRefused));
    }
    packet.consume_checksum_level();
    let mut done = packet.store(0, &arrival.addresses);
    let transport = ETHERNET_LEN + IPV4_LEN;
    let udp = flow.is_udp();
    let check = transport
        + if udp {
            UDP_CHECK_OFFSET
        } else {
            TCP_CHECK_OFFSET
        };
    let ((wire_address, wire_port), (pod_address, pod_port)) = (arrival.wire, arrival.pod);
    if wire_address != pod_address {
        rewrite.set_source(pod_address);
        done &= packet.follow_address(check, wire_address, pod_address, udp);
    }
    if wire_port != pod_port {
        done &= packet.follow_port(check, wire_port, pod_port, udp);
        done &= packet.store(transport, &pod_port);
    }
    if remark {
        done &= packet.store(ETHERNET_LEN + TOS_OFFSET, &rewrite.tos());
    }
    done &= packet.store(ETHERNET_LEN + IPV4_TAIL_OFFSET, &rewrite.tail());
    if done {
        Ok(())
    } else {
        Err(Failure::Broken(Reason::NoMemory))
    }
}
