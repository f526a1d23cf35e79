//! Pods and the nodes' VXLAN port: from their own node, and by way of another's.

use std::net::Ipv4Addr;

use twill_abi::{CONFIG_FLAG_POD_VXLAN, Guard, Program, Reason};
use twill_testbed::packet::{Ethernet, Udp};

use super::super::check::{NEXT, from_vtep};
use super::super::lab::{Lab, OVERLAY, VETH, counter_name, ip};
use super::super::packets::{Outer, from_pod_b, payload, to_pod_b};
use super::super::sk_buff::SkBuff;
use super::super::tables::Tables;
use super::super::world::{
    FAR_NODE, NODE_A, NODE_B, OTHER_MAC, OVERLAY_A, PORT, VTEP_B, VTEP_MAC_A, pod_of,
};
use super::{Fate, SHOT, check, check_with, guarded, open};

/// Behind the gateway, and no VTEP.
const FAR_AWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 99);

/// A pod sends VXLAN to `to`: whether it is counted, and whether it is gone.
fn sent(lab: &Lab, tables: &Tables, to: Ipv4Addr, port: u16) -> (bool, bool) {
    let mut ip = to_pod_b();
    ip.destination = to;
    let packet = ip.udp(&Udp::new(4_000, port), &payload(60));
    let frame = Ethernet::ipv4(OTHER_MAC, VTEP_MAC_A).over(&packet);
    let output = lab
        .run(Program::FromPod, tables, &frame, SkBuff::default())
        .expect("the kernel runs it");
    let counted = output
        .counted
        .keys()
        .any(|&place| counter_name(place) == format!("from_pod/{}", Reason::PodVxlan.label()));
    (counted, output.verdict == SHOT)
}

#[test]
fn a_pod_does_not_reach_a_nodes_port() {
    let Some(lab) = open() else { return };
    for to in [
        NODE_A,
        NODE_B,
        FAR_NODE,
        OVERLAY_A,
        Ipv4Addr::new(198, 51, 100, 129),
        Ipv4Addr::new(192, 0, 2, 255),
        pod_of(VTEP_B, 0),
        pod_of(VTEP_B, 1),
    ] {
        assert_eq!(
            sent(&lab, &guarded(&lab, Guard::Count), to, PORT),
            (true, false),
            "{to}"
        );
        // With the agent dead as well: no lease has a say in it.
        let mut dead = guarded(&lab, Guard::Enforce);
        (dead.config.heartbeat_ns, dead.config.flags) = (0, 0);
        assert_eq!(sent(&lab, &dead, to, PORT), (true, true), "{to}");
        let mut allowed = guarded(&lab, Guard::Enforce);
        allowed.config.flags |= CONFIG_FLAG_POD_VXLAN;
        assert_eq!(
            sent(&lab, &allowed, to, PORT),
            (false, false),
            "{to}, allowed"
        );
        let off = guarded(&lab, Guard::Off);
        assert_eq!(sent(&lab, &off, to, PORT), (false, false), "{to}, off");
        let enforced = guarded(&lab, Guard::Enforce);
        assert_eq!(
            sent(&lab, &enforced, to, PORT + 1),
            (false, false),
            "{to}, another port"
        );
    }
}

#[test]
fn pods_may_have_a_vxlan_of_their_own() {
    let Some(lab) = open() else { return };
    let tables = guarded(&lab, Guard::Enforce);
    ip(&format!(
        "route add 10.244.2.0/24 dev {OVERLAY}\nroute replace 10.244.1.0/24 dev {VETH}\n"
    ));
    for to in [
        pod_of(VTEP_B, 2),
        pod_of(VTEP_B, 255),
        [10, 244, 1, 7].into(),
        FAR_AWAY,
    ] {
        assert_eq!(sent(&lab, &tables, to, PORT), (false, false), "{to}");
    }
}

/// VXLAN between pods is theirs: it passes, and counts as what it is, a packet of that VTEP.
#[test]
fn a_vxlan_between_pods_is_counted_as_its_nodes() {
    let Some(lab) = open() else { return };
    ip(&format!(
        "route add 10.244.2.0/24 dev {OVERLAY}\nroute replace 10.244.1.0/24 dev {VETH}\n"
    ));
    for port in [PORT, PORT + 1] {
        let packet = from_pod_b().udp(&Udp::new(4_000, port), &payload(60));
        let frame = Outer::from_node_b().over(&packet);
        let output = lab
            .run(
                Program::FromUplink,
                &guarded(&lab, Guard::Enforce),
                &frame,
                SkBuff::default(),
            )
            .expect("the kernel runs it");
        assert_eq!(output.verdict, NEXT, "{port}");
        let counted = output.counted_vteps;
        assert_eq!(counted, [(VTEP_B, from_vtep(frame.len() as u64))].into());
    }
}

#[test]
fn a_pod_of_another_node_does_not_reach_ours_through_the_overlay() {
    let Some(lab) = open() else { return };
    for options in [0, 4, 40] {
        let mut inner = from_pod_b();
        inner.destination = OVERLAY_A;
        inner.options = vec![1; options];
        let packet = inner.udp(&Udp::new(4_000, PORT), &payload(60));
        let frame = Outer::from_node_b().over(&packet);
        check(&lab, "nested", &frame, Fate::Refused(Reason::PodVxlan));
        let mut tables = guarded(&lab, Guard::Enforce);
        tables.config.flags |= CONFIG_FLAG_POD_VXLAN;
        check_with(
            &lab,
            "allowed",
            &frame,
            Fate::Passed(Reason::Trusted),
            &tables,
        );
    }
}
