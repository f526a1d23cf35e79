//! `from_pod` and the ends of a connection: SYN, FIN and RST are conntrack's to see.

use twill_abi::{PERMIT_TOMBSTONE, Permit, Program, Reason};
use twill_testbed::packet::{PROTOCOL_TCP, Tcp};

use super::flow::{Inner, holding, out_of_pod, pending, permit, permitting, plain, to_service};
use crate::check::{Case, check};
use crate::flow_tables::{FAR, ITS_HASH, PAST, at};
use crate::lab::Lab;
use crate::sk_buff::SkBuff;

/// How long a tombstone stands, nanoseconds.
pub(crate) const TOMBSTONE_NS: u64 = 120_000_000_000;

/// A segment with these flags from the veth `ifindex`, the flow being held as `held`.
fn segment(lab: &Lab, flags: u8, held: Option<Permit>, ifindex: u32) -> Case {
    let tables = held.map_or_else(|| permitting(lab), |held| holding(lab, &[held]));
    let flow = held.map_or_else(|| plain(PROTOCOL_TCP), |held| held.pod);
    let frame = out_of_pod(&Inner::sent(&flow).flagged(flags).bytes());
    let reason = if flags & (Tcp::FIN | Tcp::RST) == 0 {
        Reason::Opening
    } else {
        Reason::Closing
    };
    let name = format!("flags {flags:#x}, veth {ifindex}, {held:?}");
    let case = Case::passed(name, Program::FromPod, tables, frame, reason);
    let context = SkBuff {
        ifindex,
        ..case.context
    };
    let case = case.in_context(context);
    if reason == Reason::Closing {
        return case;
    }
    let mut note = pending(lab, flow, at(0));
    note.ifindex = ifindex;
    case.then(|flows| flows.pending.set(ITS_HASH, note))
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "a case takes the record that is held, if any"
)]
fn held(lab: &Lab, change: impl FnOnce(&mut Permit)) -> Option<Permit> {
    let mut held = permit(lab, to_service(PROTOCOL_TCP), plain(PROTOCOL_TCP));
    change(&mut held);
    Some(held)
}

#[test]
fn a_syn_ends_what_was_remembered_of_its_tuple() {
    let Some(lab) = Lab::open() else { return };
    for flags in [Tcp::SYN, Tcp::SYN | Tcp::ACK, Tcp::SYN | Tcp::PSH] {
        check(&lab, &segment(&lab, flags, None, lab.veth));
        let gone = [
            held(&lab, |_| {}),
            held(&lab, |permit| {
                (permit.state, permit.tombstone_until_ns) = (PERMIT_TOMBSTONE, FAR);
            }),
            held(&lab, |permit| permit.out_until_ns = PAST),
        ];
        for held in gone {
            let case = segment(&lab, flags, held, lab.veth);
            check(
                &lab,
                &case.then(|flows| held.iter().for_each(|held| flows.forget(held))),
            );
        }
    }
}

#[test]
fn a_syn_of_another_veth_ends_only_what_has_run_out() {
    let Some(lab) = Lab::open() else { return };
    let kept = [
        held(&lab, |_| {}),
        held(&lab, |permit| permit.out_until_ns = PAST),
        held(&lab, |permit| permit.in_until_ns = PAST),
    ];
    for held in kept {
        check(&lab, &segment(&lab, Tcp::SYN, held, lab.other_veth));
    }
    let lapsed = held(&lab, |permit| {
        (permit.out_until_ns, permit.in_until_ns) = (PAST, PAST);
    });
    let case = segment(&lab, Tcp::SYN, lapsed, lab.other_veth);
    check(
        &lab,
        &case.then(|flows| lapsed.iter().for_each(|held| flows.forget(held))),
    );
}

#[test]
fn a_closing_segment_leaves_a_tombstone() {
    let Some(lab) = Lab::open() else { return };
    for flags in [Tcp::FIN, Tcp::RST] {
        for others in [0, Tcp::ACK, Tcp::ACK | Tcp::PSH, Tcp::SYN] {
            let flags = flags | others;
            check(&lab, &segment(&lab, flags, None, lab.veth));
            let held = held(&lab, |_| {});
            let case = segment(&lab, flags, held, lab.veth).then(|flows| {
                let permit = flows.permits.at(&to_service(PROTOCOL_TCP));
                permit.state = PERMIT_TOMBSTONE;
                permit.tombstone_until_ns = at(TOMBSTONE_NS);
            });
            check(&lab, &case);
            // Another pod cannot close it.
            check(&lab, &segment(&lab, flags, held, lab.other_veth));
        }
    }
}
