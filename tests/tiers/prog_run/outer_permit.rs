//! Outer permits: `to_overlay` encapsulates only while the kernel's own VXLAN was seen to leave
//! by the uplink lately, and `to_uplink` is who sees it.

use twill_abi::{
    CONFIG_FLAG_OVERLAY_POLICY, CONFIG_FLAG_ROUTED_BY_PORT, Program, Reason, VtepState,
};
use twill_testbed::packet::{ETHER_TYPE_IPV6, Vxlan};

use super::check::{Case, NextHop, check};
use super::lab::{Lab, ip};
use super::packets::{Outer, datagram, leaving, to_pod_b};
use super::sk_buff::SkBuff;
use super::tables::{MARK_BIT, Tables};
use super::world::{NODE_B, OTHER_MAC, POD_A1, PORT, STRANGER, VNI, VTEP_B, VTEP_UNUSED};

/// How long an outer permit lasts in these tests.
const PERMIT_NS: u64 = 8_000_000_000;
/// A time that never comes.
const NEVER: u64 = u64::MAX;

/// Node B's next hop is known, its outer permit lasts until `until_ns`, and a packet asks again
/// at `probe_at_ns`.
fn permitted(lab: &Lab, until_ns: u64, probe_at_ns: u64) -> Tables {
    let mut tables = lab.tables();
    tables.config.outer_permit_ns = PERMIT_NS;
    let generation = tables.vteps[VTEP_B as usize].generation;
    tables.states[VTEP_B as usize] = VtepState {
        outer_permit_until_ns: until_ns,
        outer_probe_at_ns: probe_at_ns,
        ..NextHop::of_node_b(lab).known(generation, NEVER)
    };
    tables
}

fn passed(name: &str, tables: Tables, reason: Reason) -> Case {
    let packet = leaving(&datagram(&to_pod_b(), 64));
    Case::passed(name, Program::ToOverlay, tables, packet, reason)
}

fn encapped(name: &str, lab: &Lab, tables: &Tables) -> Case {
    let inner = datagram(&to_pod_b(), 64);
    Case::encapped(name, lab, &inner, &Outer::to_node_b())
        .with(|before| *before = tables.clone())
        .expecting(|expected| {
            expected.learned = None;
            // By our bit `to_uplink` tells it from the kernel's.
            expected.mark = MARK_BIT;
        })
}

#[test]
fn without_a_live_outer_permit_the_kernel_carries_it() {
    let Some(lab) = Lab::open() else { return };
    for (name, until_ns) in [("never had one", 0), ("run out", 1)] {
        let tables = permitted(&lab, until_ns, NEVER);
        check(&lab, &passed(name, tables, Reason::OuterPermitExpired));
    }
    let tables = permitted(&lab, NEVER, NEVER);
    check(&lab, &encapped("live", &lab, &tables));
}

/// One of them asks, by a source port that does not depend on its flow; how that looks on the
/// wire, the tier permits knows.
#[test]
fn without_a_live_outer_permit_too_one_packet_asks() {
    let Some(lab) = Lab::open() else { return };
    let tables = permitted(&lab, 0, 1);
    let case = passed("asks", tables, Reason::OuterPermitExpired);
    let output = check(
        &lab,
        &case.expecting(|expected| expected.unjudged = Some(VTEP_B)),
    );
    let state = output.tables.states[VTEP_B as usize];
    assert!(state.outer_probe_at_ns > output.time_ns.1, "{state:?}");
    let case = passed("goes on", output.tables, Reason::OuterPermitExpired);
    check(&lab, &case);
}

#[test]
fn an_outer_permit_of_the_vtep_before_is_void() {
    let Some(lab) = Lab::open() else { return };
    let next_hop = NextHop::of_node_b(&lab);
    let mut tables = permitted(&lab, NEVER, NEVER);
    tables.states[VTEP_B as usize].generation -= 1;
    let case = passed("another generation", tables, Reason::OuterPermitExpired);
    let output = check(
        &lab,
        &case.expecting(|expected| expected.unjudged = Some(VTEP_B)),
    );
    let state = output.tables.states[VTEP_B as usize];
    assert_eq!(state.outer_permit_until_ns, 0);
    assert_eq!(state.ifindex, next_hop.ifindex);
    assert_eq!(
        state.generation,
        output.tables.vteps[VTEP_B as usize].generation
    );
}

