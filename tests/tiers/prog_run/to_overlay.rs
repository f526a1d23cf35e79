//! `to_overlay`: what the stack routed to the overlay leaves by the uplink, encapsulated.

use std::collections::BTreeSet;

use twill_abi::{CONFIG_FLAG_ODD_ROUTES, Program, Reason};
use twill_testbed::packet::{
    ETHER_TYPE_ARP, ETHER_TYPE_IPV6, ETHER_TYPE_VLAN, Ethernet, Ipv4, MORE_FRAGMENTS,
};

use super::check::{Case, NextHop, check};
use super::lab::Lab;
use super::packets::{
    Outer, TO_OVERLAY, datagram, echo, identification, leaving, payload, segment, to_pod_b,
};
use super::sk_buff::SkBuff;
use super::tables::{MARK_BIT, Tables};
use super::world::{
    FAR_NODE, GATEWAY_MAC, POD_A1, UPLINK_MAC_A, UPLINK_MTU, VTEP_B, VTEP_FAR, VTEP_MAC_A,
    VTEP_UNUSED, pod_of, vtep_mac,
};

/// The longest inner IPv4 packet that fits the uplink, bytes: 1500 - 50.
const LONGEST: usize = 1450;

/// Outer headers to the far node, which is behind the gateway.
fn to_far_node() -> Outer {
    let mut outer = Outer::to_node_b();
    outer.ethernet = Ethernet::ipv4(UPLINK_MAC_A, GATEWAY_MAC);
    outer.ip.destination = FAR_NODE;
    outer.inner = Ethernet::ipv4(VTEP_MAC_A, vtep_mac(VTEP_FAR));
    outer
}

/// The case of a packet that the far node gets.
fn encapped_far(name: &str, lab: &Lab, inner: &[u8]) -> Case {
    let next_hop = NextHop {
        mac: GATEWAY_MAC,
        ..NextHop::of_node_b(lab)
    };
    Case::encapped(name, lab, inner, &to_far_node())
        .counted_to(VTEP_FAR)
        .expecting(|expected| expected.learned = Some((VTEP_FAR, next_hop)))
}

fn passed(name: &str, tables: Tables, packet: Vec<u8>, reason: Reason) -> Case {
    Case::passed(name, Program::ToOverlay, tables, packet, reason)
}

#[test]
fn packets_of_every_length_and_protocol_are_encapsulated() {
    let Some(lab) = Lab::open() else { return };
    let ip = to_pod_b();
    for length in [0, 1, 2, 3, 63, 64, 512, 1399, LONGEST - 40] {
        let inner = segment(&ip, length);
        check(
            &lab,
            &Case::encapped(format!("TCP, {length}"), &lab, &inner, &Outer::to_node_b()),
        );
    }
    for length in [0, 1, 2, 3, 63, 64, 512, 1421, LONGEST - 28] {
        let inner = datagram(&ip, length);
        check(
            &lab,
            &Case::encapped(format!("UDP, {length}"), &lab, &inner, &Outer::to_node_b()),
        );
        let inner = echo(&ip, length);
        check(
            &lab,
            &Case::encapped(format!("ICMP, {length}"), &lab, &inner, &Outer::to_node_b()),
        );
    }
    let inner = Ipv4 {
        protocol: 132,
        ..ip
    }
    .over(&payload(40));
    check(
        &lab,
        &Case::encapped(
            "a protocol that nobody parses",
            &lab,
            &inner,
            &Outer::to_node_b(),
        ),
    );
}

/// DF is clear, so routers may fragment what BPF sends: packets that are under way together
/// need identifications of their own (RFC 6864).
#[test]
fn packets_of_one_flow_are_numbered_apart() {
    let Some(lab) = Lab::open() else { return };
    let inner = datagram(&to_pod_b(), 64);
    let numbers: BTreeSet<u16> = (0..64)
        .map(|_| {
            let case = Case::encapped("numbered", &lab, &inner, &Outer::to_node_b());
            identification(&check(&lab, &case).packet)
        })
        .collect();
    // By chance two may be the same, as two birthdays may.
    assert!(numbers.len() > 56, "64 packets have {numbers:?}");
}

