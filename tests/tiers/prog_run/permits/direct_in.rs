//! Mode `direct` into a pod: a SYN makes a record where the pod's place is known; what the stack
//! delivers belongs to the stack.

use twill_abi::{
    LocalPod, Mapping, PERMIT_FLAG_DIRECT, PERMIT_FLAG_UNANSWERED, Permit, Program, Reason,
};
use twill_testbed::packet::{PROTOCOL_TCP, Tcp};

use super::direct_out::{IDLE_NS, direct, direct_holding, known, record};
use super::flow::{
    CLIENT, Inner, LOOK_NS, POD_MAC, POD_MTU, PROTOCOLS, SERVICE, into_pod, looked, permit, place,
    plain, tuple, word,
};
use super::from_uplink::{carried, judged};
use crate::check::{Case, check};
use crate::flow_tables::{PAST, at};
use crate::lab::{BRIDGE, Lab, ip, monotonic_ns};
use crate::packets::Outer;
use crate::sk_buff::SkBuff;
use crate::tables::{MARK_BIT, Tables};
use crate::world::{OTHER_MAC, POD_A1, mac_text};

/// How long a place is believed, nanoseconds.
const PLACE_NS: u64 = 600_000_000_000;

/// The mode `direct`, and our pod seen so long ago.
fn seen(lab: &Lab, ago_ns: u64) -> Tables {
    let mut tables = direct(lab);
    let seen_ns = monotonic_ns() - ago_ns;
    tables
        .flows
        .local_pods
        .set(POD_A1.into(), place(lab, seen_ns));
    tables
}

/// A segment of the flow with these flags comes from the wire and is passed on.
fn slow(name: &str, tables: Tables, flags: u8, reason: Reason) -> Case {
    let packet = Inner::received(&plain(PROTOCOL_TCP)).flagged(flags).bytes();
    judged(name, tables, &Outer::from_node_b(), &packet, reason)
}

#[test]
fn a_syn_to_a_pod_in_its_place_makes_a_record() {
    let Some(lab) = Lab::open() else { return };
    let outer = Outer::from_node_b();
    let flow = plain(PROTOCOL_TCP);
    for ago_ns in [0, PLACE_NS - 60_000_000_000] {
        let sent = Inner::received(&flow).flagged(Tcp::SYN);
        let case = carried(
            "SYN",
            seen(&lab, ago_ns),
            &outer,
            &sent,
            &sent.clone().routed(),
        );
        let mut made = record(&lab, flow);
        made.flags |= PERMIT_FLAG_UNANSWERED;
        looked(&mut made);
        let output = check(&lab, &case.then(|flows| flows.file(made)));
        // Nobody said a word to the first one: the pod may have moved, the stack finds it.
        let again = slow(
            "SYN again",
            output.tables.clone(),
            Tcp::SYN,
            Reason::Opening,
        );
        check(&lab, &again.then(|flows| flows.permits.remove(&flow)));
        for flags in [Tcp::ACK, Tcp::FIN | Tcp::ACK, Tcp::RST] {
            let sent = Inner::received(&flow).flagged(flags);
            let tables = output.tables.clone();
            check(
                &lab,
                &carried("next", tables, &outer, &sent, &sent.clone().routed()),
            );
        }
    }
    // The next connection of the same ports: a first SYN again.
    let before = known(&lab, flow);
    let sent = Inner::received(&flow).flagged(Tcp::SYN);
    let tables = direct_holding(&lab, &[before]);
    let case = carried("reused", tables, &outer, &sent, &sent.clone().routed());
    let next = Permit {
        flags: before.flags | PERMIT_FLAG_UNANSWERED,
        ..before
    };
    check(&lab, &case.then(|flows| flows.file(next)));
    let elsewhere = LocalPod {
        ifindex: lab.other_veth,
        pod_mac: OTHER_MAC,
        gateway_mac: POD_MAC,
        ..place(&lab, monotonic_ns())
    };
    let sent = Inner::received(&flow).flagged(Tcp::SYN);
    let other_mac = mac_text(OTHER_MAC);
    ip(&format!(
        "neighbour replace {POD_A1} lladdr {other_mac} dev {BRIDGE} nud permanent\n"
    ));
    let case = carried(
        "elsewhere",
        direct(&lab),
        &outer,
        &sent,
        &sent.clone().routed(),
    );
    let case = case.with(|tables| tables.flows.local_pods.set(POD_A1.into(), elsewhere));
    let case = case.expecting(|expected| {
        expected.packet[..6].copy_from_slice(&OTHER_MAC);
        expected.packet[6..12].copy_from_slice(&POD_MAC);
    });
    check(
        &lab,
        &case.then(|flows| {
            flows.file(Permit {
                ifindex: lab.other_veth,
                pod_mac: OTHER_MAC,
                gateway_mac: POD_MAC,
                sent_to_mac: POD_MAC,
                flags: PERMIT_FLAG_DIRECT | PERMIT_FLAG_UNANSWERED,
                look_at_ns: at(LOOK_NS),
                pod_mtu: POD_MTU,
                ..record(&lab, flow)
            });
        }),
    );
}