#[test]
fn one_packet_asks_again_and_the_others_go_on() {
    let Some(lab) = Lab::open() else { return };
    let case = passed("asks", permitted(&lab, NEVER, 1), Reason::OuterProbe);
    let output = check(
        &lab,
        &case.expecting(|expected| expected.unjudged = Some(VTEP_B)),
    );
    let state = output.tables.states[VTEP_B as usize];
    let (_, ended_ns) = output.time_ns;
    let asks_at = ended_ns..=ended_ns + PERMIT_NS / 2;
    assert!(
        asks_at.contains(&state.outer_probe_at_ns),
        "{state:?} is not in {asks_at:?}"
    );
    check(&lab, &encapped("goes on", &lab, &output.tables));
}

/// What the kernel's vxlan device sends to node B, seen at the uplink.
fn sent_by_the_kernel(lab: &Lab, name: &str, frame: Vec<u8>) -> Case {
    let tables = permitted(lab, 0, 0);
    let reason = Reason::OuterConfirmed;
    let mut case = Case::passed(name, Program::ToUplink, tables, frame, reason);
    // Our bit would say that BPF made it.
    case.context.mark &= !MARK_BIT;
    case.expected.mark &= !MARK_BIT;
    case
}

#[test]
fn vxlan_of_the_kernel_renews_the_outer_permit() {
    let Some(lab) = Lab::open() else { return };
    let frame = Outer::to_node_b().over(&datagram(&to_pod_b(), 64));
    let case = sent_by_the_kernel(&lab, "renewed", frame);
    let output = check(
        &lab,
        &case.expecting(|expected| expected.unjudged = Some(VTEP_B)),
    );
    let state = output.tables.states[VTEP_B as usize];
    let (started_ns, ended_ns) = output.time_ns;
    let until = started_ns + PERMIT_NS..=ended_ns + PERMIT_NS;
    assert!(
        until.contains(&state.outer_permit_until_ns),
        "{state:?} is not in {until:?}"
    );
    check(
        &lab,
        &encapped("encapsulated from then on", &lab, &output.tables),
    );
}

#[test]
fn nothing_else_renews_an_outer_permit() {
    let Some(lab) = Lab::open() else { return };
    let ignored = |name: &str, change: &dyn Fn(&mut Outer)| {
        let mut outer = Outer::to_node_b();
        change(&mut outer);
        let frame = outer.over(&datagram(&to_pod_b(), 64));
        let case = sent_by_the_kernel(&lab, name, frame);
        check(&lab, &case.expecting(|expected| expected.reason = None));
    };
    ignored("another port", &|outer| {
        outer.udp.destination_port = PORT + 1;
    });
    ignored("another VNI", &|outer| outer.vxlan = Vxlan::new(VNI + 1));
    ignored("another source", &|outer| outer.ip.source = POD_A1);
    ignored("to no VTEP", &|outer| outer.ip.destination = STRANGER);
    ignored("not IPv4", &|outer| {
        outer.ethernet.ether_type = ETHER_TYPE_IPV6;
    });

    let frame = Outer::to_node_b().over(&datagram(&to_pod_b(), 64));
    let made_by_bpf = sent_by_the_kernel(&lab, "made by BPF", frame.clone())
        .in_context(SkBuff {
            mark: MARK_BIT | 4,
            ..SkBuff::default()
        })
        .expecting(|expected| {
            expected.reason = None;
            expected.mark = 4;
        });
    check(&lab, &made_by_bpf);

    // A pod's own, forwarded and masqueraded: OUTPUT rules never saw it.
    let forwarded = sent_by_the_kernel(&lab, "forwarded", frame.clone())
        .in_context(SkBuff {
            ingress_ifindex: lab.veth,
            ..SkBuff::default()
        })
        .expecting(|expected| {
            expected.reason = None;
            expected.mark = 0;
        });
    check(&lab, &forwarded);

    let of_nobody = sent_by_the_kernel(&lab, "to a VTEP that is gone", frame)
        .with(|tables| {
            let gone = (NODE_B.into(), VTEP_UNUSED);
            tables.sources.retain(|source| source.1 != VTEP_B);
            tables.sources.insert(0, gone);
        })
        .expecting(|expected| expected.reason = None);
    check(&lab, &of_nobody);
}

