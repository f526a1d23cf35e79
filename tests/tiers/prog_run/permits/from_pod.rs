//! `from_pod` with a permit: from the pod's veth to the uplink, with what netfilter made of it.

use twill_abi::{Program, Reason};
use twill_testbed::packet::{DONT_FRAGMENT, PROTOCOL_TCP, PROTOCOL_UDP, Tcp};

use super::flow::{
    CLIENT, Inner, PROTOCOLS, SEEN, SERVER, holding, out_of_pod, permit, plain, to_service, tuple,
};
use crate::check::{Case, REDIRECT, check};
use crate::lab::Lab;
use crate::packets::Outer;
use crate::sk_buff::SkBuff;
use crate::tables::{MARK_BIT, Tables};
use crate::to_overlay::outer_tos;
use crate::world::VTEP_B;

/// The packet leaves for node B as `wanted` behind the outer headers.
pub(crate) fn carried(name: &str, tables: Tables, sent: &Inner, wanted: &Inner) -> Case {
    let frame = out_of_pod(&sent.bytes());
    let mut case = Case::passed(name, Program::FromPod, tables, frame, Reason::Fast);
    let mut outer = Outer::to_node_b();
    outer.ip.tos = outer_tos(sent.ip.tos);
    case.expected.verdict = REDIRECT;
    case.expected.packet = outer.over(&wanted.bytes());
    case.expected.mark = 0;
    case.counted_to(VTEP_B)
}

#[test]
fn a_permitted_packet_is_routed_and_encapsulated() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let tables = holding(&lab, &[permit(&lab, flow, flow)]);
        let carry = |name: &str, change: &dyn Fn(&mut Inner)| {
            let sent = Inner::sent(&flow).with(|inner| change(inner));
            let case = carried(name, tables.clone(), &sent, &sent.clone().routed());
            check(&lab, &case);
        };
        for length in [0, 1, 2, 63, 1_400] {
            carry(&format!("{length} bytes"), &|inner| {
                inner.payload = crate::packets::payload(length);
            });
        }
        for tos in (0..4).chain([0x28, 0xb8, 0xbb, 0xff]) {
            carry(&format!("TOS {tos:#x}"), &|inner| inner.ip.tos = tos);
        }
        // The checksum goes over its edges.
        for id in [0, 1, 0xfffe, 0xffff] {
            for ttl in [2, 3, 64, 255] {
                carry(&format!("TTL {ttl}, id {id:#x}"), &|inner| {
                    (inner.ip.ttl, inner.ip.id) = (ttl, id);
                });
            }
        }
        carry("no DF", &|inner| inner.ip.fragment = 0);
        carry("DF", &|inner| inner.ip.fragment = DONT_FRAGMENT);
    }
}

#[test]
fn the_mark_of_a_fast_packet_says_only_who_made_it() {
    let Some(lab) = Lab::open() else { return };
    let flow = plain(PROTOCOL_TCP);
    let sent = Inner::sent(&flow);
    for (outer_permit_ns, wanted) in [(0, 0), (PAST_ANY, MARK_BIT)] {
        for mark in [0, 1, MARK_BIT, u32::MAX] {
            let tables = holding(&lab, &[permit(&lab, flow, flow)]);
            let name = format!("mark {mark:#x}, outer permit {outer_permit_ns}");
            let case = carried(&name, tables, &sent, &sent.clone().routed())
                .with(|tables| {
                    tables.config.outer_permit_ns = outer_permit_ns;
                    let state = &mut tables.states[VTEP_B as usize];
                    state.outer_permit_until_ns = u64::MAX;
                    state.outer_probe_at_ns = u64::MAX;
                })
                .in_context(SkBuff {
                    mark,
                    ..SkBuff::default()
                })
                .expecting(|expected| expected.mark = wanted);
            check(&lab, &case);
        }
    }
}

/// An outer permit's time that plays no part.
const PAST_ANY: u64 = 1_000_000_000;

#[test]
fn the_nat_of_the_flow_is_applied() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        for (name, seen) in SEEN {
            let (pod, wire) = (tuple(protocol, CLIENT, seen), plain(protocol));
            let tables = holding(&lab, &[permit(&lab, pod, wire)]);
            for length in [0, 1, 100, 1_300] {
                let fill = |inner: &mut Inner| inner.payload = crate::packets::payload(length);
                let sent = Inner::sent(&pod).with(fill);
                let wanted = Inner::sent(&wire).with(fill).routed();
                check(&lab, &carried(name, tables.clone(), &sent, &wanted));
            }
        }
    }
}

#[test]
fn a_datagram_without_a_checksum_stays_without() {
    let Some(lab) = Lab::open() else { return };
    for (name, seen) in SEEN {
        let (pod, wire) = (tuple(PROTOCOL_UDP, CLIENT, seen), plain(PROTOCOL_UDP));
        let tables = holding(&lab, &[permit(&lab, pod, wire)]);
        let without = |inner: &mut Inner| inner.udp.checksum = Some(0);
        let sent = Inner::sent(&pod).with(without);
        let wanted = Inner::sent(&wire).with(without).routed();
        check(&lab, &carried(name, tables, &sent, &wanted));
    }
}

/// A payload by which the checksum of `inner` comes out as zero.
pub(crate) fn summing_to_zero(inner: &Inner) -> Vec<u8> {
    let at = 20
        + if inner.ip.protocol == PROTOCOL_TCP {
            16
        } else {
            6
        };
    let bytes = inner
        .clone()
        .with(|inner| inner.payload = vec![0; 2])
        .bytes();
    bytes[at..at + 2].to_vec()
}

#[test]
fn a_checksum_of_zero_is_sent_as_its_protocol_has_it() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        for (name, seen) in SEEN {
            let (pod, wire) = (tuple(protocol, CLIENT, seen), plain(protocol));
            let tables = holding(&lab, &[permit(&lab, pod, wire)]);
            let (sent, wanted) = (Inner::sent(&pod), Inner::sent(&wire).routed());
            // Zero before the NAT, and zero after it.
            for payload in [summing_to_zero(&sent), summing_to_zero(&wanted)] {
                let sent = sent.clone().with(|inner| inner.payload = payload.clone());
                let wanted = wanted.clone().with(|inner| inner.payload = payload.clone());
                check(&lab, &carried(name, tables.clone(), &sent, &wanted));
            }
        }
    }
}

#[test]
fn only_opening_and_closing_segments_are_slow() {
    let Some(lab) = Lab::open() else { return };
    let (pod, wire) = (
        to_service(PROTOCOL_TCP),
        tuple(PROTOCOL_TCP, CLIENT, SERVER),
    );
    for flags in 0..=255 {
        if flags & (Tcp::SYN | Tcp::FIN | Tcp::RST) == 0 {
            let tables = holding(&lab, &[permit(&lab, pod, wire)]);
            let sent = Inner::sent(&pod).flagged(flags);
            let wanted = Inner::sent(&wire).flagged(flags).routed();
            check(
                &lab,
                &carried(&format!("flags {flags:#x}"), tables, &sent, &wanted),
            );
        }
    }
}