#[test]
fn without_a_place_the_stack_delivers() {
    let Some(lab) = Lab::open() else { return };
    check(
        &lab,
        &slow("unknown", direct(&lab), Tcp::SYN, Reason::Opening),
    );
    let old = seen(&lab, PLACE_NS + 1);
    check(&lab, &slow("old", old, Tcp::SYN, Reason::Opening));
    let never = slow("never fast", seen(&lab, 0), Tcp::SYN, Reason::NeverFast);
    check(&lab, &never.with_never_fast(lab.veth));
}

/// However long the machine has been up.
#[test]
fn a_pods_word_alone_is_no_place() {
    let Some(lab) = Lab::open() else { return };
    let mut said = direct(&lab);
    said.flows.local_pods.set(POD_A1.into(), word(&lab));
    check(&lab, &slow("its word", said, Tcp::SYN, Reason::Opening));
}

#[test]
fn what_is_no_first_segment_is_the_stacks() {
    let Some(lab) = Lab::open() else { return };
    for (flags, reason) in [
        (Tcp::ACK, Reason::NoPermit),
        (Tcp::SYN | Tcp::ACK, Reason::Opening),
        (Tcp::FIN, Reason::Closing),
        (Tcp::RST, Reason::Closing),
        (Tcp::SYN | Tcp::RST, Reason::Closing),
    ] {
        check(&lab, &slow("middle", seen(&lab, 0), flags, reason));
    }
}

#[test]
fn what_the_stack_or_a_nat_owns_is_never_direct() {
    let Some(lab) = Lab::open() else { return };
    let flow = plain(PROTOCOL_TCP);
    let other = tuple(PROTOCOL_TCP, CLIENT, SERVICE);
    let owned = |name: &str, own: &dyn Fn(&mut Tables)| {
        let case = slow(name, seen(&lab, 0), Tcp::SYN, Reason::StackOwned);
        check(&lab, &case.with(|tables| own(tables)));
    };
    owned("delivered by the stack", &|tables| {
        let entry = Mapping::new(flow, lab.veth, PAST);
        tables.flows.mappings.set(flow, entry);
    });
    owned("a NAT's tuple on the wire", &|tables| {
        let entry = Mapping::new(other, lab.veth, PAST);
        tables.flows.wire.set(flow, entry);
    });
    owned("a permit that is another on the wire", &|tables| {
        tables.flows.file(permit(&lab, flow, other));
    });
}

#[test]
fn a_record_is_kept_while_it_is_used() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let sent = Inner::received(&flow);
        let mut held = known(&lab, flow);
        held.out_until_ns = monotonic_ns() + IDLE_NS / 2 - 1;
        let tables = direct_holding(&lab, &[held]);
        let outer = Outer::from_node_b();
        let case = carried("half", tables, &outer, &sent, &sent.clone().routed());
        check(
            &lab,
            &case.then(|flows| {
                let permit = flows.permits.at(&flow);
                permit.out_until_ns = at(IDLE_NS);
                permit.in_until_ns = at(IDLE_NS);
            }),
        );
    }
}