#[test]
fn what_the_inner_packet_is_does_not_matter() {
    let Some(lab) = Lab::open() else { return };
    let ip = to_pod_b();
    let headers = [
        (
            "options",
            Ipv4 {
                options: vec![1; 4],
                ..ip.clone()
            },
        ),
        (
            "all the options there can be",
            Ipv4 {
                options: vec![1; 40],
                ..ip.clone()
            },
        ),
        (
            "the first fragment",
            Ipv4 {
                fragment: MORE_FRAGMENTS,
                ..ip.clone()
            },
        ),
        (
            "a later fragment",
            Ipv4 {
                fragment: MORE_FRAGMENTS | 0xb9,
                ..ip.clone()
            },
        ),
        (
            "the last fragment",
            Ipv4 {
                fragment: 370,
                ..ip.clone()
            },
        ),
        (
            "TTL 1, which the stack has let pass",
            Ipv4 {
                ttl: 1,
                ..ip.clone()
            },
        ),
        (
            "a wrong checksum",
            Ipv4 {
                checksum: Some(0xdead),
                ..ip.clone()
            },
        ),
    ];
    for (name, header) in headers {
        let inner = header.over(&payload(64));
        check(
            &lab,
            &Case::encapped(name, &lab, &inner, &Outer::to_node_b()),
        );
    }
    // The stack pads short frames: what is behind the IP packet travels along.
    let mut inner = datagram(&ip, 1);
    inner.extend([0; 17]);
    check(
        &lab,
        &Case::encapped("padding", &lab, &inner, &Outer::to_node_b()),
    );
}

#[test]
fn the_mark_does_not_leave_the_node() {
    let Some(lab) = Lab::open() else { return };
    let inner = datagram(&to_pod_b(), 64);
    for mark in [0, 1, MARK_BIT, 0x4000, 0xffff_0000, u32::MAX] {
        let context = SkBuff {
            mark,
            ..SkBuff::default()
        };
        let name = format!("mark {mark:#x}");
        let case = Case::encapped(name, &lab, &inner, &Outer::to_node_b()).in_context(context);
        check(&lab, &case);
    }
}

#[test]
fn the_destination_decides_the_vtep() {
    let Some(lab) = Lab::open() else { return };
    let to = |destination| {
        datagram(
            &Ipv4 {
                destination,
                ..to_pod_b()
            },
            64,
        )
    };

    check(
        &lab,
        &encapped_far(
            "the first address of a subnet",
            &lab,
            &to(pod_of(VTEP_FAR, 0)),
        ),
    );
    check(
        &lab,
        &encapped_far(
            "the last address of a subnet",
            &lab,
            &to(pod_of(VTEP_FAR, 255)),
        ),
    );

    let tables = lab.tables();
    let nowhere = [
        ("no lease", [10, 244, 9, 2]),
        ("the own subnet", [10, 244, 1, 3]),
        ("outside the network", [192, 0, 2, 77]),
        ("zero", [0, 0, 0, 0]),
        ("broadcast", [255, 255, 255, 255]),
    ];
    for (name, destination) in nowhere {
        let packet = leaving(&to(destination.into()));
        check(
            &lab,
            &passed(name, tables.clone(), packet, Reason::NoOverlayRoute),
        );
    }

    let inactive = leaving(&to([10, 244, 200, 2].into()));
    check(
        &lab,
        &passed("an unused VTEP", tables.clone(), inactive, Reason::NoVtep),
    );
    let outside = leaving(&to([10, 244, 201, 2].into()));
    check(
        &lab,
        &passed("no such VTEP", tables, outside, Reason::NoVtep),
    );
}

