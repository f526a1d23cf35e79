//! `from_uplink` without a permit that carries: trusted all the same, and the kernel's.

use twill_abi::{CONFIG_FLAG_STALE, FastPath, PERMIT_TOMBSTONE, Permit, Program, Reason};
use twill_testbed::packet::{MORE_FRAGMENTS, PROTOCOL_TCP, PROTOCOL_UDP, Tcp};

use super::connections::TOMBSTONE_NS;
use super::flow::{Inner, PERMIT_NS, PROTOCOLS, holding, permit, permitting, plain, to_service};
use super::from_uplink::{carried, judged};
use crate::check::{Case, check};
use crate::flow_tables::{FAR, PAST, at};
use crate::lab::Lab;
use crate::packets::{Outer, echo};
use crate::sk_buff::SkBuff;
use crate::source_port::port_of;
use crate::tables::Tables;
use crate::world::{FAR_NODE, NODE_A, VTEP_B, VTEP_FAR, VTEP_UNUSED};

fn slow(name: &str, tables: Tables, packet: &[u8], reason: Reason) -> Case {
    judged(name, tables, &Outer::from_node_b(), packet, reason)
}

/// With this permit the packet of its flow is passed on, and the permit stays.
fn refused(lab: &Lab, name: &str, reason: Reason, change: impl Fn(&mut Permit)) {
    for protocol in PROTOCOLS {
        let wire = plain(protocol);
        let mut held = permit(lab, to_service(protocol), wire);
        change(&mut held);
        let packet = Inner::received(&wire).bytes();
        check(lab, &slow(name, holding(lab, &[held]), &packet, reason));
    }
}

#[test]
fn what_no_live_permit_accepts_is_the_kernels() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let packet = Inner::received(&plain(protocol)).bytes();
        check(
            &lab,
            &slow("none", permitting(&lab), &packet, Reason::NoPermit),
        );
    }
    refused(&lab, "run out, out", Reason::PermitExpired, |permit| {
        permit.out_until_ns = PAST;
    });
    refused(&lab, "run out, in", Reason::PermitExpired, |permit| {
        permit.in_until_ns = PAST;
    });
    refused(&lab, "never accepted", Reason::PermitExpired, |permit| {
        permit.in_until_ns = 0;
    });
    let tombstone = |until_ns| {
        move |permit: &mut Permit| {
            (permit.state, permit.tombstone_until_ns) = (PERMIT_TOMBSTONE, until_ns);
        }
    };
    refused(&lab, "stands", Reason::Tombstone, tombstone(FAR));
    refused(&lab, "lapsed", Reason::NoPermit, tombstone(PAST));
}

#[test]
fn a_permit_of_another_vtep_is_stale() {
    let Some(lab) = Lab::open() else { return };
    refused(&lab, "generation", Reason::StaleVtep, |permit| {
        permit.vtep_generation += 1;
    });
    refused(&lab, "index", Reason::StaleVtep, |permit| {
        permit.vtep = VTEP_FAR;
    });
    let generation = lab.tables().vteps[VTEP_FAR as usize].generation;
    refused(&lab, "moved", Reason::StaleVtep, |permit| {
        (permit.vtep, permit.vtep_generation) = (VTEP_FAR, generation);
    });
    refused(&lab, "unused", Reason::StaleVtep, |permit| {
        (permit.vtep, permit.vtep_generation) = (VTEP_UNUSED, 0);
    });
}

/// Another node cannot send what belongs to a flow with node B.
#[test]
fn a_permit_carries_nothing_that_another_node_sends() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let tables = holding(&lab, &[permit(&lab, flow, flow)]);
        let mut outer = Outer::from_node_b();
        outer.ip.source = FAR_NODE;
        let frame = outer.over(&Inner::received(&flow).bytes());
        let reason = Reason::ForeignInnerSource;
        let program = Program::FromUplink;
        check(
            &lab,
            &Case::passed("its own source", program, tables, frame, reason),
        );
    }
}

