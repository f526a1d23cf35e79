//! `from_pod` without a permit that carries: the packet goes on as it came, for a reason, and a
//! note of it is left where `to_overlay` may learn from it.

use twill_abi::{
    CONFIG_FLAG_STALE, FastPath, FlowTuple, Mode, PERMIT_TOMBSTONE, Permit, Program, Reason,
};
use twill_testbed::packet::{
    ETHER_TYPE_ARP, ETHER_TYPE_IPV6, Ethernet, MORE_FRAGMENTS, PROTOCOL_TCP, PROTOCOL_UDP,
};

use super::flow::{
    BRIDGE_MAC, CLIENT, Inner, PERMIT_NS, POD_MAC, PROTOCOLS, SERVER, holding, out_of_pod, pending,
    permit, permitting, plain, to_service, tuple,
};
use super::from_pod::carried;
use crate::check::{Case, check};
use crate::flow_tables::{FAR, ITS_HASH, NEVER, PAST, at};
use crate::lab::Lab;
use crate::packets::echo;
use crate::sk_buff::SkBuff;
use crate::tables::Tables;
use crate::world::{
    OTHER_MAC, POD_A1, VTEP_B, VTEP_NARROW, VTEP_OUTSIDE, VTEP_SIDE, VTEP_SILENT, VTEP_UNREACHABLE,
    VTEP_UNUSED,
};

/// The packet is passed on, and noted nowhere.
fn slow(name: &str, tables: Tables, packet: &[u8], reason: Reason) -> Case {
    let frame = out_of_pod(packet);
    Case::passed(name, Program::FromPod, tables, frame, reason)
}

impl Case {
    /// And noted as what our pod sent.
    fn noted(self, lab: &Lab, flow: FlowTuple) -> Self {
        let note = pending(lab, flow, at(0));
        self.then(|flows| flows.pending.set(ITS_HASH, note))
    }
}

/// With this permit the packet of its flow is passed on and noted, and the permit stays.
fn refused(lab: &Lab, name: &str, reason: Reason, change: impl Fn(&mut Permit)) {
    for protocol in PROTOCOLS {
        let flow = to_service(protocol);
        let mut held = permit(lab, flow, plain(protocol));
        change(&mut held);
        let packet = Inner::sent(&flow).bytes();
        let case = slow(name, holding(lab, &[held]), &packet, reason);
        check(lab, &case.noted(lab, flow));
    }
}

#[test]
fn what_no_permit_accepts_is_slow_and_noted() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let packet = Inner::sent(&flow).bytes();
        let case = slow("none", permitting(&lab), &packet, Reason::NoPermit);
        check(&lab, &case.noted(&lab, flow));
        let others = [
            tuple(protocol, (POD_A1, CLIENT.1 + 1), SERVER),
            tuple(protocol, CLIENT, (SERVER.0, SERVER.1 + 1)),
            tuple(protocol ^ PROTOCOL_TCP ^ PROTOCOL_UDP, CLIENT, SERVER),
        ];
        let others = others.map(|other| permit(&lab, other, other));
        let case = slow("others", holding(&lab, &others), &packet, Reason::NoPermit);
        check(&lab, &case.noted(&lab, flow));
    }
    refused(
        &lab,
        "never accepted out",
        Reason::PermitExpired,
        |permit| {
            permit.out_until_ns = 0;
        },
    );
    refused(&lab, "run out, out", Reason::PermitExpired, |permit| {
        permit.out_until_ns = PAST;
    });
    refused(&lab, "run out, in", Reason::PermitExpired, |permit| {
        permit.in_until_ns = PAST;
    });
}

#[test]
fn a_permit_of_another_veth_is_not_this_pods() {
    let Some(lab) = Lab::open() else { return };
    let other = lab.other_veth;
    refused(&lab, "another veth", Reason::ForeignVeth, |permit| {
        permit.ifindex = other;
    });
    refused(&lab, "another MAC address", Reason::ForeignVeth, |permit| {
        permit.sent_to_mac = OTHER_MAC;
    });
}

#[test]
fn a_permit_of_a_vtep_that_changed_is_stale() {
    let Some(lab) = Lab::open() else { return };
    refused(&lab, "generation", Reason::StaleVtep, |permit| {
        permit.vtep_generation += 1;
    });
    for (name, vtep) in [("cleared", VTEP_UNUSED), ("outside", VTEP_OUTSIDE)] {
        refused(&lab, name, Reason::StaleVtep, |permit| {
            (permit.vtep, permit.vtep_generation) = (vtep, 0);
        });
    }
}

#[test]
fn a_vtep_that_cannot_be_reached_is_left_to_the_kernel() {
    let Some(lab) = Lab::open() else { return };
    for (vtep, reason) in [
        (VTEP_SILENT, Reason::NextHopUnresolved),
        (VTEP_UNREACHABLE, Reason::NextHopUnusable),
        (VTEP_SIDE, Reason::NextHopElsewhere),
    ] {
        let generation = lab.tables().vteps[vtep as usize].generation;
        refused(&lab, "out of reach", reason, |permit| {
            (permit.vtep, permit.vtep_generation) = (vtep, generation);
        });
    }
}

