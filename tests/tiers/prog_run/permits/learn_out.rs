//! `to_overlay` learns what netfilter made of the packet that a pod sent a moment ago.

use twill_abi::{
    CONFIG_FLAG_STALE, CONFIG_FLAG_TCP_PERMITS, FastPath, FlowTuple, Mapping, PERMIT_TOMBSTONE,
    Permit, Reason, VETH_FLAG_ATTACHED, VETH_FLAG_NEVER_FAST, VethFlags,
};
use twill_testbed::packet::{PROTOCOL_TCP, PROTOCOL_UDP, Tcp};

use super::flow::{
    BRIDGE_MAC, CLIENT, Inner, PERMIT_NS, PROTOCOLS, SEEN, SERVER, blank, pending, permit,
    permitting, plain, to_service, tuple,
};
use crate::check::{Case, check};
use crate::flow_tables::{FAR, FlowTables, JUST_NOW, NEVER, PAST, at};
use crate::lab::{Lab, monotonic_ns, stay_on_one_cpu};
use crate::packets::Outer;
use crate::sk_buff::SkBuff;
use crate::tables::{MARK_BIT, Tables};
use crate::world::{OTHER_MAC, VTEP_B};

/// Where the note is: a program run starts with a packet whose hash is 0.
const NO_HASH: u32 = 0;
/// What netfilter says of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Said {
    /// Part of an established connection.
    Accepted,
    /// Not that.
    Passed,
}

/// The pod has sent `pod` just now, and it comes to the overlay as `inner`.
fn learning(lab: &Lab, name: &str, said: Said, pod: FlowTuple, inner: &Inner) -> Case {
    let mut tables = permitting(lab);
    let note = pending(lab, pod, JUST_NOW);
    tables.flows.pending.set(NO_HASH, note);
    let mark = match said {
        Said::Accepted => MARK_BIT | 5,
        Said::Passed => !MARK_BIT,
    };
    Case::encapped(
        name,
        lab,
        &inner.clone().routed().bytes(),
        &Outer::to_node_b(),
    )
    .with(|before| *before = tables)
    .in_context(SkBuff {
        mark,
        ..SkBuff::default()
    })
    .expecting(|expected| expected.learned = None)
}

/// The case in its flow's usual form: the pod sends to the Service.
fn usual(lab: &Lab, name: &str, said: Said, protocol: u8) -> Case {
    let inner = Inner::sent(&plain(protocol));
    learning(lab, name, said, to_service(protocol), &inner)
}

impl Case {
    fn holding(self, permit: Permit) -> Self {
        self.with(|tables| tables.flows.file(permit))
    }

    /// And counted as learned.
    fn learned(self) -> Self {
        let length = self.packet.len() as u64;
        self.expecting(|expected| expected.beside.push((Reason::Learned, length)))
    }
}

/// The permit that comes of a first acceptance.
fn fresh(lab: &Lab, pod: FlowTuple, wire: FlowTuple) -> Permit {
    Permit {
        out_until_ns: at(PERMIT_NS),
        probe_out_at_ns: at(PERMIT_NS / 2),
        since_ns: at(0),
        vtep: VTEP_B,
        vtep_generation: lab.tables().vteps[VTEP_B as usize].generation,
        sent_to_mac: BRIDGE_MAC,
        ..blank(lab, pod, wire)
    }
}

#[test]
fn an_accepted_packet_makes_a_permit_with_its_nat() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        for (name, seen) in SEEN {
            let (pod, wire) = (tuple(protocol, CLIENT, seen), plain(protocol));
            let inner = Inner::sent(&wire);
            let case = || learning(&lab, name, Said::Accepted, pod, &inner).learned();
            let made = fresh(&lab, pod, wire);
            check(&lab, &case().then(|flows| flows.file(made)));
            // From now on one that is not accepted ends it, however soon it comes.
            let begun =
                case().with(|tables| tables.flows.pending.at(&NO_HASH).mapped_ns = JUST_NOW);
            check(
                &lab,
                &begun.then(|flows| {
                    flows.pending.at(&NO_HASH).mapped_ns = 0;
                    flows.file(made);
                }),
            );
        }
    }
}

