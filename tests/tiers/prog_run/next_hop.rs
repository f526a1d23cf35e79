//! The next-hop cache of `to_overlay`: asked of the kernel at most a thousand times a second, and
//! void when the VTEP changed.

use twill_abi::{Program, Reason};
use twill_testbed::packet::{Ethernet, Ipv4};

use super::check::{Case, NextHop, check};
use super::lab::{Lab, OVERLAY, ip, sysctl};
use super::packets::{Outer, datagram, leaving, segment, to_pod_b};
use super::world::{
    GATEWAY, GATEWAY_MAC, NARROW_MTU, NODE_B, OTHER_MAC, PORT, STRANGER, VTEP_B, VTEP_NARROW,
    VTEP_SIDE, VTEP_SILENT, VTEP_UNREACHABLE, mac_text, pod_of, vtep_mac,
};

/// A next hop that no lookup would find.
fn remembered(lab: &Lab) -> NextHop {
    NextHop {
        mac: OTHER_MAC,
        source_mac: [2, 0, 0, 0, 7, 7],
        ..NextHop::of_node_b(lab)
    }
}

/// A datagram to node B, with a next hop in the cache.
fn with_remembered(name: &str, lab: &Lab, generation: u32, until_ns: u64) -> Case {
    let inner = datagram(&to_pod_b(), 64);
    Case::encapped(name, lab, &inner, &Outer::to_node_b()).with(|tables| {
        tables.states[VTEP_B as usize] = remembered(lab).known(generation, until_ns);
    })
}

fn generation_of_b(lab: &Lab) -> u32 {
    lab.tables().vteps[VTEP_B as usize].generation
}

#[test]
fn a_live_next_hop_is_used_without_asking() {
    let Some(lab) = Lab::open() else { return };
    let next_hop = remembered(&lab);
    let inner = datagram(&to_pod_b(), 64);
    let mut outer = Outer::to_node_b();
    outer.ethernet = Ethernet::ipv4(next_hop.source_mac, next_hop.mac);
    let mut case = with_remembered("remembered", &lab, generation_of_b(&lab), u64::MAX);
    case.expected.packet = outer.over(&inner);
    case.expected.learned = None;
    check(&lab, &case);
}

#[test]
fn an_old_next_hop_is_asked_for_again() {
    let Some(lab) = Lab::open() else { return };
    let generation = generation_of_b(&lab);
    check(&lab, &with_remembered("run out", &lab, generation, 1));
    check(
        &lab,
        &with_remembered("of the VTEP before", &lab, generation - 1, u64::MAX),
    );
    check(&lab, &with_remembered("of no VTEP", &lab, 0, u64::MAX));
}

#[test]
fn a_next_hop_of_another_uplink_is_asked_for_again() {
    let Some(lab) = Lab::open() else { return };
    let inner = datagram(&to_pod_b(), 64);
    let case = Case::encapped("other uplink", &lab, &inner, &Outer::to_node_b()).with(|tables| {
        let elsewhere = NextHop {
            ifindex: lab.uplink + 1000,
            ..remembered(&lab)
        };
        tables.states[VTEP_B as usize] = elsewhere.known(generation_of_b(&lab), u64::MAX);
    });
    check(&lab, &case);
}

#[test]
fn a_next_hop_that_moved_is_followed() {
    let Some(lab) = Lab::open() else { return };
    let inner = datagram(&to_pod_b(), 64);
    check(
        &lab,
        &Case::encapped("before", &lab, &inner, &Outer::to_node_b()),
    );

    ip(&format!(
        "neighbour replace {NODE_B} lladdr 02:00:00:00:09:09 dev eth0 nud permanent\n"
    ));
    let mut outer = Outer::to_node_b();
    outer.ethernet.destination = OTHER_MAC;
    let next_hop = NextHop {
        mac: OTHER_MAC,
        ..NextHop::of_node_b(&lab)
    };
    let case = Case::encapped("after", &lab, &inner, &outer)
        .expecting(|expected| expected.learned = Some((VTEP_B, next_hop)));
    check(&lab, &case);
}