#[test]
fn vxlan_of_the_kernel_by_another_next_hop_makes_the_vtep_slow() {
    let Some(lab) = Lab::open() else { return };
    let mut outer = Outer::to_node_b();
    outer.ethernet.destination = OTHER_MAC;
    let mut case = sent_by_the_kernel(&lab, "disputed", outer.over(&datagram(&to_pod_b(), 64)));
    case.expected.reason = Some(Reason::NextHopDisputed);
    let output = check(
        &lab,
        &case.expecting(|expected| expected.unjudged = Some(VTEP_B)),
    );
    let state = output.tables.states[VTEP_B as usize];
    let (started_ns, ended_ns) = output.time_ns;
    let until = started_ns + 4 * PERMIT_NS..=ended_ns + 4 * PERMIT_NS;
    assert!(
        until.contains(&state.disputed_until_ns),
        "{state:?} is not in {until:?}"
    );
    // What comes in has nothing to do with it.
    assert!(state.outer_permit_until_ns > ended_ns);
    let mut tables = output.tables;
    check(
        &lab,
        &passed("slow", tables.clone(), Reason::NextHopDisputed)
            .expecting(|expected| expected.unjudged = Some(VTEP_B)),
    );
    tables.states[VTEP_B as usize].disputed_until_ns = 1;
    tables.states[VTEP_B as usize].outer_probe_at_ns = NEVER;
    check(
        &lab,
        &encapped("fast again", &lab, &tables)
            .expecting(|expected| expected.unjudged = Some(VTEP_B)),
    );
}

#[test]
fn a_next_hop_that_moved_with_the_kernel_s_is_not_disputed() {
    let Some(lab) = Lab::open() else { return };
    ip(&format!(
        "neighbour replace {NODE_B} lladdr 02:00:00:00:09:09 dev eth0 nud permanent\n"
    ));
    let mut outer = Outer::to_node_b();
    outer.ethernet.destination = OTHER_MAC;
    let case = sent_by_the_kernel(&lab, "moved", outer.over(&datagram(&to_pod_b(), 64)));
    let output = check(
        &lab,
        &case.expecting(|expected| expected.unjudged = Some(VTEP_B)),
    );
    assert_eq!(output.tables.states[VTEP_B as usize].disputed_until_ns, 0);
}

#[test]
fn what_a_rule_looks_at_and_bpf_cannot_ask_with_is_the_kernel_s() {
    let Some(lab) = Lab::open() else { return };
    let tables = permitted(&lab, NEVER, NEVER);
    let marked = |mark: u32| {
        let mut tables = tables.clone();
        // Our own bit says nothing to the kernel: it is gone by then.
        tables.config.rule_marks = mark | MARK_BIT;
        tables
    };
    // As the case's packet is marked.
    check(&lab, &passed("its mark", marked(1), Reason::RoutedByRule));
    let case = encapped("another mark", &lab, &tables).with(|before| *before = marked(2));
    check(&lab, &case);
    let mut by_port = tables;
    by_port.config.flags |= CONFIG_FLAG_ROUTED_BY_PORT;
    check(&lab, &passed("ports", by_port, Reason::RoutedByRule));
}

#[test]
fn what_somebody_has_on_the_overlays_device_gets_every_packet() {
    let Some(lab) = Lab::open() else { return };
    let tables = permitted(&lab, NEVER, NEVER);
    check(&lab, &encapped("nobody's", &lab, &tables));
    let mut shaped = tables;
    shaped.config.flags |= CONFIG_FLAG_OVERLAY_POLICY;
    check(&lab, &passed("a shaper", shaped, Reason::NeverFast));
}