#[test]
fn one_packet_out_asks_again_and_the_others_stay_fast() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let (pod, wire) = (to_service(protocol), plain(protocol));
        let mut held = permit(&lab, pod, wire);
        held.probe_out_at_ns = PAST;
        let (sent, wanted) = (Inner::sent(&pod), Inner::sent(&wire).routed());
        let case = slow("asks", holding(&lab, &[held]), &sent.bytes(), Reason::Probe);
        let case = case.noted(&lab, pod).then(|flows| {
            let permit = flows.permits.at(&pod);
            permit.probe_out_at_ns = at(PERMIT_NS / 4);
            permit.probes += 1;
        });
        let output = check(&lab, &case);
        check(&lab, &carried("goes on", output.tables, &sent, &wanted));
    }
}

#[test]
fn the_outer_permit_and_the_path_are_asked_before_a_probe_is_spent() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let mut held = permit(&lab, flow, flow);
        held.probe_out_at_ns = PAST;
        let sent = Inner::sent(&flow);
        let outer = |tables: &mut Tables, until_ns, probe_at_ns| {
            tables.config.outer_permit_ns = PERMIT_NS;
            let state = &mut tables.states[VTEP_B as usize];
            (state.outer_permit_until_ns, state.outer_probe_at_ns) = (until_ns, probe_at_ns);
        };
        let tables = holding(&lab, &[held]);
        let reason = Reason::OuterPermitExpired;
        let case = slow("no outer permit", tables.clone(), &sent.bytes(), reason);
        let case = case.with(|tables| outer(tables, PAST, NEVER));
        check(&lab, &case.noted(&lab, flow));

        let case = slow("asks", tables.clone(), &sent.bytes(), Reason::OuterProbe);
        let case = case.with(|tables| outer(tables, NEVER, PAST));
        // The packet that asks is the one that `to_overlay` leaves to the kernel, so only that
        // program spends the probe.
        let output = check(&lab, &case.noted(&lab, flow));
        let state = output.tables.states[VTEP_B as usize];
        assert_eq!(state.outer_probe_at_ns, PAST, "{state:?}");

        // 1500 bytes on the uplink, less 50 for the outer headers, less both inner headers.
        let headers = if protocol == PROTOCOL_UDP { 28 } else { 40 };
        let long = sent.clone().with(|inner| {
            inner.payload = crate::packets::payload(1_451 - headers);
        });
        let case = slow("too long", tables, &long.bytes(), Reason::OverPathMtu);
        check(&lab, &case.noted(&lab, flow));
        let just = long.with(|inner| inner.payload.truncate(1_450 - headers));
        let tables = holding(&lab, &[permit(&lab, flow, flow)]);
        check(
            &lab,
            &carried("just fits", tables, &just, &just.clone().routed()),
        );
    }
}

#[test]
fn the_path_of_the_permits_own_vtep_is_what_counts() {
    let Some(lab) = Lab::open() else { return };
    let flow = plain(PROTOCOL_TCP);
    let generation = lab.tables().vteps[VTEP_NARROW as usize].generation;
    let mut held = permit(&lab, flow, flow);
    (held.vtep, held.vtep_generation) = (VTEP_NARROW, generation);
    let tables = holding(&lab, &[held]);
    // NARROW_MTU, less 50.
    let long = Inner::sent(&flow).with(|inner| inner.payload = vec![7; 1_351 - 40]);
    let case = slow("too long", tables, &long.bytes(), Reason::OverPathMtu);
    let case = case.expecting(|expected| expected.unjudged = Some(VTEP_NARROW));
    check(&lab, &case.noted(&lab, flow));
}

#[test]
fn a_tombstone_stands_for_its_time() {
    let Some(lab) = Lab::open() else { return };
    let tombstone = |until_ns| {
        move |permit: &mut Permit| {
            (permit.state, permit.tombstone_until_ns) = (PERMIT_TOMBSTONE, until_ns);
        }
    };
    refused(&lab, "stands", Reason::Tombstone, tombstone(FAR));
    refused(&lab, "lapsed", Reason::NoPermit, tombstone(PAST));
    // Nothing but "live" carries.
    refused(&lab, "no state", Reason::NoPermit, |permit| {
        permit.state = 0;
    });
}

