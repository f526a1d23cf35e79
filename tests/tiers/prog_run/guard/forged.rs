//! Packets that nobody honest sends, each kind under its reason.

use std::net::Ipv4Addr;

use twill_abi::Reason;
use twill_testbed::packet::{
    DONT_FRAGMENT, ETHER_TYPE_ARP, ETHER_TYPE_IPV6, Ethernet, Ipv4, MORE_FRAGMENTS, Udp, VXLAN_I,
    Vxlan,
};

use super::super::lab::{Lab, ip};
use super::super::packets::{Outer, datagram, from_pod_b, payload, segment};
use super::super::world::{
    FAR_NODE, NODE_A, NODE_B, OTHER_MAC, OVERLAY_A, PORT, STRANGER, UPLINK_MAC_A, UPLINK_MAC_B,
    VNI, VTEP_B, VTEP_FAR, pod_of,
};
use super::{Fate, check, check_bare, open};

const ETHERNET: usize = Ethernet::LENGTH;
/// End of the outer UDP header: from here on the port is known.
const UDP_END: usize = ETHERNET + Ipv4::LENGTH + Udp::LENGTH;

fn forged(lab: &Lab, name: &str, fate: Fate, change: impl FnOnce(&mut Outer, &mut Ipv4)) {
    let (mut outer, mut inner) = (Outer::from_node_b(), from_pod_b());
    change(&mut outer, &mut inner);
    check(lab, name, &outer.over(&datagram(&inner, 64)), fate);
}

const TRUSTED: Fate = Fate::Passed(Reason::Trusted);

fn refused(reason: Reason) -> Fate {
    Fate::Refused(reason)
}

#[test]
fn honest_packets_pass() {
    let Some(lab) = open() else { return };
    forged(&lab, "a datagram", TRUSTED, |_, _| {});
    check(
        &lab,
        "a segment",
        &Outer::from_node_b().over(&segment(&from_pod_b(), 1_300)),
        TRUSTED,
    );
    forged(&lab, "of the far node", TRUSTED, |outer, inner| {
        outer.ip.source = FAR_NODE;
        inner.source = pod_of(VTEP_FAR, 9);
    });
    forged(&lab, "of the node itself", TRUSTED, |_, inner| {
        inner.source = NODE_B;
    });
    forged(&lab, "of the node's vxlan device", TRUSTED, |_, inner| {
        inner.source = pod_of(VTEP_B, 0);
    });
    forged(&lab, "to our vxlan device", TRUSTED, |_, inner| {
        inner.destination = OVERLAY_A;
    });
    forged(&lab, "to another MAC address", TRUSTED, |outer, _| {
        outer.inner.destination = OTHER_MAC;
    });
    forged(&lab, "a UDP checksum", TRUSTED, |outer, _| {
        outer.udp.checksum = None;
    });
    forged(&lab, "inner options", TRUSTED, |_, inner| {
        inner.options = vec![1; 8];
    });
    forged(&lab, "an inner fragment", TRUSTED, |_, inner| {
        inner.fragment = 0xa;
    });
    forged(&lab, "don't fragment", TRUSTED, |outer, _| {
        outer.ip.fragment = DONT_FRAGMENT;
    });
    let mut padded = Outer::from_node_b().over(&datagram(&from_pod_b(), 1));
    padded.extend(payload(60));
    check(&lab, "bytes behind the packet", &padded, TRUSTED);
    ip("route replace 10.244.1.0/24 dev veth-a1\n");
    let pods_own = from_pod_b().udp(&Udp::new(4_000, PORT), &payload(30));
    check(
        &lab,
        "VXLAN among pods",
        &Outer::from_node_b().over(&pods_own),
        TRUSTED,
    );
}