#[test]
fn the_common_prefix_length_is_a_setting() {
    let Some(lab) = Lab::open() else { return };
    for length in [1, 8, 16, 20, 26, 31, 32] {
        let mask = u32::MAX << (32 - u32::from(length));
        let pod = pod_of(VTEP_FAR, 2);
        let network = std::net::Ipv4Addr::from_bits(pod.to_bits() & mask);
        let inner = datagram(
            &Ipv4 {
                destination: pod,
                ..to_pod_b()
            },
            64,
        );
        let case = encapped_far(&format!("/{length}"), &lab, &inner).with(|tables| {
            tables.config.common_prefix_v4 = length;
            tables.routes = vec![(network.into(), VTEP_FAR)];
        });
        check(&lab, &case);
    }
}

#[test]
fn odd_prefixes_are_found_after_the_common_one() {
    let Some(lab) = Lab::open() else { return };
    let to = |destination| {
        datagram(
            &Ipv4 {
                destination,
                ..to_pod_b()
            },
            64,
        )
    };
    let odd = lab
        .tables()
        .with_odd_route([10, 244, 64, 0].into(), 20, VTEP_B)
        .with_odd_route([10, 244, 64, 128].into(), 25, VTEP_FAR)
        .with_odd_route([10, 244, 2, 0].into(), 26, VTEP_FAR);
    let with_odd = |case: Case| case.with(|tables| *tables = odd.clone());

    let inner = to([10, 244, 79, 255].into());
    let case = Case::encapped("shorter than common", &lab, &inner, &Outer::to_node_b());
    check(&lab, &with_odd(case));
    let case = encapped_far("longest match", &lab, &to([10, 244, 64, 129].into()));
    check(&lab, &with_odd(case));
    let inner = to([10, 244, 2, 2].into());
    let case = Case::encapped(
        "the common prefix goes first",
        &lab,
        &inner,
        &Outer::to_node_b(),
    );
    check(&lab, &with_odd(case));

    let packet = leaving(&to([10, 244, 80, 1].into()));
    check(
        &lab,
        &passed("one above", odd.clone(), packet, Reason::NoOverlayRoute),
    );

    let mut unflagged = odd;
    unflagged.config.flags &= !CONFIG_FLAG_ODD_ROUTES;
    let packet = leaving(&to([10, 244, 64, 1].into()));
    check(
        &lab,
        &passed(
            "without the flag",
            unflagged,
            packet,
            Reason::NoOverlayRoute,
        ),
    );
}

#[test]
fn what_is_not_ipv4_is_passed_on() {
    let Some(lab) = Lab::open() else { return };
    let tables = lab.tables();
    let inner = datagram(&to_pod_b(), 64);
    let tagged = [&[0x00, 0x64, 0x08, 0x00], &inner[..]].concat();
    let frames = [
        ("ARP", ETHER_TYPE_ARP, payload(28)),
        ("IPv6", ETHER_TYPE_IPV6, payload(60)),
        ("a tag within the packet", ETHER_TYPE_VLAN, tagged),
        ("802.3 length", 64, payload(64)),
        ("IPv4 by another name", 0x0008, inner),
    ];
    for (name, ether_type, bytes) in frames {
        let packet = Ethernet {
            ether_type,
            ..TO_OVERLAY
        }
        .over(&bytes);
        check(&lab, &passed(name, tables.clone(), packet, Reason::NotIp));
    }
}

/// The outer TOS of an inner one, as the kernel's vxlan device makes it
/// (`INET_ECN_encapsulate()` in `include/net/inet_ecn.h`, v6.18): ECN as it is, but
/// "congestion experienced" as ECT(0), and no DSCP.
pub(crate) const fn outer_tos(inner: u8) -> u8 {
    match inner & 0b11 {
        0b11 => 0b10,
        ecn => ecn,
    }
}