/// What is never fast, and of which nothing can be learned.
#[test]
fn what_cannot_be_fast_is_not_noted() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let tables = holding(&lab, &[permit(&lab, flow, flow)]);
        let passed = |name: &str, reason, change: &dyn Fn(&mut Inner)| {
            let packet = Inner::sent(&flow).with(|inner| change(inner)).bytes();
            check(&lab, &slow(name, tables.clone(), &packet, reason));
        };
        for ttl in [0, 1] {
            passed("TTL", Reason::LastHop, &|inner| inner.ip.ttl = ttl);
        }
        passed("local", Reason::LocalDestination, &|inner| {
            inner.ip.destination = POD_A1;
        });
        passed("options", Reason::IpOptions, &|inner| {
            inner.ip.options = vec![1; 4];
        });
        for fragment in [MORE_FRAGMENTS, 1, MORE_FRAGMENTS | 0xb9] {
            passed("fragment", Reason::Fragment, &|inner| {
                inner.ip.fragment = fragment;
            });
        }
        passed("too long", Reason::IpMalformed, &|inner| {
            inner.ip.total_length = Some(1_000);
        });
        passed("IHL", Reason::IpMalformed, &|inner| inner.ip.ihl = Some(4));
        let headerless = Inner::sent(&flow).ip.over(&[0; 7]);
        let case = slow("short", tables.clone(), &headerless, Reason::Truncated);
        check(&lab, &case);
    }
    let ip = Inner::sent(&plain(PROTOCOL_TCP)).ip;
    let tables = permitting(&lab);
    let case = slow("ICMP", tables.clone(), &echo(&ip, 56), Reason::NotTransport);
    check(&lab, &case);
    for protocol in [0, 4, 41, 47, 50, 132, 255] {
        let other = twill_testbed::packet::Ipv4 {
            protocol,
            ..ip.clone()
        };
        let packet = other.over(&[0; 64]);
        let case = slow("protocol", tables.clone(), &packet, Reason::NotTransport);
        check(&lab, &case);
    }
    for ether_type in [ETHER_TYPE_ARP, ETHER_TYPE_IPV6] {
        let frame = Ethernet {
            ether_type,
            ..Ethernet::ipv4(POD_MAC, BRIDGE_MAC)
        }
        .over(&[0; 64]);
        let program = Program::FromPod;
        let case = Case::passed("no IPv4", program, tables.clone(), frame, Reason::NotIp);
        check(&lab, &case);
    }
}

#[test]
fn without_a_fast_path_nothing_is_looked_at() {
    let Some(lab) = Lab::open() else { return };
    let flow = plain(PROTOCOL_TCP);
    let packet = Inner::sent(&flow).bytes();
    let tables = holding(&lab, &[permit(&lab, flow, flow)]);
    let off = |name: &str, reason, change: &dyn Fn(&mut Tables)| {
        let case = slow(name, tables.clone(), &packet, reason).with(|tables| change(tables));
        check(&lab, &case);
    };
    off("off", Reason::FastPathOff, &|tables| {
        tables.config.fast_path = FastPath::Off as u32;
    });
    off("stale", Reason::FastPathOff, &|tables| {
        tables.config.flags |= CONFIG_FLAG_STALE;
    });
    off("kernel", Reason::ModeKernel, &|tables| {
        tables.config.mode = Mode::Kernel as u32;
    });
}

#[test]
fn a_note_is_renewed_in_its_place() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let packet = Inner::sent(&flow).bytes();
        let case = slow("first", permitting(&lab), &packet, Reason::NoPermit);
        let output = check(&lab, &case.noted(&lab, flow));
        let &hash = output.tables.flows.pending.keys().next().expect("a note");
        let again = |name: &str, mac, ifindex| {
            let note = twill_abi::Pending::new(&flow, ifindex, mac, at(0));
            let frame = Ethernet::ipv4(POD_MAC, mac).over(&packet);
            let tables = output.tables.clone();
            let case = Case::passed(name, Program::FromPod, tables, frame, Reason::NoPermit);
            let case = case.then(|flows| flows.pending.set(hash, note));
            let context = SkBuff {
                ifindex,
                ..case.context
            };
            check(&lab, &case.in_context(context));
        };
        again("the same", BRIDGE_MAC, lab.veth);
        again("another MAC address", OTHER_MAC, lab.veth);
        again("another veth", BRIDGE_MAC, lab.other_veth);
    }
}

/// What a pod's packet claims as its hash counts for nothing: the note goes by the tuple, and by a
/// seed that pods do not know.
#[test]
fn a_note_is_filed_under_the_hash_of_the_tuple_and_the_seed() {
    let Some(lab) = Lab::open() else { return };
    for seed in [0, 1, 0x5eed_5eed_5eed_5eed] {
        let flow = tuple(PROTOCOL_UDP, (POD_A1, 4000), SERVER);
        let mut tables = permitting(&lab);
        tables.config.flow_seed = seed;
        let case = slow(
            "noted",
            tables,
            &Inner::sent(&flow).bytes(),
            Reason::NoPermit,
        );
        let output = check(&lab, &case.noted(&lab, flow));
        let notes: Vec<_> = output.tables.flows.pending.keys().copied().collect();
        assert_eq!(notes, [flow.hash(seed)]);
    }
}
