//! `to_pod` learns where a flow's pod is, and that netfilter accepts what comes in.

use twill_abi::{
    CONFIG_FLAG_STALE, CONFIG_FLAG_TCP_PERMITS, FastPath, FlowTuple, Mode, PERMIT_TOMBSTONE,
    Pending, Permit, Program, Reason, VETH_FLAG_NEVER_FAST, VethFlags,
};
use twill_testbed::packet::{
    ETHER_TYPE_ARP, Ethernet, MORE_FRAGMENTS, PROTOCOL_TCP, PROTOCOL_UDP, Tcp,
};

use super::connections::TOMBSTONE_NS;
use super::flow::{
    BRIDGE_MAC, Inner, PERMIT_NS, POD_MAC, PROTOCOLS, blank, into_pod, pending, permit, permitting,
    plain, to_service,
};
use crate::check::{Case, check};
use crate::flow_tables::{FAR, FlowTables, JUST_NOW, NEVER, PAST, at};
use crate::lab::{Lab, monotonic_ns, stay_on_one_cpu};
use crate::packets::echo;
use crate::sk_buff::SkBuff;
use crate::tables::MARK_BIT;
use crate::world::OTHER_MAC;

/// A packet of the flow is delivered with this mark; nothing is counted, nothing learned.
fn delivered(lab: &Lab, name: &str, mark: u32, inner: &Inner) -> Case {
    let frame = into_pod(&inner.bytes());
    let reason = Reason::NotAccepted;
    let case = Case::passed(name, Program::ToPod, permitting(lab), frame, reason);
    let case = case.in_context(SkBuff {
        mark,
        ..SkBuff::default()
    });
    if mark & MARK_BIT == 0 {
        return case;
    }
    case.expecting(|expected| expected.reason = None)
}

/// A packet that netfilter accepts, of a flow that the pod knows by this tuple.
fn accepted(lab: &Lab, name: &str, pod: FlowTuple) -> Case {
    delivered(lab, name, MARK_BIT | 7, &Inner::received(&pod))
}

impl Case {
    fn beside(self, permit: Permit) -> Self {
        self.with(|tables| tables.flows.file(permit))
    }

    fn learns(self) -> Self {
        self.expecting(|expected| expected.reason = Some(Reason::Learned))
    }

    fn because(self, reason: Reason) -> Self {
        self.expecting(|expected| expected.reason = Some(reason))
    }
}

/// The key of a flow's note.
fn hash(lab: &Lab, pod: &FlowTuple) -> u32 {
    pod.hash(lab.tables().config.flow_seed)
}

/// The note of a flow whose beginning went out.
fn begun(lab: &Lab, pod: FlowTuple, wire: FlowTuple, mapped_ns: u64) -> Pending {
    Pending {
        wire,
        mapped_ns,
        ..pending(lab, pod, PAST)
    }
}

/// The record that the first reply to it makes: the way in is accepted.
fn half(lab: &Lab, pod: FlowTuple, wire: FlowTuple) -> Permit {
    Permit {
        in_until_ns: at(PERMIT_NS),
        since_ns: at(0),
        pod_mac: POD_MAC,
        gateway_mac: BRIDGE_MAC,
        ..blank(lab, pod, wire)
    }
}

#[test]
fn an_acceptance_in_is_added_to_the_record() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let (pod, wire) = (to_service(protocol), plain(protocol));
        for (in_until_ns, probe_in_at_ns) in [(0, NEVER), (PAST, PAST), (FAR, PAST)] {
            let mut held = permit(&lab, pod, wire);
            (held.in_until_ns, held.probe_in_at_ns) = (in_until_ns, probe_in_at_ns);
            (held.pod_mac, held.gateway_mac) = (OTHER_MAC, OTHER_MAC);
            let case = accepted(&lab, "added", pod).beside(held).learns();
            check(
                &lab,
                &case.then(|flows| {
                    let permit = flows.permits.at(&pod);
                    (permit.pod_mac, permit.gateway_mac) = (POD_MAC, BRIDGE_MAC);
                    permit.in_until_ns = at(PERMIT_NS);
                    permit.probe_in_at_ns = NEVER;
                    permit.renewals += 1;
                }),
            );
        }
    }
}

#[test]
fn the_veth_that_is_delivered_to_is_where_the_flow_is() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let (pod, wire) = (to_service(protocol), plain(protocol));
        let mut forged = permit(&lab, pod, wire);
        forged.ifindex = lab.other_veth;
        let case = accepted(&lab, "another veth's", pod)
            .beside(forged)
            .learns();
        check(
            &lab,
            &case.then(|flows| {
                let permit = flows.permits.at(&pod);
                permit.ifindex = lab.veth;
                permit.out_until_ns = 0;
                permit.in_until_ns = at(PERMIT_NS);
                permit.renewals += 1;
            }),
        );
    }
}

