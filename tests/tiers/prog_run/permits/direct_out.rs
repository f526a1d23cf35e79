//! Mode `direct` out of a pod: a flow is direct from its first packet, or not at all.

use std::net::Ipv4Addr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use twill_abi::maps::EXCLUDED;
use twill_abi::{
    Address, CONFIG_FLAG_EXCLUSIONS, FastPath, FlowTuple, HEARD_TICKS, LocalPod, Mapping,
    PERMIT_FLAG_DIRECT, PERMIT_FLAG_UNANSWERED, PERMIT_FLAG_UNHEARD, Permit, Program, Reason,
    VETH_FLAG_ATTACHED, VETH_FLAG_NEVER_FAST, VethFlags, VtepState,
};
use twill_testbed::packet::{Ethernet, PROTOCOL_TCP, PROTOCOL_UDP, Tcp};
use twill_testbed::world::{VTEP_MAC_A, VTEP_MAC_B};

use super::flow::{
    BRIDGE_MAC, CLIENT, Inner, PERMIT_NS, POD_MAC, PROTOCOLS, SERVER, SERVICE, Side, blank,
    out_of_pod, pending, permit, permitting, place, plain, tuple,
};
use super::from_pod::carried;
use crate::check::{Case, REDIRECT, check};
use crate::flow_tables::{FAR, ITS_HASH, NEVER, PAST, at};
use crate::lab::{Lab, OTHER_VETH, OVERLAY, ip, monotonic_ns};
use crate::packets::payload;
use crate::sk_buff::SkBuff;
use crate::tables::Tables;
use crate::world::{OTHER_MAC, VTEP_B, mac_text, pod_of};

/// How long a direct record outlives its last packet, nanoseconds.
pub(crate) const IDLE_NS: u64 = 3_600_000_000_000;