#[test]
fn a_packet_that_is_not_accepted_leaves_what_it_went_out_as() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let wire = plain(protocol);
        let inner = Inner::sent(&wire);
        for (name, seen) in SEEN {
            let pod = tuple(protocol, CLIENT, seen);
            let case = || learning(&lab, name, Said::Passed, pod, &inner);
            check(&lab, &case().then(|flows| flows.begin(NO_HASH, wire)));
            for before in [wire, pod, tuple(protocol, SERVER, CLIENT)] {
                let again = case().with(|tables| {
                    let note = tables.flows.pending.at(&NO_HASH);
                    (note.wire, note.mapped_ns) = (before, PAST);
                    (note.out_until_ns, note.vtep, note.vtep_generation) = (FAR, 7, 7);
                });
                check(&lab, &again.then(|flows| flows.begin(NO_HASH, wire)));
            }
        }
    }
}

/// A flow's beginning was let out a moment ago, its next packet is not accepted, and it has a
/// permit all the same.
fn noted(lab: &Lab, protocol: u8, out_until_ns: u64) -> (Permit, Case) {
    let (pod, wire) = (to_service(protocol), plain(protocol));
    let held = permit(lab, pod, wire);
    let case = usual(lab, "noted a moment ago", Said::Passed, protocol);
    let case = case.with(|tables| {
        tables.flows.begin(NO_HASH, wire);
        let note = tables.flows.pending.at(&NO_HASH);
        (note.mapped_ns, note.out_until_ns) = (JUST_NOW, out_until_ns);
    });
    (held, case.holding(held))
}

/// A flow that nobody answers must not cost a look at its permit with every packet.
#[test]
fn of_many_that_are_not_accepted_one_in_a_millisecond_is_looked_at() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let (_, case) = noted(&lab, protocol, 0);
        // A run may take more than a millisecond now and then.
        let passed_over = (0..50).any(|_| case.comes_true(&lab));
        assert!(passed_over, "every packet is looked at");
    }
}

#[test]
fn what_was_accepted_is_taken_back_however_soon() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let (held, case) = noted(&lab, protocol, FAR);
        let ended = (Reason::Ended, 0);
        let case = case.expecting(|expected| expected.beside.push(ended));
        check(
            &lab,
            &case.then(|flows| {
                flows.forget(&held);
                flows.begin(NO_HASH, plain(protocol));
            }),
        );
    }
}

/// The beginning of a connection makes no permit, whatever mark it carries. But what netfilter
/// takes for the answer to a SYN is accepted in that direction.
#[test]
fn a_syn_makes_no_permit_and_its_answer_half_of_one() {
    let Some(lab) = Lab::open() else { return };
    let wire = plain(PROTOCOL_TCP);
    let generation = lab.tables().vteps[VTEP_B as usize].generation;
    for (name, seen) in SEEN {
        let pod = tuple(PROTOCOL_TCP, CLIENT, seen);
        for flags in [Tcp::SYN, Tcp::SYN | Tcp::PSH, Tcp::SYN | Tcp::ACK] {
            for said in [Said::Accepted, Said::Passed] {
                let inner = Inner::sent(&wire).flagged(flags);
                let case = || learning(&lab, name, said, pod, &inner);
                let begun = |flows: &mut FlowTables| {
                    flows.begin(NO_HASH, wire);
                    if said == Said::Accepted && flags & Tcp::ACK != 0 {
                        let note = flows.pending.at(&NO_HASH);
                        note.out_until_ns = at(PERMIT_NS);
                        (note.vtep, note.vtep_generation) = (VTEP_B, generation);
                    }
                };
                check(&lab, &case().then(begun));
                let held = permit(&lab, pod, wire);
                let case = case().holding(held).then(begun);
                check(
                    &lab,
                    &if said == Said::Accepted {
                        case
                    } else {
                        let ended = (Reason::Ended, 0);
                        case.expecting(|expected| expected.beside.push(ended))
                            .then(|flows| flows.forget(&held))
                    },
                );
            }
        }
    }
}

#[test]
fn nothing_is_learned_from_another_packets_note() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let wire = plain(protocol);
        let inner = Inner::sent(&wire);
        let other = protocol ^ PROTOCOL_TCP ^ PROTOCOL_UDP;
        let (address, port) = CLIENT;
        let strangers = [
            ("another address", tuple(protocol, (SERVER.0, port), SERVER)),
            ("another port", tuple(protocol, (address, port + 1), SERVER)),
            ("another protocol", tuple(other, CLIENT, SERVER)),
        ];
        for said in [Said::Accepted, Said::Passed] {
            for (name, pod) in strangers {
                check(&lab, &learning(&lab, name, said, pod, &inner));
            }
            let none = usual(&lab, "no note", said, protocol);
            check(
                &lab,
                &none.with(|tables| tables.flows.pending.remove(&NO_HASH)),
            );
            let old = usual(&lab, "old note", said, protocol);
            let written_ns = monotonic_ns() - 100_000_001;
            let old = old.with(|tables| tables.flows.pending.at(&NO_HASH).written_ns = written_ns);
            check(&lab, &old);
        }
        // 100 ms are not too old, as far as a test can be that quick.
        let made = fresh(&lab, to_service(protocol), wire);
        let young = usual(&lab, "young", Said::Accepted, protocol).learned();
        let written_ns = JUST_NOW - 50_000_000;
        let young = young.with(|tables| tables.flows.pending.at(&NO_HASH).written_ns = written_ns);
        check(&lab, &young.then(|flows| flows.file(made)));
    }
}

