//! `from_uplink` with a permit: the outer headers go, and the packet goes into the pod as the
//! host's stack would have delivered it.

use twill_abi::{Permit, Program, Reason};
use twill_testbed::packet::{PROTOCOL_TCP, PROTOCOL_UDP, Tcp, Udp};

use super::flow::{
    CLIENT, Inner, PROTOCOLS, SEEN, SERVER, SERVICE, holding, into_pod, permit, plain, tuple,
};
use super::from_pod::summing_to_zero;
use crate::check::{Case, REDIRECT, check, from_vtep};
use crate::lab::Lab;
use crate::packets::{Outer, payload};
use crate::tables::Tables;
use crate::world::{OTHER_MAC, PORT, VTEP_B};

/// The packet comes by node B, and goes into the pod as `wanted`.
pub(crate) fn carried(
    name: &str,
    tables: Tables,
    outer: &Outer,
    sent: &Inner,
    wanted: &Inner,
) -> Case {
    let mut case = judged(name, tables, outer, &sent.bytes(), Reason::Fast);
    case.expected.verdict = REDIRECT;
    case.expected.packet = into_pod(&wanted.bytes());
    case
}

/// The packet comes by node B, and is passed on.
pub(crate) fn judged(
    name: &str,
    tables: Tables,
    outer: &Outer,
    packet: &[u8],
    reason: Reason,
) -> Case {
    let frame = outer.over(packet);
    let length = frame.len() as u64;
    let mut case = Case::passed(name, Program::FromUplink, tables, frame, reason);
    case.expected.vtep = Some((VTEP_B, from_vtep(length)));
    case
}

#[test]
fn a_permitted_packet_goes_into_the_pod() {
    let Some(lab) = Lab::open() else { return };
    let outer = Outer::from_node_b();
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let tables = holding(&lab, &[permit(&lab, flow, flow)]);
        let carry = |name: &str, outer: &Outer, change: &dyn Fn(&mut Inner)| {
            let sent = Inner::received(&flow).with(|inner| change(inner));
            let wanted = sent.clone().routed();
            check(&lab, &carried(name, tables.clone(), outer, &sent, &wanted));
        };
        for length in [0, 1, 2, 63, 1_400, 3_000] {
            carry(&format!("{length} bytes"), &outer, &|inner| {
                inner.payload = payload(length);
            });
        }
        for id in [0, 1, 0xfffe, 0xffff] {
            for ttl in [2, 3, 64, 255] {
                carry(&format!("TTL {ttl}, id {id:#x}"), &outer, &|inner| {
                    (inner.ip.ttl, inner.ip.id) = (ttl, id);
                });
            }
        }
        carry("no DF", &outer, &|inner| inner.ip.fragment = 0);
        let checked = Outer {
            udp: Udp::new(55_555, PORT),
            ..outer.clone()
        };
        carry("an outer checksum", &checked, &|_| {});
        let other = Outer {
            inner: twill_testbed::packet::Ethernet::ipv4(OTHER_MAC, outer.inner.destination),
            ..outer.clone()
        };
        carry("another inner source MAC address", &other, &|_| {});
    }
    let flow = plain(PROTOCOL_TCP);
    for flags in 0..=255 {
        if flags & (Tcp::SYN | Tcp::FIN | Tcp::RST) == 0 {
            let tables = holding(&lab, &[permit(&lab, flow, flow)]);
            let sent = Inner::received(&flow).flagged(flags);
            let wanted = sent.clone().routed();
            let name = format!("flags {flags:#x}");
            check(&lab, &carried(&name, tables, &outer, &sent, &wanted));
        }
    }
}

/// An outer checksum that no NIC has verified counts if the headers prove it right, given that the
/// pod verifies the inner one; else the kernel sums up the packet.
#[test]
fn an_outer_checksum_is_proven_by_the_headers_or_is_the_kernels() {
    let Some(lab) = Lab::open() else { return };
    let checked = |checksum| Outer {
        udp: Udp {
            checksum,
            ..Udp::new(55_555, PORT)
        },
        ..Outer::from_node_b()
    };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let tables = || holding(&lab, &[permit(&lab, flow, flow)]);
        let refused = |name: &str, outer: &Outer, packet: &[u8]| {
            let reason = Reason::OuterUnverified;
            check(&lab, &judged(name, tables(), outer, packet, reason));
        };
        let sent = Inner::received(&flow);
        let right = sent.bytes();
        for length in [0, 1, 100, 1_399] {
            let sent = sent.clone().with(|inner| inner.payload = payload(length));
            let wanted = sent.clone().routed();
            let name = format!("right, {length} bytes");
            check(
                &lab,
                &carried(&name, tables(), &checked(None), &sent, &wanted),
            );
        }
        refused("a wrong outer one", &checked(Some(0x1234)), &right);
        let mut wrong = right;
        wrong[60] ^= 1;
        refused(
            "an outer one over a wrong inner one",
            &checked(None),
            &wrong,
        );
        if protocol == PROTOCOL_UDP {
            let without = sent.with(|inner| inner.udp.checksum = Some(0));
            refused(
                "the only one that there is",
                &checked(None),
                &without.bytes(),
            );
        }
    }
}

/// The kernel's decap drops it, whoever sends such a thing.
#[test]
fn a_byte_behind_the_vni_is_the_kernels() {
    let Some(lab) = Lab::open() else { return };
    let mut outer = Outer::from_node_b();
    outer.vxlan.reserved = 1;
    let flow = plain(PROTOCOL_TCP);
    let packet = Inner::received(&flow).bytes();
    let tables = holding(&lab, &[permit(&lab, flow, flow)]);
    check(
        &lab,
        &judged("reserved", tables, &outer, &packet, Reason::VxlanFlags),
    );
}

