//! Mode `direct` out of a pod: a flow is direct from its first packet, or not at all.

use twill_abi::{
    FastPath, FlowTuple, Mapping, PERMIT_FLAG_DIRECT, PERMIT_FLAG_UNANSWERED, Permit, Program,
    Reason, VETH_FLAG_NEVER_FAST, VethFlags,
};
use twill_testbed::packet::{Ethernet, PROTOCOL_TCP, PROTOCOL_UDP, Tcp};
use twill_testbed::world::{VTEP_MAC_A, VTEP_MAC_B};

use super::flow::{
    BRIDGE_MAC, CLIENT, Inner, PERMIT_NS, POD_MAC, PROTOCOLS, SERVICE, blank, out_of_pod, pending,
    permit, permitting, plain, tuple,
};
use super::from_pod::carried;
use crate::check::{Case, REDIRECT, check};
use crate::flow_tables::{FAR, ITS_HASH, NEVER, PAST, at};
use crate::lab::{Lab, monotonic_ns};
use crate::sk_buff::SkBuff;
use crate::tables::Tables;
use crate::world::VTEP_B;

/// How long a direct record outlives its last packet, nanoseconds.
pub(crate) const IDLE_NS: u64 = 3_600_000_000_000;

/// The named world in the mode `direct`.
pub(crate) fn direct(lab: &Lab) -> Tables {
    let mut tables = permitting(lab);
    tables.config.fast_path = FastPath::Direct as u32;
    tables
}

/// The same with these records.
pub(crate) fn direct_holding(lab: &Lab, permits: &[Permit]) -> Tables {
    let mut tables = direct(lab);
    for permit in permits {
        tables.flows.file(*permit);
    }
    tables
}

/// What the first packet of a flow makes.
pub(crate) fn record(lab: &Lab, flow: FlowTuple) -> Permit {
    Permit {
        out_until_ns: at(IDLE_NS),
        in_until_ns: at(IDLE_NS),
        probe_out_at_ns: NEVER,
        probe_in_at_ns: 0,
        since_ns: at(0),
        vtep: VTEP_B,
        vtep_generation: lab.tables().vteps[VTEP_B as usize].generation,
        pod_mac: POD_MAC,
        gateway_mac: BRIDGE_MAC,
        sent_to_mac: BRIDGE_MAC,
        flags: PERMIT_FLAG_DIRECT,
        ..blank(lab, flow, flow)
    }
}

/// A record of a while ago that is not old, and whose veth was there a moment ago.
pub(crate) fn known(lab: &Lab, flow: FlowTuple) -> Permit {
    Permit {
        out_until_ns: FAR,
        in_until_ns: FAR,
        probe_in_at_ns: NEVER,
        since_ns: PAST,
        ..record(lab, flow)
    }
}

/// The flow's first packet.
pub(crate) fn first(flow: &FlowTuple) -> Inner {
    Inner::sent(flow).flagged(Tcp::SYN)
}

fn slow(name: &str, tables: Tables, inner: &Inner, reason: Reason) -> Case {
    let frame = out_of_pod(&inner.bytes());
    Case::passed(name, Program::FromPod, tables, frame, reason)
}

/// The packet is passed on and noted.
fn noted(lab: &Lab, name: &str, tables: Tables, inner: &Inner, reason: Reason) -> Case {
    let flow = tuple(
        inner.ip.protocol,
        (inner.ip.source, inner.udp.source_port),
        (inner.ip.destination, inner.udp.destination_port),
    );
    let note = pending(lab, flow, at(0));
    let case = slow(name, tables, inner, reason);
    case.then(|flows| flows.pending.set(ITS_HASH, note))
}

