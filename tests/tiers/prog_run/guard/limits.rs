//! When the guard drops nothing, and whom it remembers.

use std::net::Ipv4Addr;

use twill_abi::{
    CONFIG_FLAG_LEASES_COMPLETE, CONFIG_FLAG_SHARED_PORT, GUARD_HEARTBEAT_NS, Guard, Mode, Reason,
};
use twill_testbed::packet::Vxlan;

use super::super::lab::{Lab, monotonic_ns};
use super::super::packets::{Outer, datagram, from_pod_b};
use super::super::tables::Tables;
use super::super::world::{STRANGER, VNI};
use super::{Fate, XDP_DROP, XDP_PASS, check_with, guarded, open, strangers};

fn from(source: Ipv4Addr) -> Vec<u8> {
    let mut outer = Outer::from_node_b();
    outer.ip.source = source;
    outer.over(&datagram(&from_pod_b(), 64))
}

/// Enforcing, and yet the stranger's frame passes, counted as ever.
fn only_counts(lab: &Lab, name: &str, change: impl FnOnce(&mut Tables)) {
    let mut tables = guarded(lab, Guard::Enforce);
    change(&mut tables);
    check_with(
        lab,
        name,
        &from(STRANGER),
        Fate::Passed(Reason::UnknownVtep),
        &tables,
    );
}

#[test]
fn without_a_live_agent_it_counts() {
    let Some(lab) = open() else { return };
    only_counts(&lab, "a stale heartbeat", |tables| {
        tables.config.heartbeat_ns = monotonic_ns() - GUARD_HEARTBEAT_NS;
    });
    only_counts(&lab, "no heartbeat", |tables| {
        tables.config.heartbeat_ns = 0;
    });
    only_counts(&lab, "a heartbeat of the future", |tables| {
        tables.config.heartbeat_ns = u64::MAX / 2;
    });
}

#[test]
fn without_every_lease_it_counts() {
    let Some(lab) = open() else { return };
    only_counts(&lab, "no complete list", |tables| {
        tables.config.flags &= !CONFIG_FLAG_LEASES_COMPLETE;
    });
}

#[test]
fn off_and_the_operators_word_leave_everything_alone() {
    let Some(lab) = open() else { return };
    let frame = from(STRANGER);
    check_with(
        &lab,
        "off",
        &frame,
        Fate::Ignored,
        &guarded(&lab, Guard::Off),
    );
    let kernel = guarded(&lab, Guard::Enforce).with_operator(Mode::Kernel);
    check_with(&lab, "mode kernel", &frame, Fate::Ignored, &kernel);
    let mut unknown = guarded(&lab, Guard::Count);
    unknown.config.guard = 7;
    check_with(
        &lab,
        "an unknown number",
        &frame,
        Fate::Passed(Reason::UnknownVtep),
        &unknown,
    );
}

#[test]
fn another_overlay_at_the_port_is_left_alone() {
    let Some(lab) = open() else { return };
    let mut outer = Outer::from_node_b();
    outer.ip.source = STRANGER;
    outer.vxlan = Vxlan::new(VNI + 1);
    let frame = outer.over(&datagram(&from_pod_b(), 64));
    let mut tables = guarded(&lab, Guard::Enforce);
    tables.config.flags |= CONFIG_FLAG_SHARED_PORT;
    check_with(
        &lab,
        "shared",
        &frame,
        Fate::Passed(Reason::WrongVni),
        &tables,
    );
    assert_eq!(strangers(&lab), [], "its nodes are no strangers of ours");
    check_with(
        &lab,
        "a stranger",
        &from(STRANGER),
        Fate::Refused(Reason::UnknownVtep),
        &tables,
    );
}

#[test]
fn strangers_are_remembered_and_peers_are_not() {
    let Some(lab) = open() else { return };
    let other = Ipv4Addr::new(203, 0, 113, 77);
    lab.configure(&guarded(&lab, Guard::Count));
    let before = monotonic_ns();
    for (source, packets) in [(STRANGER, 3), (other, 2)] {
        for _ in 0..packets {
            assert_eq!(lab.give_frame("guard", &from(source)).0, XDP_PASS);
        }
        // No faster than that are new ones written down.
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    lab.configure(&guarded(&lab, Guard::Enforce));
    let mut flagged = Outer::from_node_b();
    flagged.ip.source = STRANGER;
    flagged.vxlan.flags = 0;
    let frame = flagged.over(&datagram(&from_pod_b(), 64));
    assert_eq!(lab.give_frame("guard", &frame).0, XDP_DROP);
    // A peer that misbehaves is counted by reason, and is no stranger.
    let mut peer = Outer::from_node_b();
    peer.vxlan.flags = 0;
    assert_eq!(
        lab.give_frame("guard", &peer.over(&datagram(&from_pod_b(), 64)))
            .0,
        XDP_DROP
    );

    let mut found = strangers(&lab);
    found.sort_by_key(|(_, stranger)| std::cmp::Reverse(stranger.packets));
    let told: Vec<_> = found
        .iter()
        .map(|(address, stranger)| {
            let reason = Reason::from_number(stranger.reason.into());
            assert!(stranger.first_ns >= before && stranger.last_ns >= stranger.first_ns);
            (*address, stranger.packets, stranger.dropped, reason)
        })
        .collect();
    let wanted = [
        (STRANGER.into(), 4, 1, Some(Reason::VxlanFlags)),
        (other.into(), 2, 0, Some(Reason::UnknownVtep)),
    ];
    assert_eq!(told, wanted);
}
