//! `from_uplink`: every check of trust has its counter, and every packet goes on as it came.

use twill_abi::{Program, Reason};
use twill_testbed::packet::{
    DONT_FRAGMENT, ETHER_TYPE_ARP, ETHER_TYPE_IPV6, ETHER_TYPE_VLAN, Ethernet, Ipv4,
    MORE_FRAGMENTS, PROTOCOL_TCP, Udp, VXLAN_I, Vxlan,
};

use super::check::{Case, check};
use super::lab::Lab;
use super::packets::{Outer, datagram, echo, from_pod_b, payload, segment};
use super::world::{
    FAR_NODE, NODE_A, OTHER_MAC, POD_A1, PORT, STRANGER, UPLINK_MAC_A, UPLINK_MAC_B, VNI, VTEP_B,
    VTEP_FAR, VTEP_UNUSED, pod_of,
};

/// The frame is passed on for this reason, as a change of a trusted one.
fn refused(lab: &Lab, name: &str, reason: Reason, change: impl FnOnce(&mut Outer, &mut Ipv4)) {
    let (mut outer, mut inner) = (Outer::from_node_b(), from_pod_b());
    change(&mut outer, &mut inner);
    let frame = outer.over(&datagram(&inner, 64));
    passed(lab, name, frame, reason);
}

fn passed(lab: &Lab, name: &str, frame: Vec<u8>, reason: Reason) {
    let tables = lab.tables();
    check(
        lab,
        &Case::passed(name, Program::FromUplink, tables, frame, reason),
    );
}

#[test]
fn packets_of_a_known_vtep_are_trusted() {
    let Some(lab) = Lab::open() else { return };
    let (outer, ip) = (Outer::from_node_b(), from_pod_b());
    for length in [0, 1, 2, 63, 64, 1_410, 3_500] {
        for inner in [
            segment(&ip, length),
            datagram(&ip, length),
            echo(&ip, length),
        ] {
            let frame = outer.over(&inner);
            check(&lab, &Case::trusted(format!("{length} bytes"), &lab, frame));
        }
    }
}

#[test]
fn what_does_not_matter_is_trusted() {
    let Some(lab) = Lab::open() else { return };
    let trusted = |lab: &Lab, name: &str, change: &dyn Fn(&mut Outer, &mut Ipv4)| {
        let (mut outer, mut inner) = (Outer::from_node_b(), from_pod_b());
        change(&mut outer, &mut inner);
        check(
            lab,
            &Case::trusted(name, lab, outer.over(&datagram(&inner, 64))),
        );
    };
    trusted(&lab, "another source port", &|outer, _| {
        outer.udp.source_port = 1;
    });
    trusted(&lab, "a UDP checksum", &|outer, _| {
        outer.udp.checksum = None;
    });
    trusted(&lab, "TTL 1", &|outer, _| outer.ip.ttl = 1);
    trusted(&lab, "TOS", &|outer, _| outer.ip.tos = 0xff);
    trusted(&lab, "an identification", &|outer, _| outer.ip.id = 0xffff);
    trusted(&lab, "don't fragment", &|outer, _| {
        outer.ip.fragment = DONT_FRAGMENT;
    });
    trusted(&lab, "the reserved byte", &|outer, _| {
        outer.vxlan.reserved = 0xff;
    });
    trusted(&lab, "another inner source MAC", &|outer, _| {
        outer.inner.source = OTHER_MAC;
    });
    trusted(&lab, "the first pod address", &|_, inner| {
        inner.source = pod_of(VTEP_B, 0);
    });
    trusted(&lab, "the last pod address", &|_, inner| {
        inner.source = pod_of(VTEP_B, 255);
    });
    trusted(&lab, "the gateway of our subnet", &|_, inner| {
        inner.destination = [10, 244, 1, 1].into();
    });
    trusted(&lab, "the last address of our subnet", &|_, inner| {
        inner.destination = [10, 244, 1, 255].into();
    });
    trusted(&lab, "inner options", &|_, inner| {
        inner.options = vec![1; 8];
    });
    trusted(&lab, "an inner fragment", &|_, inner| {
        inner.fragment = MORE_FRAGMENTS | 0xa;
    });
}

#[test]
fn bytes_behind_the_outer_packet_are_a_contradiction() {
    // Even the smallest VXLAN packet is longer than what Ethernet pads to.
    let Some(lab) = Lab::open() else { return };
    for length in [1, 9, 60] {
        let mut frame = Outer::from_node_b().over(&datagram(&from_pod_b(), 1));
        frame.extend(payload(length));
        passed(
            &lab,
            &format!("{length} bytes more"),
            frame,
            Reason::OuterMalformed,
        );
    }
}