#[test]
fn the_first_packet_makes_a_record_and_goes_by_it() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let sent = first(&flow);
        let case = carried("first", direct(&lab), &sent, &sent.clone().routed());
        let made = record(&lab, flow);
        let output = check(&lab, &case.then(|flows| flows.file(made)));
        // The next ones find it.
        for flags in [Tcp::ACK, Tcp::SYN | Tcp::ACK, Tcp::FIN | Tcp::ACK, Tcp::RST] {
            let sent = Inner::sent(&flow).flagged(flags);
            let tables = output.tables.clone();
            check(
                &lab,
                &carried("next", tables, &sent, &sent.clone().routed()),
            );
        }
    }
}

#[test]
fn what_the_pod_sends_answers_the_syn_that_came_direct() {
    let Some(lab) = Lab::open() else { return };
    let flow = plain(PROTOCOL_TCP);
    let answered = known(&lab, flow);
    let mut unanswered = answered;
    unanswered.flags |= PERMIT_FLAG_UNANSWERED;
    let sent = Inner::sent(&flow).flagged(Tcp::SYN | Tcp::ACK);
    let tables = direct_holding(&lab, &[unanswered]);
    let case = carried("SYN-ACK", tables, &sent, &sent.clone().routed());
    check(&lab, &case.then(|flows| flows.file(answered)));
}

/// The way to the VTEP is not confirmed: the kernel's device carries the packet, past the stack
/// that has never seen the flow.
fn by_device(tables: Tables, inner: &Inner) -> Case {
    let mut case = slow("by the device", tables, inner, Reason::OuterPermitExpired);
    let bytes = case.packet.len() as u64;
    case.expected.verdict = REDIRECT;
    case.expected.packet =
        Ethernet::ipv4(VTEP_MAC_A, VTEP_MAC_B).over(&inner.clone().routed().bytes());
    case.expected.beside = vec![(Reason::Fast, bytes)];
    case
}

#[test]
fn what_bpf_may_not_encapsulate_goes_to_the_device() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let mut tables = direct(&lab);
        tables.config.outer_permit_ns = PERMIT_NS;
        let made = record(&lab, flow);
        let case = by_device(tables.clone(), &first(&flow));
        check(&lab, &case.then(|flows| flows.file(made)));
        tables.flows.file(known(&lab, flow));
        check(&lab, &by_device(tables, &Inner::sent(&flow)));
    }
}

#[test]
fn a_connection_in_its_middle_is_the_stacks() {
    let Some(lab) = Lab::open() else { return };
    let flow = plain(PROTOCOL_TCP);
    for (flags, reason) in [
        (Tcp::ACK, Reason::NoPermit),
        (Tcp::ACK | Tcp::PSH, Reason::NoPermit),
        (Tcp::SYN | Tcp::ACK, Reason::Opening),
    ] {
        let inner = Inner::sent(&flow).flagged(flags);
        check(&lab, &noted(&lab, "middle", direct(&lab), &inner, reason));
    }
    for flags in [Tcp::FIN, Tcp::RST, Tcp::FIN | Tcp::SYN] {
        let inner = Inner::sent(&flow).flagged(flags);
        check(&lab, &slow("end", direct(&lab), &inner, Reason::Closing));
    }
}

/// Why a flow's first packet is slow where the flow cannot be direct.
fn not_direct(protocol: u8) -> Reason {
    if protocol == PROTOCOL_TCP {
        Reason::Opening
    } else {
        Reason::NoPermit
    }
}

#[test]
fn what_the_stack_or_a_nat_owns_is_never_direct() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let pod = tuple(protocol, CLIENT, SERVICE);
        let owned = |name: &str, own: &dyn Fn(&mut Tables)| {
            let mut tables = direct(&lab);
            own(&mut tables);
            let reason = not_direct(protocol);
            check(&lab, &noted(&lab, name, tables, &first(&flow), reason));
        };
        owned("delivered by the stack", &|tables| {
            let entry = Mapping::new(flow, lab.veth, PAST);
            tables.flows.mappings.set(flow, entry);
        });
        owned("a NAT's tuple on the wire", &|tables| {
            let entry = Mapping::new(pod, lab.veth, PAST);
            tables.flows.wire.set(flow, entry);
        });
    }
    // A flow with a permit goes by it, as in the other mode.
    let flow = plain(PROTOCOL_UDP);
    let sent = first(&flow);
    let tables = direct_holding(&lab, &[permit(&lab, flow, flow)]);
    check(
        &lab,
        &carried("a permit", tables, &sent, &sent.clone().routed()),
    );
}

