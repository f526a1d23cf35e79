//! A few times a second a packet in looks whether the pod is still where its record says: what is
//! redirected to where it was is lost.

use twill_abi::{FlowTuple, LocalPod, Reason, VETH_FLAG_ATTACHED, VethFlags};
use twill_testbed::packet::{PROTOCOL_TCP, PROTOCOL_UDP};

use super::direct_out::{direct_holding, known};
use super::flow::{
    CLIENT, Inner, LOOK_NS, POD_MAC, POD_MTU, PROTOCOLS, SERVICE, holding, looked, permit, place,
    plain, tuple,
};
use super::from_uplink::{carried, judged};
use crate::check::check;
use crate::flow_tables::{FlowTables, PAST, at};
use crate::lab::{BRIDGE, Lab, VETH, ip};
use crate::packets::{Outer, payload};
use crate::sk_buff::SkBuff;
use crate::tables::Tables;
use crate::world::{OTHER_MAC, POD_A1, mac_text};

/// An interface index that nothing has.
const GONE: u32 = 4_000;

/// Which mode the record is of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Permit,
    Direct,
}

const KINDS: [Kind; 2] = [Kind::Permit, Kind::Direct];

/// A record of our pod, and where the pod is by its own word.
struct Scene<'a> {
    lab: &'a Lab,
    kind: Kind,
    said: Option<LocalPod>,
    /// What the record says.
    ifindex: u32,
    mac: [u8; 6],
    /// What is found on the way to the pod.
    mtu: u16,
}

impl<'a> Scene<'a> {
    fn new(lab: &'a Lab, kind: Kind) -> Self {
        Self {
            lab,
            kind,
            said: None,
            ifindex: lab.veth,
            mac: POD_MAC,
            mtu: POD_MTU,
        }
    }

    fn saying(self, said: LocalPod) -> Self {
        Self {
            said: Some(said),
            ..self
        }
    }

    fn tables(&self, protocol: u8) -> Tables {
        let (lab, flow) = (self.lab, plain(protocol));
        let mut held = match self.kind {
            Kind::Permit => permit(lab, tuple(protocol, CLIENT, SERVICE), flow),
            Kind::Direct => known(lab, flow),
        };
        held.look_at_ns = PAST;
        (held.ifindex, held.pod_mac) = (self.ifindex, self.mac);
        let mut tables = match self.kind {
            Kind::Permit => holding(lab, &[held]),
            Kind::Direct => direct_holding(lab, &[held]),
        };
        let ours = VethFlags {
            flags: VETH_FLAG_ATTACHED,
            reserved: 0,
        };
        for veth in [lab.veth, lab.other_veth] {
            tables.flows.veth_flags.set(veth, ours);
        }
        if let Some(said) = self.said {
            tables.flows.local_pods.set(POD_A1.into(), said);
        }
        tables
    }

    /// The packet goes into the pod, and the next look is a while away.
    fn is_there(&self, name: &str) {
        for protocol in PROTOCOLS {
            let pod = match self.kind {
                Kind::Permit => tuple(protocol, CLIENT, SERVICE),
                Kind::Direct => plain(protocol),
            };
            let sent = Inner::received(&plain(protocol));
            let wanted = Inner::received(&pod).routed();
            let name = format!("{name}, {:?}", self.kind);
            let outer = Outer::from_node_b();
            let case = carried(&name, self.tables(protocol), &outer, &sent, &wanted);
            let case = case.then(|flows| {
                looked(flows.permits.at(&pod));
                flows.permits.at(&pod).pod_mtu = self.mtu;
            });
            check(self.lab, &case);
        }
    }

    /// The packet is the stack's. So are the next ones, until the stack has delivered.
    fn is_elsewhere(&self, name: &str) {
        for protocol in PROTOCOLS {
            let pod = match self.kind {
                Kind::Permit => tuple(protocol, CLIENT, SERVICE),
                Kind::Direct => plain(protocol),
            };
            let packet = Inner::received(&plain(protocol)).bytes();
            let name = format!("{name}, {:?}", self.kind);
            let outer = Outer::from_node_b();
            let tables = self.tables(protocol);
            let case = judged(&name, tables, &outer, &packet, Reason::ForeignVeth);
            let output = check(
                self.lab,
                &case.then(|flows| match self.kind {
                    Kind::Permit => {
                        let permit = flows.permits.at(&pod);
                        (permit.in_until_ns, permit.look_at_ns) = (0, at(LOOK_NS));
                    }
                    Kind::Direct => flows.permits.remove(&pod),
                }),
            );
            if self.kind == Kind::Permit {
                let reason = Reason::PermitExpired;
                check(
                    self.lab,
                    &judged("next", output.tables, &outer, &packet, reason),
                );
            }
        }
    }
}

#[test]
fn where_the_host_delivers_to_the_same_pod_flows_stay_fast() {
    let Some(lab) = Lab::open() else { return };
    for kind in KINDS {
        let scene = || Scene::new(&lab, kind);
        scene().is_there("nobody said anything");
        scene().saying(place(&lab, 0)).is_there("the pod said so");
        // A pod may claim any address: the host's neighbour table knows better.
        let claimed = LocalPod {
            ifindex: lab.other_veth,
            pod_mac: OTHER_MAC,
            ..place(&lab, 0)
        };
        scene().saying(claimed).is_there("claimed by another");
    }
}