#[test]
fn one_packet_in_asks_again_and_the_others_stay_fast() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let (pod, wire) = (to_service(protocol), plain(protocol));
        let mut held = permit(&lab, pod, wire);
        held.probe_in_at_ns = PAST;
        let (sent, wanted) = (Inner::received(&wire), Inner::received(&pod).routed());
        let case = slow("asks", holding(&lab, &[held]), &sent.bytes(), Reason::Probe);
        let output = check(
            &lab,
            &case.then(|flows| {
                let permit = flows.permits.at(&pod);
                permit.probe_in_at_ns = at(PERMIT_NS / 4);
                permit.probes += 1;
            }),
        );
        let outer = Outer::from_node_b();
        check(
            &lab,
            &carried("goes on", output.tables, &outer, &sent, &wanted),
        );
    }
}

/// The kernel's VXLAN to that node was not seen to leave: a policy may transform it, and demand the
/// same of what comes in, which a permit cannot ask.
#[test]
fn what_comes_from_where_our_own_way_is_not_confirmed_is_the_kernels() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let outer = Outer::from_node_b();
        let sent = Inner::received(&flow);
        let mut tables = holding(&lab, &[permit(&lab, flow, flow)]);
        tables.config.outer_permit_ns = PERMIT_NS;
        let vtep = VTEP_B as usize;
        let reason = Reason::OuterPermitExpired;
        for (name, until_ns) in [("never", 0), ("run out", PAST)] {
            tables.states[vtep].outer_permit_until_ns = until_ns;
            check(&lab, &slow(name, tables.clone(), &sent.bytes(), reason));
        }
        tables.states[vtep].outer_permit_until_ns = FAR;
        let wanted = sent.clone().routed();
        let case = carried("confirmed", tables, &outer, &sent, &wanted);
        check(&lab, &case);
    }
}

/// The other node's question has a port of its own. As a probe it would need an entry of
/// conntrack's for it, and be lost where the table is full.
#[test]
fn what_asks_for_the_outer_permit_is_no_probe_where_it_arrives() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let mut held = permit(&lab, flow, flow);
        held.probe_in_at_ns = PAST;
        let mut tables = holding(&lab, &[held]);
        let (low, high) = (32_768, 60_999);
        (tables.config.source_port_min, tables.config.source_port_max) = (low, high);
        let hash = u32::from(NODE_A);
        let asking = port_of(u64::from(hash ^ (hash << 16)), (low, high));
        let sent = Inner::received(&flow);
        let mut outer = Outer::from_node_b();
        outer.udp.source_port = asking;
        let wanted = sent.clone().routed();
        check(
            &lab,
            &carried("asks", tables.clone(), &outer, &sent, &wanted),
        );
        outer.udp.source_port = asking + 1;
        let case = judged("any other", tables, &outer, &sent.bytes(), Reason::Probe);
        check(
            &lab,
            &case.then(|flows| {
                let permit = flows.permits.at(&flow);
                permit.probe_in_at_ns = at(PERMIT_NS / 4);
                permit.probes += 1;
            }),
        );
    }
}

#[test]
fn what_cannot_be_fast_is_the_kernels() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let tables = holding(&lab, &[permit(&lab, flow, flow)]);
        let passed = |name: &str, reason, change: &dyn Fn(&mut Inner)| {
            let packet = Inner::received(&flow).with(|inner| change(inner)).bytes();
            check(&lab, &slow(name, tables.clone(), &packet, reason));
        };
        for ttl in [0, 1] {
            passed("TTL", Reason::LastHop, &|inner| inner.ip.ttl = ttl);
        }
        passed("options", Reason::IpOptions, &|inner| {
            inner.ip.options = vec![1; 4];
        });
        for fragment in [MORE_FRAGMENTS, 1, MORE_FRAGMENTS | 0xb9] {
            passed("fragment", Reason::Fragment, &|inner| {
                inner.ip.fragment = fragment;
            });
        }
        let short = Inner::received(&flow).ip.over(&[0; 7]);
        check(
            &lab,
            &slow("short", tables.clone(), &short, Reason::Truncated),
        );
        let packet = Inner::received(&flow).bytes();
        let off = slow("off", tables.clone(), &packet, Reason::Trusted);
        check(
            &lab,
            &off.with(|tables| tables.config.fast_path = FastPath::Off as u32),
        );
        let stale = slow("stale", tables, &packet, Reason::Trusted);
        check(
            &lab,
            &stale.with(|tables| tables.config.flags |= CONFIG_FLAG_STALE),
        );
    }
    let ip = Inner::received(&plain(PROTOCOL_TCP)).ip;
    let packet = echo(&ip, 56);
    check(
        &lab,
        &slow("ICMP", permitting(&lab), &packet, Reason::NotTransport),
    );
}