#[test]
fn what_is_not_for_our_port_is_not_looked_at() {
    let Some(lab) = Lab::open() else { return };
    let reason = Reason::NotVxlan;
    refused(&lab, "another port", reason, |outer, _| {
        outer.udp.destination_port = PORT + 1;
    });
    refused(&lab, "our port as the source", reason, |outer, _| {
        outer.udp = Udp::without_checksum(PORT, 55_555);
    });
    refused(&lab, "another address", reason, |outer, _| {
        outer.ip.destination = STRANGER;
    });
    refused(&lab, "broadcast", reason, |outer, _| {
        outer.ip.destination = [255, 255, 255, 255].into();
    });
    let tcp =
        Ipv4::new(FAR_NODE, NODE_A).tcp(&twill_testbed::packet::Tcp::new(PORT, PORT), &payload(64));
    let ethernet = Ethernet::ipv4(UPLINK_MAC_B, UPLINK_MAC_A);
    passed(&lab, "TCP", ethernet.over(&tcp), reason);
    let datagram = Ipv4 {
        protocol: PROTOCOL_TCP,
        ..Ipv4::new(FAR_NODE, NODE_A)
    };
    passed(
        &lab,
        "TCP, short",
        ethernet.over(&datagram.over(&[])),
        reason,
    );
}

#[test]
fn what_is_not_ipv4_is_not_looked_at() {
    let Some(lab) = Lab::open() else { return };
    let outer = Outer::from_node_b();
    let frame = outer.over(&datagram(&from_pod_b(), 64));
    for (name, ether_type) in [
        ("ARP", ETHER_TYPE_ARP),
        ("IPv6", ETHER_TYPE_IPV6),
        ("a tag within the packet", ETHER_TYPE_VLAN),
    ] {
        let ethernet = Ethernet {
            ether_type,
            ..outer.ethernet
        };
        passed(&lab, name, ethernet.over(&frame[14..]), Reason::NotIp);
    }
}

#[test]
fn outer_options_and_fragments_are_the_stacks() {
    let Some(lab) = Lab::open() else { return };
    for length in [4, 40] {
        let name = format!("{length} bytes of outer options");
        refused(&lab, &name, Reason::IpOptions, |outer, _| {
            outer.ip.options = vec![1; length];
        });
    }
    for (name, fragment) in [
        ("the first outer fragment", MORE_FRAGMENTS),
        ("an outer fragment", MORE_FRAGMENTS | 0xb9),
        ("the last outer fragment", 370),
        ("the smallest offset", 1),
        ("the reserved flag and an offset", 0x8001),
    ] {
        refused(&lab, name, Reason::Fragment, |outer, _| {
            outer.ip.fragment = fragment;
        });
    }
}

#[test]
fn vxlan_has_a_lone_i_flag() {
    let Some(lab) = Lab::open() else { return };
    for flags in [
        0,
        1,
        0x0400_0000,
        VXLAN_I | 1,
        VXLAN_I | 0x8000_0000,
        VXLAN_I | 0x0400_0000,
        u32::MAX,
    ] {
        let name = format!("flags {flags:#010x}");
        refused(&lab, &name, Reason::VxlanFlags, |outer, _| {
            outer.vxlan.flags = flags;
        });
    }
}

#[test]
fn another_vni_is_another_overlay() {
    let Some(lab) = Lab::open() else { return };
    for vni in [0, VNI + 1, VNI << 8, VNI << 16, 0x80_0000 | VNI, 0xff_ffff] {
        let name = format!("VNI {vni:#x}");
        refused(&lab, &name, Reason::WrongVni, |outer, _| {
            outer.vxlan = Vxlan::new(vni);
        });
    }
}

#[test]
fn a_vni_of_24_bits_is_compared_whole() {
    let Some(lab) = Lab::open() else { return };
    let mut outer = Outer::from_node_b();
    outer.vxlan = Vxlan::new(0xfe_dcba);
    let frame = outer.over(&datagram(&from_pod_b(), 64));
    let case = Case::trusted("24 bits", &lab, frame).with(|tables| tables.config.vni = 0xfe_dcba);
    check(&lab, &case);
}

#[test]
fn the_inner_frame_is_ours_to_take() {
    let Some(lab) = Lab::open() else { return };
    for (name, mac) in [
        ("another MAC", OTHER_MAC),
        ("broadcast", [0xff; 6]),
        ("the last byte differs", [2, 0, 0, 0, 0, 0x0b]),
        ("the first byte differs", [0, 0, 0, 0, 0, 0x0a]),
    ] {
        refused(&lab, name, Reason::ForeignInnerMac, |outer, _| {
            outer.inner.destination = mac;
        });
    }
    for ether_type in [ETHER_TYPE_ARP, ETHER_TYPE_IPV6, ETHER_TYPE_VLAN] {
        let name = format!("inner {ether_type:#06x}");
        refused(&lab, &name, Reason::NotIp, |outer, _| {
            outer.inner.ether_type = ether_type;
        });
    }
}