#[test]
fn what_is_not_vxlan_to_this_host_is_not_looked_at() {
    let Some(lab) = open() else { return };
    forged(&lab, "another port", Fate::Ignored, |outer, _| {
        outer.udp.destination_port = PORT + 1;
    });
    // Forwarded, to a host of the uplink's network and to one behind the gateway.
    for destination in [NODE_B, FAR_NODE] {
        forged(&lab, "to another host", Fate::Ignored, |outer, _| {
            outer.ip.source = STRANGER;
            outer.ip.destination = destination;
        });
    }
    let outer = Outer::from_node_b();
    let frame = outer.over(&datagram(&from_pod_b(), 64));
    for ether_type in [ETHER_TYPE_ARP, ETHER_TYPE_IPV6, 0x8847, 60] {
        let ethernet = Ethernet {
            ether_type,
            ..outer.ethernet
        };
        check(
            &lab,
            "not IPv4",
            &ethernet.over(&frame[ETHERNET..]),
            Fate::Ignored,
        );
    }
    let tcp = segment(&Ipv4::new(STRANGER, NODE_A), 64);
    let ethernet = Ethernet::ipv4(UPLINK_MAC_B, UPLINK_MAC_A);
    check(&lab, "TCP", &ethernet.over(&tcp), Fate::Ignored);
    for version in [0, 5, 6, 15] {
        forged(&lab, "no IPv4", Fate::Ignored, |outer, _| {
            outer.ip.version = version;
        });
    }
    for ihl in 0..5 {
        forged(&lab, "half a header", Fate::Ignored, |outer, _| {
            outer.ip.ihl = Some(ihl);
        });
    }
}

#[test]
fn every_address_of_the_host_is_guarded() {
    let Some(lab) = open() else { return };
    for destination in [
        NODE_A,
        OVERLAY_A,
        Ipv4Addr::new(198, 51, 100, 129),
        Ipv4Addr::new(192, 0, 2, 255),
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(224, 0, 0, 1),
    ] {
        let name = format!("to {destination}");
        forged(&lab, &name, refused(Reason::UnknownVtep), |outer, _| {
            outer.ip.source = STRANGER;
            outer.ip.destination = destination;
        });
        forged(&lab, &name, TRUSTED, |outer, _| {
            outer.ip.destination = destination;
        });
    }
}

#[test]
fn a_stranger_is_one_whatever_he_sends() {
    let Some(lab) = open() else { return };
    let fate = refused(Reason::UnknownVtep);
    for source in [
        STRANGER,
        NODE_A,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::new(192, 0, 2, 3),
    ] {
        forged(&lab, "an honest look", fate, |outer, _| {
            outer.ip.source = source;
        });
    }
    forged(&lab, "its own inner source", fate, |outer, inner| {
        outer.ip.source = STRANGER;
        inner.source = STRANGER;
    });
    forged(&lab, "no inner IP", fate, |outer, _| {
        outer.ip.source = STRANGER;
        outer.inner.ether_type = ETHER_TYPE_ARP;
    });
    for length in [4, 20, 40] {
        let name = format!("{length} bytes of options");
        forged(&lab, &name, fate, |outer, _| {
            outer.ip.source = STRANGER;
            outer.ip.options = vec![1; length];
        });
    }
    forged(&lab, "the first fragment", fate, |outer, _| {
        outer.ip.source = STRANGER;
        outer.ip.fragment = MORE_FRAGMENTS;
    });
}

#[test]
fn options_hide_nothing() {
    let Some(lab) = open() else { return };
    for length in [4, 40] {
        forged(&lab, "honest", TRUSTED, |outer, _| {
            outer.ip.options = vec![1; length];
        });
        forged(
            &lab,
            "a wrong VNI",
            refused(Reason::WrongVni),
            |outer, _| {
                outer.ip.options = vec![1; length];
                outer.vxlan = Vxlan::new(VNI + 1);
            },
        );
        forged(
            &lab,
            "a foreign source",
            refused(Reason::ForeignInnerSource),
            |outer, inner| {
                outer.ip.options = vec![1; length];
                inner.source = pod_of(VTEP_FAR, 2);
            },
        );
    }
}

#[test]
fn fragments_hide_nothing() {
    let Some(lab) = open() else { return };
    forged(&lab, "the first", TRUSTED, |outer, _| {
        outer.ip.fragment = MORE_FRAGMENTS;
    });
    for (name, fragment) in [("a later one", MORE_FRAGMENTS | 0xb9), ("the last", 9)] {
        // It has no port, and the kernel puts nothing together without the first.
        forged(&lab, name, Fate::Ignored, |outer, _| {
            outer.ip.source = STRANGER;
            outer.ip.fragment = fragment;
        });
    }
    forged(
        &lab,
        "of a foreign source",
        refused(Reason::ForeignInnerSource),
        |outer, inner| {
            outer.ip.fragment = MORE_FRAGMENTS;
            inner.source = pod_of(VTEP_FAR, 2);
        },
    );
    // So short that what is to be judged comes later: no path has such an MTU.
    let whole = Outer::from_node_b().over(&datagram(&from_pod_b(), 64));
    for length in (8..Udp::LENGTH + Vxlan::LENGTH + ETHERNET + 28).step_by(8) {
        let ip = Ipv4 {
            fragment: MORE_FRAGMENTS,
            ..Outer::from_node_b().ip
        };
        let start = ETHERNET + Ipv4::LENGTH;
        let frame = Ethernet::ipv4(UPLINK_MAC_B, UPLINK_MAC_A)
            .over(&ip.over(&whole[start..start + length]));
        check(
            &lab,
            &format!("{length} bytes"),
            &frame,
            refused(Reason::Fragment),
        );
    }
}

