//! TC egress of a pod's host-side veth: what the host delivers to the pod.

use twill_abi::{Program, Reason};
use twill_packet::ethernet::{ETHERNET_LEN, EthernetHeader};
use twill_packet::ipv4::IpProtocol;

use crate::access::Packet;
use crate::verdict::Verdict;
use crate::{count, direct, flow, maps, permit, settings};

/// The program that this is.
pub const PROGRAM: Program = Program::ToPod;

/// Decides about one packet: it always passes.
#[inline(always)]
pub fn decide(packet: &Packet) -> Verdict {
    let Some(config) = &settings::active() else {
        return Verdict::Pass(Reason::ModeKernel);
    };
    let accepted = packet.take_mark_bit(config.mark_bit);
    if !settings::fast_path(config) {
        return Verdict::Pass(Reason::FastPathOff);
    }
    let ethernet = match flow::ethernet(packet) {
        Ok(ethernet) => ethernet,
        Err(reason) => return Verdict::Pass(reason),
    };
    let ip = match flow::ipv4(packet, ETHERNET_LEN) {
        Ok(ip) => ip,
        Err(reason) => return Verdict::Pass(reason),
    };
    let direct = direct::is_on(config);
    if !accepted && !direct && ip.protocol() != IpProtocol::TCP {
        // There is nothing to learn, and no FIN or RST to see.
        return Verdict::Pass(Reason::NotAccepted);
    }
    let flow = match flow::parse(packet, ETHERNET_LEN, &ip) {
        Ok(flow) => flow,
        Err(reason) => return Verdict::Pass(reason),
    };
    let now = permit::now();
    if direct {
        direct::note_delivery(packet, config, &flow, &ethernet, now);
    }
    if flow.flags.closes() {
        if let Some(permit) = maps::permit(&flow.received()) {
            permit::close(permit, now);
        }
        return Verdict::Pass(Reason::Closing);
    }
    if !accepted {
        return Verdict::Pass(Reason::NotAccepted);
    }
    // Not from the overlay: a neighbour that claims the other side's address would renew its permit.
    if packet.ingress_ifindex() != config.overlay_ifindex {
        return Verdict::Pass(Reason::NotFromOverlay);
    }
    let EthernetHeader {
        destination: pod_mac,
        source: gateway_mac,
        ..
    } = ethernet;
    if permit::learn_in(packet, config, &flow, pod_mac, gateway_mac, now) {
        count::packet(PROGRAM, Reason::Learned, packet.len());
    }
    Verdict::Ignore
}