#[test]
fn an_acceptance_renews_the_permit() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let (pod, wire) = (to_service(protocol), plain(protocol));
        // The way in is asked for next, unless it was accepted within a quarter of the time.
        let half = monotonic_ns() + PERMIT_NS / 4 * 3;
        let whole = monotonic_ns() + PERMIT_NS;
        for (in_until_ns, probe_in_at_ns) in [(0, at(0)), (half, at(0)), (whole, NEVER)] {
            let mut held = permit(&lab, pod, wire);
            (held.out_until_ns, held.renewals) = (PAST, 7);
            (held.in_until_ns, held.probe_in_at_ns) = (in_until_ns, NEVER);
            (held.vtep, held.vtep_generation) = (9, 9);
            held.sent_to_mac = OTHER_MAC;
            let case = usual(&lab, "renewed", Said::Accepted, protocol).holding(held);
            let case = case.learned().then(|flows| {
                let permit = flows.permits.at(&pod);
                *permit = Permit {
                    renewals: 8,
                    in_until_ns,
                    probe_in_at_ns,
                    since_ns: PAST,
                    look_at_ns: permit.look_at_ns,
                    pod_mac: permit.pod_mac,
                    gateway_mac: permit.gateway_mac,
                    ..fresh(&lab, pod, wire)
                };
            });
            check(&lab, &case);
        }

        let mut foreign = permit(&lab, pod, wire);
        foreign.ifindex = lab.other_veth;
        let case = usual(&lab, "another veth's", Said::Accepted, protocol);
        check(&lab, &case.holding(foreign));
    }
}

/// Under pressure the map of wire tuples throws one out that is in use: without it what comes in
/// would be slow for as long as the permit lives.
#[test]
fn a_renewal_files_the_wire_tuple_again() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let (pod, wire) = (to_service(protocol), plain(protocol));
        let case = usual(&lab, "thrown out", Said::Accepted, protocol);
        let case = case.holding(permit(&lab, pod, wire)).learned();
        let case = case.with(|tables| tables.flows.wire.remove(&wire));
        check(
            &lab,
            &case.then(|flows| {
                flows.wire.set(wire, Mapping::new(pod, lab.veth, PAST));
                let permit = flows.permits.at(&pod);
                permit.renewals += 1;
                permit.out_until_ns = at(PERMIT_NS);
                permit.probe_out_at_ns = at(PERMIT_NS / 2);
            }),
        );
    }
}

#[test]
fn another_tuple_on_the_wire_replaces_the_permit() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let (pod, wire) = (to_service(protocol), plain(protocol));
        let before = tuple(protocol, CLIENT, (SERVER.0, SERVER.1 + 1));
        for before in [before, pod] {
            let held = permit(&lab, pod, before);
            let case = usual(&lab, "replaced", Said::Accepted, protocol).holding(held);
            let made = fresh(&lab, pod, wire);
            check(
                &lab,
                &case.learned().then(|flows| {
                    flows.forget(&held);
                    flows.file(made);
                }),
            );
        }
    }
}

#[test]
fn a_packet_that_is_no_longer_accepted_ends_the_permit() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let (pod, wire) = (to_service(protocol), plain(protocol));
        let held = permit(&lab, pod, wire);
        let case = usual(&lab, "ended", Said::Passed, protocol).holding(held);
        let case = case.expecting(|expected| expected.beside.push((Reason::Ended, 0)));
        check(
            &lab,
            &case.then(|flows| {
                flows.forget(&held);
                flows.begin(NO_HASH, wire);
            }),
        );

        let mut kept = [held; 2];
        kept[0].ifindex = lab.other_veth;
        (kept[1].state, kept[1].tombstone_until_ns) = (PERMIT_TOMBSTONE, FAR);
        for held in kept {
            let case = usual(&lab, "kept", Said::Passed, protocol).holding(held);
            check(&lab, &case.then(|flows| flows.begin(NO_HASH, wire)));
        }
    }
}