#[test]
fn without_a_usable_next_hop_the_kernel_carries_it() {
    let Some(lab) = Lab::open() else { return };
    let tables = lab.tables();
    let to = |place| {
        leaving(&datagram(
            &Ipv4 {
                destination: pod_of(place, 2),
                ..to_pod_b()
            },
            64,
        ))
    };
    let cases = [
        ("not resolved yet", VTEP_SILENT, Reason::NextHopUnresolved),
        ("unreachable", VTEP_UNREACHABLE, Reason::NextHopUnusable),
        // Nothing binds the kernel's packets to the uplink, so nothing binds the lookup.
        ("by another interface", VTEP_SIDE, Reason::NextHopElsewhere),
    ];
    for (name, place, reason) in cases {
        let packet = to(place);
        check(
            &lab,
            &Case::passed(name, Program::ToOverlay, tables.clone(), packet, reason),
        );
    }

    // What this host sends comes in by lo.
    sysctl("ipv4/conf/lo/forwarding", "0");
    let case = Case::passed(
        "no forwarding",
        Program::ToOverlay,
        tables.clone(),
        to(VTEP_B),
        Reason::NextHopUnusable,
    );
    check(&lab, &case);
    sysctl("ipv4/conf/lo/forwarding", "1");

    ip("link set eth0 down\n");
    let case = Case::passed(
        "uplink down",
        Program::ToOverlay,
        tables,
        to(VTEP_B),
        Reason::NextHopUnusable,
    );
    check(&lab, &case);
}

#[test]
fn a_vtep_of_our_own_address_is_not_encapsulated_to() {
    let Some(lab) = Lab::open() else { return };
    let mut tables = lab.tables();
    tables.vteps[VTEP_B as usize].underlay = super::world::NODE_A.into();
    let packet = leaving(&datagram(&to_pod_b(), 64));
    let case = Case::passed(
        "local",
        Program::ToOverlay,
        tables,
        packet,
        Reason::NextHopUnusable,
    );
    check(&lab, &case);
}

#[test]
fn an_unresolved_neighbour_is_not_remembered() {
    let Some(lab) = Lab::open() else { return };
    let mut tables = lab.tables();
    tables.vteps[VTEP_B as usize].underlay = STRANGER.into();
    let packet = leaving(&datagram(&to_pod_b(), 64));
    let unresolved = Case::passed(
        "unresolved",
        Program::ToOverlay,
        tables,
        packet,
        Reason::NextHopUnresolved,
    );
    check(&lab, &unresolved);

    ip(&format!(
        "neighbour replace {STRANGER} lladdr 02:00:00:00:09:09 dev eth0 nud permanent\n"
    ));
    let mut outer = Outer::to_node_b();
    outer.ethernet.destination = OTHER_MAC;
    outer.ip.destination = STRANGER;
    let next_hop = NextHop {
        mac: OTHER_MAC,
        ..NextHop::of_node_b(&lab)
    };
    let inner = datagram(&to_pod_b(), 64);
    let case = Case::encapped("resolved", &lab, &inner, &outer)
        .with(|tables| tables.vteps[VTEP_B as usize].underlay = STRANGER.into())
        .expecting(|expected| expected.learned = Some((VTEP_B, next_hop)));
    check(&lab, &case);
}

#[test]
fn the_mtu_of_the_route_is_kept() {
    let Some(lab) = Lab::open() else { return };
    let ip_header = Ipv4 {
        destination: pod_of(VTEP_NARROW, 2),
        ..to_pod_b()
    };
    let next_hop = NextHop {
        mac: GATEWAY_MAC,
        path_mtu: NARROW_MTU,
        ..NextHop::of_node_b(&lab)
    };
    // The longest inner IPv4 packet that fits, and one byte more.
    let longest = NARROW_MTU as usize - 50;

    let inner = segment(&ip_header, longest - 40);
    let mut outer = Outer::to_node_b();
    outer.ethernet.destination = next_hop.mac;
    outer.ip.destination = super::world::NARROW_NODE;
    outer.inner.destination = vtep_mac(VTEP_NARROW);
    let fits = Case::encapped("fits", &lab, &inner, &outer)
        .counted_to(VTEP_NARROW)
        .expecting(|expected| expected.learned = Some((VTEP_NARROW, next_hop)));
    check(&lab, &fits);

    let packet = leaving(&segment(&ip_header, longest - 40 + 1));
    let too_long = Case::passed(
        "one byte more",
        Program::ToOverlay,
        lab.tables(),
        packet,
        Reason::OverPathMtu,
    )
    .with(|tables| {
        let generation = tables.vteps[VTEP_NARROW as usize].generation;
        tables.states[VTEP_NARROW as usize] = next_hop.known(generation, u64::MAX);
    });
    check(&lab, &too_long);
}

#[test]
fn the_mtu_that_the_agent_found_is_kept_where_it_is_the_smaller() {
    let Some(lab) = Lab::open() else { return };
    let next_hop = NextHop::of_node_b(&lab);
    for (said, mtu) in [(1400, 1400), (9000, 1500), (0, 1500)] {
        let longest = mtu - 50;
        let tables = |tables: &mut super::tables::Tables| {
            tables.vteps[VTEP_B as usize].path_mtu = said;
        };
        let inner = segment(&to_pod_b(), longest - 40);
        let fits = Case::encapped("fits", &lab, &inner, &Outer::to_node_b()).with(tables);
        check(&lab, &fits);
        let packet = leaving(&segment(&to_pod_b(), longest - 40 + 1));
        let case = Case::passed(
            "one byte more",
            Program::ToOverlay,
            lab.tables(),
            packet,
            Reason::OverPathMtu,
        );
        let too_long = case.with(tables).with(|tables| {
            let generation = tables.vteps[VTEP_B as usize].generation;
            tables.states[VTEP_B as usize] = next_hop.known(generation, u64::MAX);
        });
        check(&lab, &too_long);
    }
}