#[test]
fn udp_segments_are_the_kernels() {
    let Some(lab) = Lab::open() else { return };
    let context = SkBuff {
        mark: 3,
        gso_size: 500,
        gso_segs: 3,
        ..SkBuff::default()
    };
    let flow = plain(PROTOCOL_UDP);
    let packet = Inner::received(&flow)
        .with(|inner| inner.payload = vec![1; 1_400])
        .bytes();
    let mut held = permit(&lab, flow, flow);
    let reason = Reason::UdpSegments;
    let case = slow("segments", holding(&lab, &[held]), &packet, reason);
    check(&lab, &case.in_context(context));
    // The kernel carries it, but asks nothing: a probe is not spent on it.
    held.probe_in_at_ns = PAST;
    let case = slow("probe", holding(&lab, &[held]), &packet, reason);
    check(&lab, &case.in_context(context));
}

#[test]
fn a_syn_from_the_wire_ends_what_was_remembered() {
    let Some(lab) = Lab::open() else { return };
    let (pod, wire) = (to_service(PROTOCOL_TCP), plain(PROTOCOL_TCP));
    let syn = |name: &str, flags, tables| {
        let packet = Inner::received(&wire).flagged(flags).bytes();
        slow(name, tables, &packet, Reason::Opening)
    };
    let first = Tcp::SYN;
    check(&lab, &syn("unknown", first, permitting(&lab)));
    for state in [twill_abi::PERMIT_LIVE, PERMIT_TOMBSTONE] {
        let mut held = permit(&lab, pod, wire);
        (held.state, held.tombstone_until_ns) = (state, FAR);
        let case = syn("first", first, holding(&lab, &[held]));
        check(&lab, &case.then(|flows| flows.forget(&held)));
        // The answer to our pod's own SYN: that has ended what there was.
        let answer = Tcp::SYN | Tcp::ACK;
        check(&lab, &syn("answer", answer, holding(&lab, &[held])));
    }
    let elsewhere = permit(&lab, pod, pod);
    check(
        &lab,
        &syn("another flow", first, holding(&lab, &[elsewhere])),
    );
}

#[test]
fn a_closing_segment_from_the_wire_leaves_a_tombstone() {
    let Some(lab) = Lab::open() else { return };
    let (pod, wire) = (to_service(PROTOCOL_TCP), plain(PROTOCOL_TCP));
    for flags in [
        Tcp::FIN,
        Tcp::RST,
        Tcp::FIN | Tcp::ACK,
        Tcp::RST | Tcp::ACK,
        Tcp::RST | Tcp::SYN,
    ] {
        let packet = Inner::received(&wire).flagged(flags).bytes();
        let case = slow("unknown", permitting(&lab), &packet, Reason::Closing);
        check(&lab, &case);
        let held = permit(&lab, pod, wire);
        let case = slow("closes", holding(&lab, &[held]), &packet, Reason::Closing);
        check(
            &lab,
            &case.then(|flows| {
                let permit = flows.permits.at(&pod);
                permit.state = PERMIT_TOMBSTONE;
                permit.tombstone_until_ns = at(TOMBSTONE_NS);
            }),
        );
    }
}

/// A mapping may outlast its flow's tuple on the wire: what comes by the old one is another flow.
#[test]
fn an_old_mapping_neither_ends_nor_closes_a_flow() {
    let Some(lab) = Lab::open() else { return };
    let (pod, wire) = (to_service(PROTOCOL_TCP), plain(PROTOCOL_TCP));
    let mut tables = holding(&lab, &[permit(&lab, pod, wire)]);
    tables.flows.permits.at(&pod).wire = pod;
    for (flags, reason) in [
        (Tcp::SYN, Reason::Opening),
        (Tcp::FIN, Reason::Closing),
        (Tcp::RST, Reason::Closing),
    ] {
        let packet = Inner::received(&wire).flagged(flags).bytes();
        check(&lab, &slow("old mapping", tables.clone(), &packet, reason));
    }
}