#[test]
fn vlan_tags_hide_nothing() {
    let Some(lab) = open() else { return };
    let tagged = |frame: &[u8], tags: &[(u16, u16)]| {
        let mut bytes = frame[..12].to_vec();
        for (ether_type, vlan) in tags {
            bytes.extend(ether_type.to_be_bytes());
            bytes.extend(vlan.to_be_bytes());
        }
        bytes.extend(&frame[12..]);
        bytes
    };
    let honest = Outer::from_node_b().over(&datagram(&from_pod_b(), 64));
    let mut stranger = Outer::from_node_b();
    stranger.ip.source = STRANGER;
    let stranger = stranger.over(&datagram(&from_pod_b(), 64));
    let other = Ethernet {
        ether_type: ETHER_TYPE_ARP,
        ..Outer::from_node_b().ethernet
    }
    .over(&payload(60));
    let (vlan, provider) = (0x8100, 0x88a8);
    for tags in [
        vec![(vlan, 0)],
        vec![(vlan, 0xe000)],
        vec![(vlan, 7)],
        vec![(provider, 0), (vlan, 0)],
        vec![(provider, 1), (vlan, 2), (vlan, 0), (vlan, 0)],
    ] {
        let name = format!("{} tags", tags.len());
        check(
            &lab,
            &name,
            &tagged(&stranger, &tags),
            refused(Reason::UnknownVtep),
        );
        check(&lab, &name, &tagged(&honest, &tags), TRUSTED);
        check(&lab, &name, &tagged(&other, &tags), Fate::Ignored);
    }
    let five = [(vlan, 0); 5];
    check(
        &lab,
        "five tags",
        &tagged(&stranger, &five),
        refused(Reason::VlanTag),
    );
}

#[test]
fn flags_are_as_the_kernel_requires() {
    let Some(lab) = open() else { return };
    for flags in [
        0,
        1,
        0x0400_0000,
        VXLAN_I | 1,
        VXLAN_I | 0x8000_0000,
        u32::MAX,
    ] {
        for source in [NODE_B, STRANGER] {
            let name = format!("flags {flags:#010x}");
            forged(&lab, &name, refused(Reason::VxlanFlags), |outer, _| {
                outer.ip.source = source;
                outer.vxlan.flags = flags;
            });
        }
    }
}

#[test]
fn another_vni_is_refused() {
    let Some(lab) = open() else { return };
    for vni in [0, VNI + 1, VNI << 8, VNI << 16, 0xff_ffff] {
        for source in [NODE_B, STRANGER] {
            forged(
                &lab,
                &format!("VNI {vni:#x}"),
                refused(Reason::WrongVni),
                |outer, _| {
                    outer.ip.source = source;
                    outer.vxlan = Vxlan::new(vni);
                },
            );
        }
    }
}

#[test]
fn nobody_speaks_for_another() {
    let Some(lab) = open() else { return };
    for source in [
        pod_of(VTEP_FAR, 2),
        [10, 244, 1, 9].into(),
        [10, 244, 9, 2].into(),
        STRANGER,
        NODE_A,
        Ipv4Addr::UNSPECIFIED,
    ] {
        let name = format!("inner source {source}");
        forged(
            &lab,
            &name,
            refused(Reason::ForeignInnerSource),
            |_, inner| inner.source = source,
        );
    }
    for ether_type in [ETHER_TYPE_ARP, ETHER_TYPE_IPV6, 0x8100] {
        let name = format!("inner {ether_type:#06x}");
        forged(&lab, &name, refused(Reason::NotIp), |outer, _| {
            outer.inner.ether_type = ether_type;
        });
    }
    forged(
        &lab,
        "inner version 6",
        refused(Reason::IpMalformed),
        |_, inner| inner.version = 6,
    );
    forged(
        &lab,
        "inner IHL 4",
        refused(Reason::IpMalformed),
        |_, inner| inner.ihl = Some(4),
    );
}