#[test]
fn what_the_host_would_deliver_elsewhere_is_the_stacks() {
    let Some(lab) = Lab::open() else { return };
    for kind in KINDS {
        let gone = Scene {
            ifindex: GONE,
            ..Scene::new(&lab, kind)
        };
        gone.is_elsewhere("the veth is gone");
        // With its MAC address, as VRRP does it: the neighbour table does not name the port.
        let moved = LocalPod {
            ifindex: lab.other_veth,
            ..place(&lab, 0)
        };
        let scene = Scene::new(&lab, kind).saying(moved);
        scene.is_elsewhere("another veth with the same MAC address");
        let changed = Scene {
            mac: OTHER_MAC,
            ..Scene::new(&lab, kind)
        };
        changed.is_elsewhere("another MAC address");
    }
    // An address that the host has taken itself, or that has no way any more.
    for change in [
        format!("address add {POD_A1}/32 dev lo\n"),
        format!("address del {POD_A1}/32 dev lo\nroute add unreachable {POD_A1}\n"),
    ] {
        ip(&change);
        for kind in KINDS {
            Scene::new(&lab, kind).is_elsewhere(&change);
        }
    }
}

#[test]
fn a_neighbour_that_the_host_does_not_know_is_looked_for() {
    let Some(lab) = Lab::open() else { return };
    ip(&format!("neighbour del {POD_A1} dev {BRIDGE}\n"));
    Scene::new(&lab, Kind::Permit).is_elsewhere("forgotten");
    // Conntrack knows nothing of a direct flow: it stays where nobody says otherwise.
    let direct = || Scene {
        mtu: 0,
        ..Scene::new(&lab, Kind::Direct)
    };
    direct().is_there("forgotten");
    let place = place(&lab, 0);
    direct().saying(place).is_there("the pod said so");
    let claimed = LocalPod {
        ifindex: lab.other_veth,
        pod_mac: OTHER_MAC,
        ..place
    };
    direct().saying(claimed).is_elsewhere("claimed by another");
}

#[test]
fn a_route_of_the_pods_own_leads_to_its_veth() {
    let Some(lab) = Lab::open() else { return };
    let pod_mac = mac_text(POD_MAC);
    ip(&format!(
        "neighbour add {POD_A1} lladdr {pod_mac} dev {VETH} nud permanent
route add {POD_A1} dev {VETH}
"
    ));
    for kind in KINDS {
        Scene::new(&lab, kind).is_there("its own");
        let other = Scene {
            ifindex: lab.other_veth,
            ..Scene::new(&lab, kind)
        };
        other.is_elsewhere("another pod's");
    }
}

/// A bridge, or a veth with a route of its own, may be narrower than the overlay: what is longer the stack answers or
/// fragments, as soon as a packet has looked.
#[test]
fn what_is_too_long_for_the_way_to_the_pod_is_the_stacks() {
    let Some(lab) = Lab::open() else { return };
    let outer = Outer::from_node_b();
    let pod_mac = mac_text(POD_MAC);
    for (narrow, change) in [
        (1_300, format!("link set {BRIDGE} mtu 1300\n")),
        (
            1_200,
            format!(
                "link set {VETH} mtu 1200
neighbour add {POD_A1} lladdr {pod_mac} dev {VETH} nud permanent
route add {POD_A1} dev {VETH}
"
            ),
        ),
    ] {
        ip(&change);
        for kind in KINDS {
            for protocol in PROTOCOLS {
                let scene = Scene::new(&lab, kind);
                let headers = if protocol == PROTOCOL_UDP { 28 } else { 40 };
                let flow = plain(protocol);
                let pod = match kind {
                    Kind::Permit => tuple(protocol, CLIENT, SERVICE),
                    Kind::Direct => flow,
                };
                let sized = |of: &FlowTuple, length: usize| {
                    Inner::received(of).with(|inner| inner.payload = payload(length - headers))
                };
                let found = |flows: &mut FlowTables| {
                    looked(flows.permits.at(&pod));
                    flows.permits.at(&pod).pod_mtu = u16::try_from(narrow).unwrap();
                };
                let name = format!("{change}, {kind:?}");
                let (sent, wanted) = (sized(&flow, narrow), sized(&pod, narrow).routed());
                let case = carried(&name, scene.tables(protocol), &outer, &sent, &wanted);
                check(&lab, &case.then(found));
                let sent = sized(&flow, narrow + 1).bytes();
                let reason = Reason::OverPathMtu;
                let case = judged(&name, scene.tables(protocol), &outer, &sent, reason);
                check(&lab, &case.then(found));
            }
        }
    }
}

/// Segments count, not the packet that GRO has made of them. Which kind of segments they are a
/// program run cannot say, so the kernel does not take them apart.
#[test]
fn segments_are_what_has_to_fit_the_way_to_the_pod() {
    let Some(lab) = Lab::open() else { return };
    let flow = plain(PROTOCOL_TCP);
    let outer = Outer::from_node_b();
    for (gso_size, reason) in [(1_260, Reason::DecapRefused), (1_261, Reason::OverPathMtu)] {
        let mut held = permit(&lab, flow, flow);
        held.pod_mtu = 1_300;
        let sent = Inner::received(&flow).with(|inner| inner.payload = payload(3_000));
        let context = SkBuff {
            gso_segs: 3,
            gso_size,
            ..SkBuff::default()
        };
        let case = judged(
            "segments",
            holding(&lab, &[held]),
            &outer,
            &sent.bytes(),
            reason,
        );
        check(&lab, &case.in_context(context));
    }
}
