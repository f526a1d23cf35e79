//! Mode `direct` and what is about a flow: ICMP errors, and NATs that take its tuple.

use twill_abi::{Mapping, Permit, Program, Reason};
use twill_testbed::packet::{Icmp, Ipv4, PROTOCOL_TCP, Tcp};

use super::direct_out::{direct_holding, known};
use super::flow::{
    CLIENT, Inner, PROTOCOLS, SERVER, SERVICE, into_pod, out_of_pod, pending, permit, plain, tuple,
};
use super::from_uplink::judged;
use crate::check::{Case, NEXT, REDIRECT, check};
use crate::flow_tables::{JUST_NOW, at};
use crate::lab::Lab;
use crate::packets::{Outer, leaving};
use crate::sk_buff::SkBuff;
use crate::tables::{MARK_BIT, Tables};
use crate::world::{POD_A1, POD_B1, VTEP_B, pod_of};

/// Destination unreachable, time exceeded, parameter problem.
const ERRORS: [u8; 3] = [3, 11, 12];

/// An ICMP message of this type about a packet.
fn about(ip: &Ipv4, kind: u8, quoted: &Inner) -> Vec<u8> {
    let code = 1;
    let rest = [0, 0, 0x05, 0x78];
    let icmp = Icmp { kind, code, rest };
    ip.icmp(icmp, &quoted.bytes()[..28])
}

fn header(flow: &twill_abi::FlowTuple, out: bool) -> Ipv4 {
    if out {
        Inner::sent(flow).ip
    } else {
        Inner::received(flow).ip
    }
}

/// The message leaves our pod, and goes direct or is passed on.
fn out(name: &str, tables: Tables, ip: &Ipv4, kind: u8, quoted: &Inner, verdict: i32) -> Case {
    let frame = out_of_pod(&about(ip, kind, quoted));
    let reason = if verdict == NEXT {
        Reason::NotTransport
    } else {
        Reason::Fast
    };
    let mut case = Case::passed(name, Program::FromPod, tables, frame, reason);
    if verdict == NEXT {
        return case;
    }
    let routed = Ipv4 {
        ttl: ip.ttl - 1,
        ..ip.clone()
    };
    case.expected.verdict = REDIRECT;
    case.expected.packet = Outer::to_node_b().over(&about(&routed, kind, quoted));
    case.expected.mark = 0;
    case.counted_to(VTEP_B)
}

/// The message comes from the wire.
fn arriving(name: &str, tables: Tables, ip: &Ipv4, kind: u8, quoted: &Inner, verdict: i32) -> Case {
    let reason = if verdict == NEXT {
        Reason::NotTransport
    } else {
        Reason::Fast
    };
    let packet = about(ip, kind, quoted);
    let mut case = judged(name, tables, &Outer::from_node_b(), &packet, reason);
    if verdict == NEXT {
        return case;
    }
    let routed = Ipv4 {
        ttl: ip.ttl - 1,
        ..ip.clone()
    };
    case.expected.verdict = REDIRECT;
    case.expected.packet = into_pod(&about(&routed, kind, quoted));
    case
}

#[test]
fn errors_about_a_direct_flow_go_its_way() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let (sent, received) = (Inner::sent(&flow), Inner::received(&flow));
        let tables = direct_holding(&lab, &[known(&lab, flow)]);
        for kind in ERRORS {
            let (ours, theirs) = (header(&flow, true), header(&flow, false));
            let name = format!("type {kind}");
            check(
                &lab,
                &out(&name, tables.clone(), &ours, kind, &received, REDIRECT),
            );
            check(
                &lab,
                &arriving(&name, tables.clone(), &theirs, kind, &sent, REDIRECT),
            );
        }
    }
}

#[test]
fn no_other_message_goes_by_a_record() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let (sent, received) = (Inner::sent(&flow), Inner::received(&flow));
        let (ours, theirs) = (header(&flow, true), header(&flow, false));
        let both = |name: &str, held: Permit, kind, sent: &Inner, received: &Inner| {
            let tables = direct_holding(&lab, &[held]);
            check(
                &lab,
                &out(name, tables.clone(), &ours, kind, received, NEXT),
            );
            check(&lab, &arriving(name, tables, &theirs, kind, sent, NEXT));
        };
        let held = known(&lab, flow);
        for kind in [0, 4, 5, 8, 10, 13] {
            both(&format!("type {kind}"), held, kind, &sent, &received);
        }
        let accepted = permit(&lab, flow, flow);
        both("a permit is not direct", accepted, 3, &sent, &received);
        let mut closed = held;
        closed.state = twill_abi::PERMIT_TOMBSTONE;
        both("a tombstone", closed, 3, &sent, &received);
        // Each quotes what the other side has sent.
        both("the wrong way round", held, 3, &received, &sent);
        let other = tuple(protocol, (CLIENT.0, CLIENT.1 + 1), SERVER);
        let (sent, received) = (Inner::sent(&other), Inner::received(&other));
        both("another flow", held, 3, &sent, &received);
        let options = |inner: Inner| inner.with(|inner| inner.ip.options = vec![1; 4]);
        let (sent, received) = (Inner::sent(&flow), Inner::received(&flow));
        both("options", held, 3, &options(sent), &options(received));
    }
}