/// A neighbour that claims the other side's address: the host may take what it sends for part of
/// the connection, but the overlay brought nothing.
#[test]
fn what_comes_from_elsewhere_than_the_overlay_is_no_acceptance() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let (pod, wire) = (to_service(protocol), plain(protocol));
        let note = begun(&lab, pod, wire, JUST_NOW);
        for ingress_ifindex in [lab.other_veth, lab.uplink] {
            let context = SkBuff {
                mark: MARK_BIT | 7,
                ingress_ifindex,
                ..SkBuff::default()
            };
            let held = permit(&lab, pod, wire);
            let renewed = accepted(&lab, "renewed", pod).beside(held);
            let begins = accepted(&lab, "begun", pod)
                .with(|tables| tables.flows.pending.set(hash(&lab, &pod), note));
            for case in [renewed, begins] {
                let case = case.in_context(context).because(Reason::NotFromOverlay);
                check(&lab, &case.expecting(|expected| expected.mark = 7));
            }
        }
    }
}

#[test]
fn a_reply_to_what_the_pod_opened_makes_a_record() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        for (pod, wire) in [
            (to_service(protocol), plain(protocol)),
            (plain(protocol), plain(protocol)),
        ] {
            let noted = |mapped_ns, change: &dyn Fn(&mut Pending)| {
                let mut note = begun(&lab, pod, wire, mapped_ns);
                change(&mut note);
                let case = accepted(&lab, "reply", pod);
                case.with(|tables| tables.flows.pending.set(hash(&lab, &pod), note))
            };
            for mapped_ns in [monotonic_ns(), monotonic_ns() - 59_000_000_000] {
                let case = noted(mapped_ns, &|_| {}).learns();
                check(
                    &lab,
                    &case.then(|flows| {
                        flows.pending.at(&hash(&lab, &pod)).mapped_ns = 0;
                        flows.file(half(&lab, pod, wire));
                    }),
                );
            }
            let now = monotonic_ns();
            check(&lab, &noted(now - 60_000_000_001, &|_| {}));
            check(&lab, &noted(0, &|_| {}));
            check(&lab, &noted(now, &|note| note.ifindex = lab.other_veth));
            check(
                &lab,
                &noted(now, &|note| note.tuple.local_port = note.tuple.remote_port),
            );
        }
    }
}

/// Netfilter has accepted the pod's SYN-ACK already: the record is whole at once.
#[test]
fn the_reply_to_an_accepted_answer_makes_a_whole_record() {
    let Some(lab) = Lab::open() else { return };
    let (pod, wire) = (to_service(PROTOCOL_TCP), plain(PROTOCOL_TCP));
    let key = hash(&lab, &pod);
    let answered = |out_until_ns| {
        let note = Pending {
            out_until_ns,
            vtep: 3,
            vtep_generation: 5,
            ..begun(&lab, pod, wire, monotonic_ns())
        };
        let case = accepted(&lab, "reply", pod).learns();
        case.with(|tables| tables.flows.pending.set(key, note))
    };
    let used = |flows: &mut FlowTables| {
        let note = flows.pending.at(&key);
        (note.mapped_ns, note.out_until_ns) = (0, 0);
    };
    let whole = Permit {
        out_until_ns: FAR,
        probe_out_at_ns: FAR - PERMIT_NS / 2,
        vtep: 3,
        vtep_generation: 5,
        sent_to_mac: BRIDGE_MAC,
        ..half(&lab, pod, wire)
    };
    let case = answered(FAR).then(|flows| flows.file(whole));
    check(&lab, &case.then(used));
    // That acceptance has run out.
    let case = answered(PAST).then(|flows| flows.file(half(&lab, pod, wire)));
    check(&lab, &case.then(used));
}

/// As `learn_out` has it; the note stays for a later packet.
#[test]
fn a_reply_makes_a_record_no_faster_than_their_pace() {
    let Some(lab) = Lab::open() else { return };
    stay_on_one_cpu();
    let (pod, wire) = (to_service(PROTOCOL_UDP), plain(PROTOCOL_UDP));
    let paced = |name: &str| {
        let note = begun(&lab, pod, wire, monotonic_ns());
        accepted(&lab, name, pod).with(|tables| {
            tables.flows.pending.set(hash(&lab, &pod), note);
            tables.config.permit_pace_ns = u32::MAX;
        })
    };
    for name in ["first", "second", "third"] {
        let case = paced(name).learns().then(|flows| {
            flows.pending.at(&hash(&lab, &pod)).mapped_ns = 0;
            flows.file(half(&lab, pod, wire));
        });
        check(&lab, &case);
    }
    let refused = paced("fourth").expecting(|expected| {
        expected.beside.push((Reason::NoRoomForPermit, 0));
    });
    check(&lab, &refused);
}