#[test]
fn the_record_says_which_mac_addresses_the_pod_sees() {
    let Some(lab) = Lab::open() else { return };
    let flow = plain(PROTOCOL_UDP);
    let held = Permit {
        pod_mac: [1, 2, 3, 4, 5, 6],
        gateway_mac: [7, 8, 9, 10, 11, 12],
        sent_to_mac: OTHER_MAC,
        ..permit(&lab, flow, flow)
    };
    let sent = Inner::received(&flow);
    let case = carried(
        "others",
        holding(&lab, &[held]),
        &Outer::from_node_b(),
        &sent,
        &sent.clone().routed(),
    );
    check(
        &lab,
        &case.expecting(|expected| {
            expected.packet[..12].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        }),
    );
}

#[test]
fn the_nat_of_the_flow_is_undone() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        for (name, seen) in SEEN {
            let (pod, wire) = (tuple(protocol, CLIENT, seen), plain(protocol));
            let tables = holding(&lab, &[permit(&lab, pod, wire)]);
            let (sent, wanted) = (Inner::received(&wire), Inner::received(&pod).routed());
            let carry = |change: &dyn Fn(&mut Inner)| {
                let sent = sent.clone().with(|inner| change(inner));
                let wanted = wanted.clone().with(|inner| change(inner));
                let outer = Outer::from_node_b();
                check(&lab, &carried(name, tables.clone(), &outer, &sent, &wanted));
            };
            for length in [0, 1, 100, 1_300] {
                carry(&|inner| inner.payload = payload(length));
            }
            carry(&|inner| inner.udp.checksum = inner.udp.checksum.or(Some(0)));
            for zero in [summing_to_zero(&sent), summing_to_zero(&wanted)] {
                carry(&|inner| inner.payload.clone_from(&zero));
            }
        }
    }
}

#[test]
fn a_record_is_used_for_its_own_wire_tuple_only() {
    let Some(lab) = Lab::open() else { return };
    let outer = Outer::from_node_b();
    for protocol in PROTOCOLS {
        let wire = plain(protocol);
        let packet = Inner::received(&wire).bytes();
        let refused = |name: &str, tables: Tables| {
            check(
                &lab,
                &judged(name, tables, &outer, &packet, Reason::NoPermit),
            );
        };
        // The pod knows the flow by this tuple, but on the wire it is another.
        let elsewhere = tuple(protocol, CLIENT, (SERVER.0, SERVER.1 + 1));
        refused("NAT", holding(&lab, &[permit(&lab, wire, elsewhere)]));
        // The mapping leads to a flow that has another wire tuple by now, or to none.
        let pod = tuple(protocol, CLIENT, SERVICE);
        let mut tables = holding(&lab, &[permit(&lab, pod, wire)]);
        tables.flows.permits.at(&pod).wire = elsewhere;
        refused("an old mapping", tables.clone());
        tables.flows.permits.remove(&pod);
        refused("a mapping alone", tables);
        // Both at once: what the pod sends as the wire's tuple, and a NAT that leads here.
        let both = [permit(&lab, wire, elsewhere), permit(&lab, pod, wire)];
        let sent = Inner::received(&wire);
        let wanted = Inner::received(&pod).routed();
        check(
            &lab,
            &carried("both", holding(&lab, &both), &outer, &sent, &wanted),
        );
        for (name, other) in [
            (
                "another port of ours",
                tuple(protocol, (CLIENT.0, CLIENT.1 + 1), SERVER),
            ),
            ("another port of theirs", elsewhere),
        ] {
            refused(name, holding(&lab, &[permit(&lab, other, other)]));
        }
        let other = plain(protocol ^ PROTOCOL_TCP ^ PROTOCOL_UDP);
        refused(
            "another protocol",
            holding(&lab, &[permit(&lab, other, other)]),
        );
    }
}

/// RFC 6040, section 4.2, figure 4: rows by the inner codepoint, columns by the outer; `None`
/// where the packet must not be forwarded, which the kernel sees to.
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;
const OUTER: [u8; 4] = [NOT_ECT, ECT_0, ECT_1, CE];
const ARRIVING: [(u8, [Option<u8>; 4]); 4] = [
    (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
    (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
    (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
    (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
];

#[test]
fn ecn_follows_rfc_6040_and_dscp_stays() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        for (pod, wire) in [
            (plain(protocol), plain(protocol)),
            (tuple(protocol, CLIENT, SERVICE), plain(protocol)),
        ] {
            for (inner_ecn, row) in ARRIVING {
                for (outer_ecn, wanted_ecn) in OUTER.into_iter().zip(row) {
                    for (inner_dscp, outer_dscp) in [(0, 0), (0xb8, 0x28), (0xfc, 0xfc)] {
                        let mut outer = Outer::from_node_b();
                        outer.ip.tos = outer_dscp | outer_ecn;
                        let tables = holding(&lab, &[permit(&lab, pod, wire)]);
                        let sent = Inner::received(&wire)
                            .with(|inner| inner.ip.tos = inner_dscp | inner_ecn);
                        let name = format!("outer {:#x}, inner {:#x}", outer.ip.tos, sent.ip.tos);
                        let Some(ecn) = wanted_ecn else {
                            let reason = Reason::EcnBroken;
                            check(&lab, &judged(&name, tables, &outer, &sent.bytes(), reason));
                            continue;
                        };
                        let wanted = Inner::received(&pod)
                            .routed()
                            .with(|inner| inner.ip.tos = inner_dscp | ecn);
                        check(&lab, &carried(&name, tables, &outer, &sent, &wanted));
                    }
                }
            }
        }
    }
}