#[test]
fn an_error_must_be_about_what_its_receiver_sent() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let tables = direct_holding(&lab, &[known(&lab, flow)]);
        let (sent, received) = (Inner::sent(&flow), Inner::received(&flow));
        let stranger = pod_of(VTEP_B, 77);
        let ip = Ipv4::new(POD_A1, stranger);
        check(
            &lab,
            &out("to another", tables.clone(), &ip, 3, &received, NEXT),
        );
        let ip = Ipv4::new(pod_of(0, 77), POD_B1);
        check(
            &lab,
            &out("by another", tables.clone(), &ip, 3, &received, NEXT),
        );
        // Any router on the way may say that it went no further.
        let ip = Ipv4::new(stranger, POD_A1);
        check(
            &lab,
            &arriving("from a router", tables.clone(), &ip, 11, &sent, REDIRECT),
        );
        let ip = Ipv4::new(POD_B1, pod_of(0, 77));
        check(&lab, &arriving("to another", tables, &ip, 3, &sent, NEXT));
    }
}

/// `to_overlay` meets a packet of a flow that netfilter has translated to [`SERVER`].
fn translated(lab: &Lab, name: &str, protocol: u8, seen: super::flow::Side) -> Case {
    let (pod, wire) = (tuple(protocol, CLIENT, seen), plain(protocol));
    let packet = Inner::sent(&wire).routed().bytes();
    let note = pending(lab, pod, JUST_NOW);
    let case = Case::encapped(name, lab, &packet, &Outer::to_node_b()).with(|tables| {
        *tables = direct_holding(lab, &[]);
        tables.flows.pending.set(0, note);
    });
    let case = case.in_context(SkBuff::default());
    case.expecting(|expected| expected.learned = None)
}

#[test]
fn a_nat_that_takes_a_tuple_ends_the_direct_flow_with_it() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let (pod, wire) = (tuple(protocol, CLIENT, SERVICE), plain(protocol));
        let noted = Mapping::new(wire, lab.veth, at(0));
        let owned = Mapping::new(pod, lab.veth, at(0));
        let case = translated(&lab, "a direct flow", protocol, SERVICE);
        let case = case.with(|tables| tables.flows.file(known(&lab, wire)));
        check(
            &lab,
            &case.then(|flows| {
                flows.permits.remove(&wire);
                flows.wire.set(wire, owned);
                flows.mappings.set(pod, noted);
                flows.begin(0, wire);
            }),
        );
        let case = translated(&lab, "no flow", protocol, SERVICE);
        check(
            &lab,
            &case.then(|flows| {
                flows.wire.set(wire, owned);
                flows.mappings.set(pod, noted);
                flows.begin(0, wire);
            }),
        );
        let case = translated(&lab, "a permit stays", protocol, SERVICE);
        let case = case.with(|tables| tables.flows.file(permit(&lab, wire, wire)));
        check(
            &lab,
            &case.then(|flows| {
                flows.wire.set(wire, owned);
                flows.mappings.set(pod, noted);
                flows.begin(0, wire);
            }),
        );
    }
}

/// Of a direct flow the stack sees a packet now and then, to renew the outer permit for one.
#[test]
fn a_direct_flow_survives_a_slow_packet() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        for mark in [0, MARK_BIT] {
            let context = SkBuff {
                mark,
                ..SkBuff::default()
            };
            let case = translated(&lab, "slow", protocol, SERVER).in_context(context);
            let case = case.with(|tables| tables.flows.file(known(&lab, flow)));
            check(&lab, &case);
        }
    }
    // But its SYN makes the whole of it the stack's.
    let flow = plain(PROTOCOL_TCP);
    let held = known(&lab, flow);
    let mut case = translated(&lab, "SYN", PROTOCOL_TCP, SERVER);
    let syn = Inner::sent(&flow).flagged(Tcp::SYN).routed().bytes();
    case.packet = leaving(&syn);
    case.expected.packet = Outer::to_node_b().over(&syn);
    let case = case.with(|tables| tables.flows.file(held));
    let case = case.expecting(|expected| expected.beside.push((Reason::Ended, 0)));
    check(
        &lab,
        &case.then(|flows| {
            flows.forget(&held);
            flows
                .mappings
                .set(flow, Mapping::new(flow, lab.veth, at(0)));
            flows.begin(0, flow);
        }),
    );
}