#[test]
fn the_inner_source_belongs_to_the_sending_vtep() {
    let Some(lab) = Lab::open() else { return };
    let reason = Reason::ForeignInnerSource;
    for (name, source) in [
        ("of another VTEP", pod_of(VTEP_FAR, 2)),
        ("ours", [10, 244, 1, 9].into()),
        ("of no lease", [10, 244, 9, 2].into()),
        ("not of the network", STRANGER),
        ("zero", [0, 0, 0, 0].into()),
    ] {
        refused(&lab, name, reason, |_, inner| inner.source = source);
    }
    refused(&lab, "by way of another VTEP", reason, |outer, _| {
        outer.ip.source = FAR_NODE;
    });

    let frame = Outer::from_node_b().over(&datagram(&from_pod_b(), 64));
    let mut tables = lab.tables();
    tables.vteps[VTEP_B as usize].flags = 0;
    let case = Case::passed(
        "of a VTEP that is gone",
        Program::FromUplink,
        tables,
        frame,
        reason,
    );
    check(&lab, &case);
}

#[test]
fn a_source_that_is_no_vtep_is_a_stranger() {
    let Some(lab) = Lab::open() else { return };
    refused(&lab, "a stranger", Reason::UnknownVtep, |outer, _| {
        outer.ip.source = STRANGER;
    });
    refused(&lab, "ourselves", Reason::UnknownVtep, |outer, _| {
        outer.ip.source = NODE_A;
    });
    refused(
        &lab,
        "a stranger with a stranger's pod",
        Reason::UnknownVtep,
        |outer, inner| {
            outer.ip.source = STRANGER;
            inner.source = [10, 244, 9, 2].into();
        },
    );
}

#[test]
fn the_inner_destination_is_in_our_subnet() {
    let Some(lab) = Lab::open() else { return };
    for (name, destination) in [
        ("one below", [10, 244, 0, 255]),
        ("one above", [10, 244, 2, 0]),
        ("of another VTEP", [10, 244, 3, 2]),
        ("outside the network", [192, 0, 2, 1]),
        ("multicast", [224, 0, 0, 1]),
        ("broadcast", [255, 255, 255, 255]),
    ] {
        refused(&lab, name, Reason::ForeignInnerDestination, |_, inner| {
            inner.destination = destination.into();
        });
    }
    for length in [0, 1, 17, 31, 32] {
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        let network = std::net::Ipv4Addr::from_bits(POD_A1.to_bits() & mask);
        let frame = Outer::from_node_b().over(&datagram(&from_pod_b(), 64));
        let case = Case::trusted(format!("own subnet /{length}"), &lab, frame).with(|tables| {
            tables.config.own_subnet = network.into();
            tables.config.own_prefix_v4 = length;
        });
        check(&lab, &case);
    }
}

#[test]
fn odd_prefixes_are_trusted_from_their_vtep_alone() {
    let Some(lab) = Lab::open() else { return };
    let odd = lab
        .tables()
        .with_odd_route([10, 244, 64, 0].into(), 20, VTEP_B);
    let mut inner = from_pod_b();
    inner.source = [10, 244, 79, 255].into();
    let mut outer = Outer::from_node_b();
    let frame = outer.over(&datagram(&inner, 64));
    check(
        &lab,
        &Case::trusted("odd", &lab, frame).with(|tables| *tables = odd.clone()),
    );

    outer.ip.source = FAR_NODE;
    let frame = outer.over(&datagram(&inner, 64));
    let case = Case::passed(
        "odd, of another",
        Program::FromUplink,
        odd,
        frame,
        Reason::ForeignInnerSource,
    );
    check(&lab, &case);
}

#[test]
fn a_vtep_at_place_zero_is_one_like_any_other() {
    let Some(lab) = Lab::open() else { return };
    let frame = Outer::from_node_b().over(&datagram(&from_pod_b(), 64));
    let length = frame.len() as u64;
    let case = Case::trusted("place 0", &lab, frame)
        .with(|tables| {
            tables.vteps.swap(VTEP_UNUSED as usize, VTEP_B as usize);
            for (_, place) in tables.routes.iter_mut().chain(&mut tables.sources) {
                if *place == VTEP_B {
                    *place = VTEP_UNUSED;
                }
            }
        })
        .expecting(|expected| {
            expected.vtep = Some((VTEP_UNUSED, super::check::from_vtep(length)));
        });
    check(&lab, &case);
}