#[test]
fn nobody_sends_us_what_is_anothers() {
    let Some(lab) = open() else { return };
    for destination in [
        [10, 244, 0, 255].into(),
        [10, 244, 2, 0].into(),
        pod_of(VTEP_FAR, 2),
        NODE_A,
        Ipv4Addr::BROADCAST,
    ] {
        let name = format!("inner destination {destination}");
        forged(
            &lab,
            &name,
            refused(Reason::ForeignInnerDestination),
            |_, inner| {
                inner.destination = destination;
            },
        );
    }
}

#[test]
fn a_packet_cut_off_anywhere_is_truncated() {
    let Some(lab) = open() else { return };
    for source in [NODE_B, STRANGER] {
        let mut outer = Outer::from_node_b();
        outer.ip.source = source;
        let whole = outer.over(&datagram(&from_pod_b(), 30));
        for length in ETHERNET..whole.len() {
            let fate = if length < UDP_END {
                Fate::Ignored
            } else {
                refused(Reason::Truncated)
            };
            check(
                &lab,
                &format!("{length} of {} bytes", whole.len()),
                &whole[..length],
                fate,
            );
        }
    }
}

#[test]
fn a_sender_that_encapsulates_too_little_is_found_out() {
    let Some(lab) = open() else { return };
    let outer = Outer::from_node_b();
    let inner = outer.inner.over(&datagram(&from_pod_b(), 30));
    let vxlan = outer.vxlan.over(&inner);
    // Up to the inner UDP header.
    for length in 0..Vxlan::LENGTH + ETHERNET + Ipv4::LENGTH + Udp::LENGTH {
        let frame = outer
            .ethernet
            .over(&outer.ip.udp(&outer.udp, &vxlan[..length]));
        check(
            &lab,
            &format!("{length} bytes"),
            &frame,
            refused(Reason::Truncated),
        );
        // Bytes behind the outer packet are none of it.
        let mut padded = frame;
        padded.extend(&vxlan[length..]);
        check(
            &lab,
            &format!("{length} bytes, padded"),
            &padded,
            refused(Reason::Truncated),
        );
    }
}

#[test]
fn lengths_that_lie_are_malformed() {
    let Some(lab) = open() else { return };
    let right = u16::try_from(Udp::LENGTH + Vxlan::LENGTH + ETHERNET + 20 + 8 + 64).expect("small");
    for length in [0, 1, 7, right + 1, 0xffff] {
        forged(
            &lab,
            &format!("UDP length {length}"),
            refused(Reason::OuterMalformed),
            |outer, _| {
                outer.udp.length = Some(length);
            },
        );
    }
    let total = right + 20;
    for length in [total + 1, 0xffff] {
        forged(
            &lab,
            &format!("total length {length}"),
            refused(Reason::Truncated),
            |outer, _| {
                outer.ip.total_length = Some(length);
            },
        );
    }
}

/// An uplink without Ethernet headers: the packet is read from its IP header on, by TC alone.
#[test]
fn on_a_bare_uplink_the_same_packets_are_refused() {
    let Some(lab) = open() else { return };
    let bare = |name: &str, fate: Fate, change: &dyn Fn(&mut Outer, &mut Ipv4)| {
        let (mut outer, mut inner) = (Outer::from_node_b(), from_pod_b());
        change(&mut outer, &mut inner);
        check_bare(&lab, name, &outer.over(&datagram(&inner, 64)), fate);
    };
    bare("honest", TRUSTED, &|_, _| {});
    bare("a stranger", refused(Reason::UnknownVtep), &|outer, _| {
        outer.ip.source = STRANGER;
    });
    bare(
        "in the name of another",
        refused(Reason::ForeignInnerSource),
        &|_, inner| {
            inner.source = pod_of(VTEP_FAR, 9);
        },
    );
    bare(
        "outer options",
        refused(Reason::UnknownVtep),
        &|outer, _| {
            outer.ip.options = vec![1; 8];
            outer.ip.source = STRANGER;
        },
    );
    bare("another port", Fate::Ignored, &|outer, _| {
        outer.udp.destination_port = PORT + 1;
    });
    bare("other VNI", refused(Reason::WrongVni), &|outer, _| {
        outer.vxlan = Vxlan::new(VNI + 1);
    });
}