#[test]
fn a_tombstone_keeps_acceptance_from_being_learned() {
    let Some(lab) = Lab::open() else { return };
    let (pod, wire) = (to_service(PROTOCOL_TCP), plain(PROTOCOL_TCP));
    let mut held = permit(&lab, pod, wire);
    (held.state, held.tombstone_until_ns) = (PERMIT_TOMBSTONE, FAR);
    let case = usual(&lab, "stands", Said::Accepted, PROTOCOL_TCP);
    check(&lab, &case.holding(held));
    held.tombstone_until_ns = PAST;
    let case = usual(&lab, "lapsed", Said::Accepted, PROTOCOL_TCP).holding(held);
    let made = fresh(&lab, pod, wire);
    check(&lab, &case.learned().then(|flows| flows.file(made)));
    for flags in [Tcp::FIN, Tcp::RST, Tcp::FIN | Tcp::ACK] {
        for said in [Said::Accepted, Said::Passed] {
            let inner = Inner::sent(&wire).flagged(flags);
            let live = permit(&lab, pod, wire);
            let case = learning(&lab, "closing", said, pod, &inner).holding(live);
            check(&lab, &case);
        }
    }
}

/// Where more flows are in use than there is room for, making permits must not be all that is
/// done: with a pace of 4.3 s a CPU is 10 s ahead after three.
#[test]
fn permits_are_made_no_faster_than_their_pace() {
    let Some(lab) = Lab::open() else { return };
    stay_on_one_cpu();
    let (pod, wire) = (to_service(PROTOCOL_UDP), plain(PROTOCOL_UDP));
    let paced = |name: &str| {
        let case = usual(&lab, name, Said::Accepted, PROTOCOL_UDP);
        case.with(|tables| tables.config.permit_pace_ns = u32::MAX)
    };
    for name in ["first", "second", "third"] {
        let made = fresh(&lab, pod, wire);
        check(&lab, &paced(name).learned().then(|flows| flows.file(made)));
    }
    let refused = paced("fourth").expecting(|expected| {
        expected.beside.push((Reason::NoRoomForPermit, 0));
    });
    check(&lab, &refused);
    let held = permit(&lab, pod, wire);
    let case = paced("renewed").holding(held).learned();
    check(
        &lab,
        &case.then(|flows| {
            let permit = flows.permits.at(&pod);
            permit.renewals += 1;
            permit.out_until_ns = at(PERMIT_NS);
            permit.probe_out_at_ns = at(PERMIT_NS / 2);
            permit.sent_to_mac = BRIDGE_MAC;
        }),
    );
}

#[test]
fn what_may_have_no_permits_learns_none() {
    let Some(lab) = Lab::open() else { return };
    let never_fast = VETH_FLAG_ATTACHED | VETH_FLAG_NEVER_FAST;
    let reserved = 0;
    for protocol in PROTOCOLS {
        let (pod, wire) = (to_service(protocol), plain(protocol));
        let made = fresh(&lab, pod, wire);
        let without = |name: &str, change: &dyn Fn(&mut Tables)| {
            let case = usual(&lab, name, Said::Accepted, protocol);
            case.with(|tables| change(tables))
        };
        let case = without("no conntrack settings", &|tables| {
            tables.config.flags &= !CONFIG_FLAG_TCP_PERMITS;
        });
        check(
            &lab,
            &if protocol == PROTOCOL_TCP {
                case
            } else {
                case.learned().then(|flows| flows.file(made))
            },
        );

        let case = without("never fast", &|tables| {
            let flags = never_fast;
            let veth = VethFlags { flags, reserved };
            tables.flows.veth_flags.set(lab.veth, veth);
        });
        let length = case.packet.len() as u64;
        let case = case.expecting(|expected| expected.beside.push((Reason::NeverFast, length)));
        check(&lab, &case);
        let case = without("another is never fast", &|tables| {
            let flags = never_fast;
            let veth = VethFlags { flags, reserved };
            tables.flows.veth_flags.set(lab.other_veth, veth);
            let flags = VETH_FLAG_ATTACHED;
            let veth = VethFlags { flags, reserved };
            tables.flows.veth_flags.set(lab.veth, veth);
        });
        check(&lab, &case.learned().then(|flows| flows.file(made)));

        check(
            &lab,
            &without("stale", &|tables| {
                tables.config.flags |= CONFIG_FLAG_STALE;
            }),
        );
        check(
            &lab,
            &without("off", &|tables| {
                tables.config.fast_path = FastPath::Off as u32;
            }),
        );
    }
}