/// The named world in the mode `direct`.
pub(crate) fn direct(lab: &Lab) -> Tables {
    let mut tables = permitting(lab);
    tables.config.fast_path = FastPath::Direct as u32;
    // From node B VXLAN comes by the uplink.
    tables.states[VTEP_B as usize].heard_at = VtepState::tick(monotonic_ns());
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

/// What the first packet out of the pod makes: nothing has come back yet.
fn opened(lab: &Lab, flow: FlowTuple) -> Permit {
    let mut made = record(lab, flow);
    made.flags |= PERMIT_FLAG_UNHEARD;
    made
}

/// A record of a while ago that is not old, and whose veth was there a moment ago.
pub(crate) fn known(lab: &Lab, flow: FlowTuple) -> Permit {
    Permit {
        out_until_ns: FAR,
        in_until_ns: FAR,
        look_at_ns: FAR,
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
        let made = opened(&lab, flow);
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
        let made = opened(&lab, flow);
        let case = by_device(tables.clone(), &first(&flow));
        check(&lab, &case.then(|flows| flows.file(made)));
        tables.flows.file(known(&lab, flow));
        check(&lab, &by_device(tables, &Inner::sent(&flow)));
    }
}

/// What is too long for the path the device fragments. What is too long for the overlay's device,
/// or for the route to the subnet, the stack answers or fragments before any encapsulation.
#[test]
fn what_is_too_long_goes_to_the_device_or_to_the_stack_that_says_so() {
    let Some(lab) = Lab::open() else { return };
    let (subnet, mac) = (pod_of(VTEP_B, 0), mac_text(VTEP_MAC_B));
    ip(&format!(
        "neighbour add {subnet} lladdr {mac} dev {OVERLAY} nud permanent
route add {subnet}/24 via {subnet} dev {OVERLAY} onlink
"
    ));
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let headers = if protocol == PROTOCOL_UDP { 28 } else { 40 };
        let sized = |length: usize| {
            Inner::sent(&flow).with(|inner| inner.payload = payload(length - headers))
        };
        let narrow = |subnet_mtu| {
            let mut tables = direct_holding(&lab, &[known(&lab, flow)]);
            let vtep = &mut tables.vteps[VTEP_B as usize];
            (vtep.path_mtu, vtep.subnet_mtu) = (1_300, subnet_mtu);
            tables
        };
        let reason = Reason::OverPathMtu;
        for (length, subnet_mtu) in [(1_251, 0), (1_450, 0), (1_350, 1_400)] {
            let mut case = by_device(narrow(subnet_mtu), &sized(length));
            case.expected.reason = Some(reason);
            check(&lab, &case);
        }
        for (length, subnet_mtu) in [(1_451, 0), (1_351, 1_400)] {
            let tables = narrow(subnet_mtu);
            check(&lab, &noted(&lab, "stack", tables, &sized(length), reason));
        }
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

/// What a case changes in the maps.
type Change<'a> = &'a dyn Fn(&mut Tables);

/// A pod claims its neighbour's address: what answers would come to it, past the stack.
#[test]
fn a_pod_opens_nothing_in_the_name_of_another() {
    let Some(lab) = Lab::open() else { return };
    let stranger = (Ipv4Addr::new(10, 244, 1, 99), CLIENT.1);
    let routed = (Ipv4Addr::new(10, 244, 1, 77), CLIENT.1);
    ip(&format!(
        "route add {}/32 dev {OTHER_VETH}
neighbour add {} lladdr {} dev {OTHER_VETH} nud permanent
",
        routed.0,
        routed.0,
        mac_text(POD_MAC)
    ));
    let from = |side: Side, mac: [u8; 6], protocol: u8, change: Change<'_>| {
        let flow = tuple(protocol, side, SERVER);
        let mut tables = direct(&lab);
        let attached = VethFlags {
            flags: VETH_FLAG_ATTACHED,
            reserved: 0,
        };
        for ifindex in [lab.veth, lab.other_veth] {
            tables.flows.veth_flags.set(ifindex, attached);
        }
        change(&mut tables);
        let sent = first(&flow);
        let frame = Ethernet::ipv4(mac, BRIDGE_MAC).over(&sent.bytes());
        (flow, tables, frame)
    };
    let nothing = |_: &mut Tables| {};
    let at_place = |ifindex, seen_ns| {
        let seen = LocalPod {
            ifindex,
            ..place(&lab, seen_ns)
        };
        move |tables: &mut Tables| tables.flows.local_pods.set(stranger.0.into(), seen)
    };
    for protocol in PROTOCOLS {
        let now = monotonic_ns();
        let refused: [(&str, Side, [u8; 6], Change<'_>); 5] = [
            ("another MAC address", CLIENT, OTHER_MAC, &nothing),
            ("nobody has seen it", stranger, POD_MAC, &nothing),
            ("by its own word", stranger, POD_MAC, &at_place(lab.veth, 0)),
            (
                "seen elsewhere",
                stranger,
                POD_MAC,
                &at_place(lab.other_veth, now),
            ),
            ("routed elsewhere", routed, POD_MAC, &nothing),
        ];
        for (name, side, mac, change) in refused {
            let (flow, tables, frame) = from(side, mac, protocol, change);
            let reason = not_direct(protocol);
            let note = pending(&lab, flow, at(0));
            let case = Case::passed(name, Program::FromPod, tables, frame, reason);
            check(&lab, &case.then(|flows| flows.pending.set(ITS_HASH, note)));
        }
        let known = at_place(lab.veth, now);
        let context = SkBuff {
            ifindex: lab.other_veth,
            ..SkBuff::default()
        };
        let taken: [(&str, Side, Change<'_>, u32); 3] = [
            ("a neighbour on the bridge", CLIENT, &nothing, lab.veth),
            ("seen there", stranger, &known, lab.veth),
            ("routed there", routed, &nothing, lab.other_veth),
        ];
        for (name, side, change, ifindex) in taken {
            let (flow, tables, _) = from(side, POD_MAC, protocol, change);
            let sent = first(&flow);
            let mut made = opened(&lab, flow);
            made.ifindex = ifindex;
            let case = carried(name, tables, &sent, &sent.clone().routed());
            let case = case.then(|flows| flows.file(made));
            let case = if ifindex == lab.veth {
                case
            } else {
                case.in_context(context)
            };
            check(&lab, &case);
        }
    }
}

#[test]
fn nothing_is_direct_of_an_address_that_is_excluded() {
    let Some(lab) = Lab::open() else { return };
    let exclude = |network: Ipv4Addr, length: u32| {
        let mut ebpf = lab.ebpf();
        let map = ebpf.map_mut(EXCLUDED.name).expect("the object has it");
        let mut map: LpmTrie<_, Address, u32> = map.try_into().expect("a trie");
        let old: Vec<_> = map.keys().collect::<Result<_, _>>().expect("keys");
        for key in &old {
            map.remove(key).expect("remove");
        }
        let key = Key::new(96 + length, network.into());
        map.insert(&key, 1, 0).expect("insert");
    };
    let excluding = || {
        let mut tables = direct(&lab);
        tables.config.flags |= CONFIG_FLAG_EXCLUSIONS;
        tables
    };
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        let reason = not_direct(protocol);
        for (name, network, length) in [
            ("the pod", CLIENT.0, 32),
            ("its network", Ipv4Addr::new(10, 244, 1, 0), 24),
            ("the peer", SERVER.0, 32),
        ] {
            exclude(network, length);
            check(&lab, &noted(&lab, name, excluding(), &first(&flow), reason));
        }
        exclude(Ipv4Addr::new(10, 244, 9, 0), 24);
        let sent = first(&flow);
        let case = carried("another", excluding(), &sent, &sent.clone().routed());
        let made = opened(&lab, flow);
        check(&lab, &case.then(|flows| flows.file(made)));
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
                let made = opened(&lab, flow);
                check(&lab, &case.then(|flows| flows.file(made)));
            } else {
                let case = noted(&lab, "the stack's", tables, &sent, Reason::NoPermit);
                check(&lab, &case.then(|flows| flows.forget(&spent)));
            }
        }
    }
}