/// The stack forwards nothing longer to the overlay, whatever the path takes.
#[test]
fn the_mtus_of_the_overlays_device_and_of_the_subnets_route_are_kept() {
    let Some(lab) = Lab::open() else { return };
    let (subnet, mac) = (pod_of(VTEP_B, 0), mac_text(vtep_mac(VTEP_B)));
    ip(&format!(
        "neighbour add {subnet} lladdr {mac} dev {OVERLAY} nud permanent
route add {subnet}/24 via {subnet} dev {OVERLAY} onlink
"
    ));
    for (device, said, longest) in [
        (1_450, 0, 1_450),
        (1_300, 0, 1_300),
        (1_300, 1_400, 1_300),
        (1_400, 1_350, 1_300),
        (1_400, 9_000, 1_400),
    ] {
        ip(&format!("link set {OVERLAY} mtu {device}\n"));
        let next_hop = NextHop {
            path_mtu: longest + 50,
            ..NextHop::of_node_b(&lab)
        };
        let tables = |tables: &mut super::tables::Tables| {
            tables.vteps[VTEP_B as usize].subnet_mtu = said;
        };
        let longest = longest as usize;
        let inner = segment(&to_pod_b(), longest - 40);
        let fits = Case::encapped("fits", &lab, &inner, &Outer::to_node_b());
        let learned = |case: Case| {
            case.with(tables)
                .expecting(|expected| expected.learned = Some((VTEP_B, next_hop)))
        };
        check(&lab, &learned(fits));
        let packet = leaving(&segment(&to_pod_b(), longest - 40 + 1));
        let too_long = Case::passed(
            "one byte more",
            Program::ToOverlay,
            lab.tables(),
            packet,
            Reason::OverPathMtu,
        );
        check(&lab, &learned(too_long));
    }
    // Without the route nothing of the device is said.
    ip(&format!(
        "link set {OVERLAY} mtu 1300\nroute del {subnet}/24\n"
    ));
    let inner = segment(&to_pod_b(), 1_450 - 40);
    let gone = Case::encapped("no route", &lab, &inner, &Outer::to_node_b());
    check(&lab, &gone);
}

/// To node B by the gateway.
fn by_the_gateway(name: &str, lab: &Lab, mac: [u8; 6]) -> Case {
    let mut outer = Outer::to_node_b();
    outer.ethernet.destination = mac;
    let next_hop = NextHop {
        mac,
        ..NextHop::of_node_b(lab)
    };
    let inner = datagram(&to_pod_b(), 64);
    Case::encapped(name, lab, &inner, &outer)
        .expecting(|expected| expected.learned = Some((VTEP_B, next_hop)))
}

#[test]
fn rules_hold_that_the_kernel_s_packets_meet_and_no_others() {
    let Some(lab) = Lab::open() else { return };
    ip(&format!(
        "route add {NODE_B}/32 via {GATEWAY} table 77\nrule add ipproto 17 dport {PORT} lookup 77\n"
    ));
    check(&lab, &by_the_gateway("by its port", &lab, GATEWAY_MAC));
    ip(&format!(
        "rule del ipproto 17 dport {PORT} lookup 77\nrule add iif lo lookup 77\n"
    ));
    check(&lab, &by_the_gateway("from this host", &lab, GATEWAY_MAC));
    ip("rule del iif lo lookup 77\nrule add oif eth0 lookup 77\nrule add dport 1 lookup 77\n");
    let inner = datagram(&to_pod_b(), 64);
    check(
        &lab,
        &Case::encapped(
            "of sockets bound to an interface",
            &lab,
            &inner,
            &Outer::to_node_b(),
        ),
    );
}

/// The first of two would be chosen for one packet in 256.
#[test]
fn of_two_gateways_the_kernel_s_is_taken() {
    let Some(lab) = Lab::open() else { return };
    let other = mac_text(OTHER_MAC);
    ip(&format!(
        "neighbour add 192.0.2.253 lladdr {other} dev eth0 nud permanent
route add {NODE_B}/32 nexthop via {GATEWAY} weight 1 nexthop via 192.0.2.253 weight 255
"
    ));
    check(&lab, &by_the_gateway("the heavier", &lab, OTHER_MAC));
}
