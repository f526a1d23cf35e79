//! Mode `direct` and datagrams that come in first: the stack gets them, and where it delivers what
//! the wire brought, the flow has its record.

use twill_abi::{LocalPod, Mapping, Program, Reason};
use twill_testbed::packet::{PROTOCOL_TCP, PROTOCOL_UDP};

use super::direct_out::{direct, record};
use super::flow::{CLIENT, Inner, SERVICE, into_pod, looked, permit, place, plain, tuple};
use super::from_uplink::{carried, judged};
use crate::check::{Case, check};
use crate::flow_tables::{PAST, at};
use crate::lab::{Lab, monotonic_ns};
use crate::packets::Outer;
use crate::sk_buff::SkBuff;
use crate::tables::Tables;
use crate::world::POD_A1;

/// How long a note of an arrival is believed, nanoseconds.
const ARRIVAL_NS: u64 = 1_000_000_000;

/// A datagram comes from the wire and is passed on.
fn arriving(lab: &Lab, name: &str) -> Case {
    let packet = Inner::received(&plain(PROTOCOL_UDP)).bytes();
    let outer = Outer::from_node_b();
    judged(name, direct(lab), &outer, &packet, Reason::NoPermit)
}

/// The mode `direct`, our pod in its place, and a note of so long ago.
fn noted(lab: &Lab, protocol: u8, ago_ns: u64) -> Tables {
    let mut tables = direct(lab);
    let now = monotonic_ns();
    let local_pods = &mut tables.flows.local_pods;
    local_pods.set(POD_A1.into(), place(lab, now));
    let flow = plain(protocol);
    let note = Mapping::new(flow, 0, now - ago_ns);
    tables.flows.mappings.set(flow.arrived(), note);
    tables
}

/// The stack delivers a packet of the flow; netfilter says nothing of it.
fn delivered(name: &str, tables: Tables, protocol: u8) -> Case {
    let frame = into_pod(&Inner::received(&plain(protocol)).bytes());
    let reason = Reason::NotAccepted;
    let case = Case::passed(name, Program::ToPod, tables, frame, reason);
    case.in_context(SkBuff::default())
}

#[test]
fn an_arrival_is_noted() {
    let Some(lab) = Lab::open() else { return };
    let flow = plain(PROTOCOL_UDP);
    let note = Mapping::new(flow, 0, at(0));
    let case = arriving(&lab, "first");
    check(
        &lab,
        &case.then(|flows| flows.mappings.set(flow.arrived(), note)),
    );
    let case = arriving(&lab, "again").with(|tables| {
        let before = Mapping::new(flow, 0, PAST);
        tables.flows.mappings.set(flow.arrived(), before);
    });
    check(
        &lab,
        &case.then(|flows| flows.mappings.set(flow.arrived(), note)),
    );
}

#[test]
fn what_the_stack_or_a_nat_owns_is_not_noted() {
    let Some(lab) = Lab::open() else { return };
    let flow = plain(PROTOCOL_UDP);
    let case = arriving(&lab, "delivered by the stack before");
    check(
        &lab,
        &case.with(|tables| {
            let own = Mapping::new(flow, lab.veth, PAST);
            tables.flows.mappings.set(flow, own);
        }),
    );
    let case = arriving(&lab, "a NAT's tuple on the wire");
    check(
        &lab,
        &case.with(|tables| {
            let entry = Mapping::new(tuple(PROTOCOL_UDP, CLIENT, SERVICE), lab.veth, PAST);
            tables.flows.wire.set(flow, entry);
        }),
    );
}

#[test]
fn what_is_delivered_as_it_came_makes_a_record_that_carries() {
    let Some(lab) = Lab::open() else { return };
    let flow = plain(PROTOCOL_UDP);
    let case = delivered("as it came", noted(&lab, PROTOCOL_UDP, 0), PROTOCOL_UDP);
    let made = record(&lab, flow);
    let output = check(&lab, &case.then(|flows| flows.file(made)));
    let sent = Inner::received(&flow);
    let outer = Outer::from_node_b();
    let wanted = sent.clone().routed();
    let case = carried("next", output.tables, &outer, &sent, &wanted);
    check(&lab, &case.then(|flows| looked(flows.permits.at(&flow))));
}

/// A bridge that has forgotten a MAC address delivers to every pod: only where the pod has said
/// that it is there a record is made, and the flow is not the stack's for good elsewhere.
#[test]
fn what_comes_to_a_pod_that_it_is_not_for_makes_nothing() {
    let Some(lab) = Lab::open() else { return };
    let wrong = LocalPod {
        ifindex: lab.other_veth,
        ..place(&lab, monotonic_ns())
    };
    for at in [None, Some(wrong)] {
        let case = delivered("flooded", noted(&lab, PROTOCOL_UDP, 0), PROTOCOL_UDP);
        let case = case.with(|tables| {
            tables.flows.local_pods.remove(&POD_A1.into());
            if let Some(place) = at {
                tables.flows.local_pods.set(POD_A1.into(), place);
            }
        });
        check(&lab, &case);
    }
}

#[test]
fn what_is_not_known_to_be_unchanged_is_the_stacks() {
    let Some(lab) = Lab::open() else { return };
    let flow = plain(PROTOCOL_UDP);
    let own = Mapping::new(flow, lab.veth, at(0));
    let stack_owned = |case: Case, flow| {
        let entry = Mapping::new(flow, lab.veth, at(0));
        check(&lab, &case.then(|flows| flows.mappings.set(flow, entry)));
    };
    let old = noted(&lab, PROTOCOL_UDP, ARRIVAL_NS + 1);
    stack_owned(delivered("another one", old, PROTOCOL_UDP), flow);
    // A segment in the middle of a connection: conntrack has seen the others.
    let tcp = noted(&lab, PROTOCOL_TCP, 0);
    stack_owned(delivered("TCP", tcp, PROTOCOL_TCP), plain(PROTOCOL_TCP));
    let fresh = || noted(&lab, PROTOCOL_UDP, 0);
    let case = delivered("a NAT's tuple", fresh(), PROTOCOL_UDP).with(|tables| {
        let entry = Mapping::new(tuple(PROTOCOL_UDP, CLIENT, SERVICE), lab.veth, PAST);
        tables.flows.wire.set(flow, entry);
    });
    stack_owned(case, flow);
    let case = delivered("never fast", fresh(), PROTOCOL_UDP).with_never_fast(lab.veth);
    stack_owned(case, flow);
    let case = delivered("no lease", fresh(), PROTOCOL_UDP).with(|tables| tables.routes.clear());
    stack_owned(case, flow);
    // What is there stays.
    let case = delivered("a permit", fresh(), PROTOCOL_UDP);
    check(
        &lab,
        &case.with(|tables| tables.flows.file(permit(&lab, flow, flow))),
    );
    let case = delivered("the stack's", fresh(), PROTOCOL_UDP);
    check(
        &lab,
        &case.with(|tables| tables.flows.mappings.set(flow, own)),
    );
}