#[test]
fn ecn_goes_the_kernels_way_and_dscp_stays_inside() {
    let Some(lab) = Lab::open() else { return };
    for dscp in [0, 0x28, 0xb8, 0xfc] {
        for ecn in 0..4 {
            let tos = dscp | ecn;
            let mut outer = Outer::to_node_b();
            outer.ip.tos = outer_tos(tos);
            let inner = datagram(&Ipv4 { tos, ..to_pod_b() }, 64);
            let case = Case::encapped(format!("TOS {tos:#04x}"), &lab, &inner, &outer);
            check(&lab, &case);
        }
    }
}

#[test]
fn a_gso_packet_of_no_type_is_refused_by_the_kernel_and_handed_on_whole() {
    let Some(lab) = Lab::open() else { return };
    // `BPF_PROG_TEST_RUN` leaves the GSO type empty, for which bpf_skb_net_grow() answers
    // -ENOTSUPP: the one way to see a helper refuse here. `live` sends real GSO packets.
    let context = SkBuff {
        gso_size: 1200,
        gso_segs: 3,
        ..SkBuff::default()
    };
    let packet = leaving(&segment(&to_pod_b(), 3_500));
    let next_hop = NextHop::of_node_b(&lab);
    let case = passed("refused", lab.tables(), packet, Reason::EncapRefused)
        .in_context(context)
        .expecting(|expected| expected.learned = Some((VTEP_B, next_hop)));
    check(&lab, &case);
}

#[test]
fn what_is_longer_than_the_path_takes_is_passed_on() {
    let Some(lab) = Lab::open() else { return };
    let over = |name: &str, lab: &Lab, context: SkBuff, inner: &[u8]| {
        let next_hop = NextHop::of_node_b(lab);
        // The next hop is known, so that nothing is to be learned.
        passed(name, lab.tables(), leaving(inner), Reason::OverPathMtu)
            .in_context(context)
            .with(|tables| {
                let generation = tables.vteps[VTEP_B as usize].generation;
                tables.states[VTEP_B as usize] = next_hop.known(generation, u64::MAX);
            })
    };
    let plain = SkBuff::default();
    for length in [LONGEST + 1, LONGEST + 2, 1_600, 3_500] {
        let inner = segment(&to_pod_b(), length - 40);
        check(&lab, &over(&format!("{length} bytes"), &lab, plain, &inner));
    }

    // A segment is its payload and all headers in front of it: 20 + 20 inner, 50 - 14 outer
    // within the uplink's MTU, and the inner Ethernet header.
    let inner = segment(&to_pod_b(), 3_000);
    let longest_segment = UPLINK_MTU - 36 - 14 - 40;
    let gso = |gso_size| SkBuff {
        gso_size,
        gso_segs: 3,
        ..plain
    };
    check(
        &lab,
        &over("segments", &lab, gso(longest_segment + 1), &inner),
    );
    let mut fits = over("segments that fit", &lab, gso(longest_segment), &inner);
    fits.expected.reason = Some(Reason::EncapRefused);
    check(&lab, &fits);
}

#[test]
fn an_index_of_zero_is_a_vtep_like_any_other() {
    let Some(lab) = Lab::open() else { return };
    let next_hop = NextHop::of_node_b(&lab);
    let inner = datagram(
        &Ipv4 {
            source: POD_A1,
            ..to_pod_b()
        },
        64,
    );
    let case = Case::encapped("place 0", &lab, &inner, &Outer::to_node_b())
        .with(|tables| {
            tables.vteps.swap(VTEP_UNUSED as usize, VTEP_B as usize);
            let place = tables.routes.iter_mut().find(|route| route.1 == VTEP_B);
            place.expect("node B has a route").1 = VTEP_UNUSED;
        })
        .counted_to(VTEP_UNUSED)
        .expecting(|expected| expected.learned = Some((VTEP_UNUSED, next_hop)));
    check(&lab, &case);
}