/// With the daemon dead a pod is gone, and nobody has ended what is known of it.
#[test]
fn a_record_whose_veth_is_gone_gives_way_to_the_stack() {
    let Some(lab) = Lab::open() else { return };
    let gone = 4_000;
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let held = Permit {
            ifindex: gone,
            look_at_ns: PAST,
            ..known(&lab, flow)
        };
        let packet = Inner::received(&flow).bytes();
        let tables = direct_holding(&lab, &[held]);
        let outer = Outer::from_node_b();
        let case = judged("gone", tables, &outer, &packet, Reason::ForeignVeth);
        check(&lab, &case.then(|flows| flows.permits.remove(&flow)));
        // Ten looks a second, and it goes on where the veth is there.
        let held = Permit {
            look_at_ns: PAST,
            ..known(&lab, flow)
        };
        let sent = Inner::received(&flow);
        let tables = direct_holding(&lab, &[held]);
        let case = carried("there", tables, &outer, &sent, &sent.clone().routed());
        check(&lab, &case.then(|flows| looked(flows.permits.at(&flow))));
    }
    // No record is made for a connection to there either.
    let mut tables = direct(&lab);
    let place = LocalPod {
        ifindex: gone,
        ..place(&lab, monotonic_ns())
    };
    tables.flows.local_pods.set(POD_A1.into(), place);
    check(&lab, &slow("SYN", tables, Tcp::SYN, Reason::ForeignVeth));
}

/// The stack delivers a packet of the flow; netfilter says nothing of it.
fn delivered(lab: &Lab, name: &str, protocol: u8) -> Case {
    let frame = into_pod(&Inner::received(&plain(protocol)).bytes());
    let reason = Reason::NotAccepted;
    let case = Case::passed(name, Program::ToPod, direct(lab), frame, reason);
    case.in_context(SkBuff::default())
}

#[test]
fn what_the_stack_delivers_is_the_stacks_and_confirms_the_pods_place() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let pod = POD_A1.into();
        let own = Mapping::new(flow, lab.veth, at(0));
        let before = place(&lab, monotonic_ns() - 2_000_000_000);
        for before in [word(&lab), before] {
            let case = delivered(&lab, "confirmed", protocol);
            let case = case.with(|tables| tables.flows.local_pods.set(pod, before));
            check(
                &lab,
                &case.then(|flows| {
                    flows.local_pods.set(pod, place(&lab, at(0)));
                    flows.mappings.set(flow, own);
                }),
            );
        }
        // Without its own word a pod may not be there: a bridge that has forgotten a MAC address
        // delivers to every port.
        let elsewhere = [
            None,
            Some(LocalPod {
                ifindex: lab.other_veth,
                ..place(&lab, monotonic_ns())
            }),
            Some(LocalPod {
                pod_mac: OTHER_MAC,
                ..place(&lab, monotonic_ns())
            }),
        ];
        for before in elsewhere {
            let case = delivered(&lab, "flooded", protocol).with(|tables| {
                if let Some(before) = before {
                    tables.flows.local_pods.set(pod, before);
                }
            });
            check(&lab, &case.then(|flows| flows.mappings.set(flow, own)));
        }
        let known_place = place(&lab, monotonic_ns());
        let at_home = |name: &str| {
            let case = delivered(&lab, name, protocol);
            case.with(|tables| tables.flows.local_pods.set(pod, known_place))
        };
        let case = at_home("seen a moment ago");
        check(&lab, &case.then(|flows| flows.mappings.set(flow, own)));
        let entry = Mapping::new(tuple(protocol, CLIENT, SERVICE), lab.other_veth, PAST);
        let case = at_home("a mapping stays");
        check(
            &lab,
            &case.with(|tables| tables.flows.mappings.set(flow, entry)),
        );
        let case = at_home("a permit stays");
        check(
            &lab,
            &case.with(|tables| tables.flows.file(permit(&lab, flow, flow))),
        );
    }
}

/// Now and then a packet of a direct flow is the stack's, for its outer permit for one. What
/// netfilter says of it there has no say in how long the record lasts.
#[test]
fn a_direct_record_is_not_learned_upon() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let known_place = place(&lab, monotonic_ns());
        let case = delivered(&lab, "accepted", protocol).with(|tables| {
            tables.flows.local_pods.set(POD_A1.into(), known_place);
            tables.flows.file(known(&lab, flow));
        });
        let mark = MARK_BIT;
        let case = case.in_context(SkBuff {
            mark,
            ..SkBuff::default()
        });
        check(&lab, &case.expecting(|expected| expected.reason = None));
    }
}