#[test]
fn services_and_veths_that_are_never_fast_have_no_records() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let reason = not_direct(protocol);
        let case = noted(&lab, "never", direct(&lab), &first(&flow), reason);
        check(&lab, &case.with_never_fast(lab.veth));
        let service = first(&tuple(protocol, CLIENT, SERVICE));
        check(
            &lab,
            &noted(&lab, "Service", direct(&lab), &service, reason),
        );
    }
}

impl Case {
    /// With a veth that is never fast.
    pub(crate) fn with_never_fast(self, ifindex: u32) -> Self {
        let flags = VETH_FLAG_NEVER_FAST;
        let veth = VethFlags { flags, reserved: 0 };
        let mut case = self.with(|tables| tables.flows.veth_flags.set(ifindex, veth));
        if let Some(flows) = &mut case.expected.flows {
            flows.veth_flags.set(ifindex, veth);
        }
        case
    }
}

#[test]
fn a_record_is_kept_while_it_is_used() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let sent = Inner::sent(&flow);
        let mut held = known(&lab, flow);
        held.out_until_ns = monotonic_ns() + IDLE_NS / 2 - 1;
        let tables = direct_holding(&lab, &[held]);
        let case = carried("half", tables, &sent, &sent.clone().routed());
        check(
            &lab,
            &case.then(|flows| {
                let permit = flows.permits.at(&flow);
                permit.out_until_ns = at(IDLE_NS);
                permit.in_until_ns = at(IDLE_NS);
            }),
        );
        // One write in half the idle time.
        held.out_until_ns = monotonic_ns() + IDLE_NS / 2 + 60_000_000_000;
        let tables = direct_holding(&lab, &[held]);
        check(
            &lab,
            &carried("more", tables, &sent, &sent.clone().routed()),
        );
    }
}

#[test]
fn a_record_belongs_to_its_veth() {
    let Some(lab) = Lab::open() else { return };
    let context = SkBuff {
        ifindex: lab.other_veth,
        ..SkBuff::default()
    };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let inner = Inner::sent(&flow);
        let tables = direct_holding(&lab, &[known(&lab, flow)]);
        let case = noted(&lab, "forged", tables, &inner, Reason::ForeignVeth).in_context(context);
        check(
            &lab,
            &case.then(|flows| {
                flows.pending.at(&ITS_HASH).ifindex = lab.other_veth;
            }),
        );
    }
}

/// The lease has moved, or the flow was silent for too long: the record goes, a datagram makes
/// the next one, and a connection in its middle is the stack's, which may learn a permit of it.
#[test]
fn a_spent_record_makes_room() {
    let Some(lab) = Lab::open() else { return };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let fresh = known(&lab, flow);
        let moved = Permit {
            vtep_generation: fresh.vtep_generation + 1,
            ..fresh
        };
        let silent = Permit {
            out_until_ns: PAST,
            in_until_ns: PAST,
            ..fresh
        };
        let sent = Inner::sent(&flow);
        for spent in [moved, silent] {
            let tables = direct_holding(&lab, &[spent]);
            if protocol == PROTOCOL_UDP {
                let case = carried("again", tables, &sent, &sent.clone().routed());
                let made = record(&lab, flow);
                check(&lab, &case.then(|flows| flows.file(made)));
            } else {
                let case = noted(&lab, "the stack's", tables, &sent, Reason::NoPermit);
                check(&lab, &case.then(|flows| flows.forget(&spent)));
            }
        }
    }
}