/// Its answers would come by a way that only the stack sees, where conntrack takes them for invalid.
#[test]
fn nothing_goes_direct_to_a_node_from_which_nothing_comes_by_the_uplink() {
    let Some(lab) = Lab::open() else { return };
    let tick = VtepState::tick(monotonic_ns());
    for protocol in PROTOCOLS {
        let flow = plain(protocol);
        for heard_at in [0, tick.wrapping_sub(HEARD_TICKS + 1)] {
            let mut tables = direct(&lab);
            tables.states[VTEP_B as usize].heard_at = heard_at;
            let reason = not_direct(protocol);
            check(&lab, &noted(&lab, "unheard", tables, &first(&flow), reason));
        }
        // What goes direct already does so all the same.
        let mut tables = direct_holding(&lab, &[known(&lab, flow)]);
        tables.states[VTEP_B as usize].heard_at = 0;
        let sent = Inner::sent(&flow);
        check(
            &lab,
            &carried("goes on", tables, &sent, &sent.clone().routed()),
        );
    }
}

#[test]
fn a_syn_to_which_nothing_came_back_is_the_stacks_when_it_is_repeated() {
    let Some(lab) = Lab::open() else { return };
    let flow = plain(PROTOCOL_TCP);
    let mut unheard = known(&lab, flow);
    unheard.flags |= PERMIT_FLAG_UNHEARD;
    let tables = direct_holding(&lab, &[unheard]);
    let case = noted(&lab, "repeated", tables, &first(&flow), Reason::Opening);
    check(&lab, &case.then(|flows| flows.forget(&unheard)));
    // The next connection of the same ports, after one that was answered.
    let tables = direct_holding(&lab, &[known(&lab, flow)]);
    let sent = first(&flow);
    let case = carried("next", tables, &sent, &sent.clone().routed());
    check(&lab, &case.then(|flows| flows.file(opened(&lab, flow))));
}