#[test]
fn nothing_is_learned_of_strangers_and_closed_flows() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let (pod, wire) = (to_service(protocol), plain(protocol));
        check(&lab, &accepted(&lab, "a stranger", pod));
        // The tuple on the wire is not the one that the host delivers.
        let held = permit(&lab, pod, wire);
        check(&lab, &accepted(&lab, "the wire's tuple", wire).beside(held));
        let mut closed = held;
        (closed.state, closed.tombstone_until_ns) = (PERMIT_TOMBSTONE, FAR);
        check(&lab, &accepted(&lab, "closed", pod).beside(closed));
        for mark in [0, !MARK_BIT] {
            let case = delivered(&lab, "not accepted", mark, &Inner::received(&pod));
            check(&lab, &case.beside(held));
        }
    }
}

#[test]
fn what_may_have_no_permits_learns_none() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let (pod, wire) = (to_service(protocol), plain(protocol));
        let held = permit(&lab, pod, wire);
        let case = || accepted(&lab, "not learned", pod).beside(held);
        if protocol == PROTOCOL_TCP {
            check(
                &lab,
                &case().with(|tables| {
                    tables.config.flags &= !CONFIG_FLAG_TCP_PERMITS;
                }),
            );
        }
        let never = case().with(|tables| {
            let flags = VETH_FLAG_NEVER_FAST;
            let veth = VethFlags { flags, reserved: 0 };
            tables.flows.veth_flags.set(lab.veth, veth);
        });
        check(&lab, &never.because(Reason::NeverFast));
        let off = case().with(|tables| tables.config.fast_path = FastPath::Off as u32);
        check(&lab, &off.because(Reason::FastPathOff));
        let stale = case().with(|tables| tables.config.flags |= CONFIG_FLAG_STALE);
        check(&lab, &stale.because(Reason::FastPathOff));
        let kernel = case().with(|tables| tables.config.mode = Mode::Kernel as u32);
        let kernel = kernel.because(Reason::ModeKernel);
        check(
            &lab,
            &kernel.expecting(|expected| expected.mark = MARK_BIT | 7),
        );
    }
}

#[test]
fn a_closing_segment_leaves_a_tombstone_with_or_without_the_bit() {
    let Some(lab) = Lab::open() else { return };
    let (pod, wire) = (to_service(PROTOCOL_TCP), plain(PROTOCOL_TCP));
    for flags in [Tcp::FIN, Tcp::RST, Tcp::FIN | Tcp::ACK, Tcp::RST | Tcp::ACK] {
        for mark in [0, MARK_BIT] {
            let inner = Inner::received(&pod).flagged(flags);
            let case = || delivered(&lab, "closes", mark, &inner).because(Reason::Closing);
            check(&lab, &case());
            let case = case().beside(permit(&lab, pod, wire));
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
}

#[test]
fn our_bit_never_gets_into_a_pod() {
    let Some(lab) = Lab::open() else { return };
    let ip = Inner::received(&plain(PROTOCOL_UDP)).ip;
    let fragment = twill_testbed::packet::Ipv4 {
        fragment: MORE_FRAGMENTS,
        ..ip.clone()
    };
    let options = twill_testbed::packet::Ipv4 {
        options: vec![1; 4],
        ..ip.clone()
    };
    let frames = [
        (into_pod(&echo(&ip, 56)), Reason::NotTransport),
        (into_pod(&fragment.over(&[0; 64])), Reason::Fragment),
        (into_pod(&options.over(&[0; 64])), Reason::IpOptions),
        (into_pod(&ip.over(&[0; 7])), Reason::Truncated),
        (
            Ethernet {
                ether_type: ETHER_TYPE_ARP,
                ..Ethernet::ipv4(BRIDGE_MAC, POD_MAC)
            }
            .over(&[0; 64]),
            Reason::NotIp,
        ),
    ];
    for (frame, reason) in frames {
        let tables = permitting(&lab);
        let case = Case::passed("other", Program::ToPod, tables, frame, reason);
        check(&lab, &case);
    }
}
