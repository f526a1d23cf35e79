//! What is a pod, what is none, and which pods must stay slow.

mod never_fast;
mod wiring;

use proptest::prelude::*;

use super::*;

const UPLINK: u32 = 2;
const CNI0: u32 = 5;
const VETH: u32 = 7;
const CALI: u32 = 8;

fn subnet(text: &str) -> Subnet {
    text.parse().unwrap()
}

fn rules() -> Rules {
    Rules {
        own_subnet: subnet("10.244.1.0/24"),
        uplink: Some(UPLINK),
        our_filters: OurFilters {
            priority: 50,
            handle: 1,
            ingress: "from_pod".to_owned(),
            egress: "to_pod".to_owned(),
        },
        foreign_programs: BTreeMap::new(),
        excluded: Excluded::default(),
    }
}

fn link(name: &str, kind: &str) -> HostLink {
    HostLink {
        name: name.to_owned(),
        kind: kind.to_owned(),
        up: true,
        peer_elsewhere: kind == "veth",
        qdiscs: [Qdisc::Root("noqueue".to_owned())].into(),
        ..HostLink::default()
    }
}

fn bridge(name: &str, address: &str) -> HostLink {
    HostLink {
        addresses: [address.parse().unwrap()].into(),
        ..link(name, "bridge")
    }
}

fn port(name: &str, bridge: u32) -> HostLink {
    HostLink {
        master: Some(bridge),
        ..link(name, "veth")
    }
}

fn routed(name: &str, destination: &str) -> HostLink {
    HostLink {
        routes: [subnet(destination)].into(),
        ..link(name, "veth")
    }
}

/// The node: `eth0`, `cni0` with one pod, and one pod of Calico's.
fn host() -> HostLinks {
    let links = [
        (UPLINK, link("eth0", "veth")),
        (CNI0, bridge("cni0", "10.244.1.1/24")),
        (VETH, port("veth0", CNI0)),
        (CALI, routed("cali0", "10.244.1.9/32")),
    ];
    HostLinks {
        links: links.into(),
    }
}

fn filter(hook: Hook, kind: &str, priority: u16, handle: u32, program: Option<&str>) -> Filter {
    Filter {
        hook,
        priority,
        handle,
        kind: kind.to_owned(),
        program: program.map(str::to_owned),
    }
}

fn any_link() -> impl Strategy<Value = HostLink> {
    let kind = prop::sample::select(vec!["veth", "veth", "bridge", "vxlan", ""]);
    let address = prop::sample::select(vec!["10.244.1.1/24", "10.244.2.1/24", "0.0.0.0/0"]);
    let route = prop::sample::select(vec!["10.244.1.9/32", "10.244.2.9/32", "0.0.0.0/0", "::/0"]);
    let qdisc = prop::sample::select(vec![
        Qdisc::Root("noqueue".to_owned()),
        Qdisc::Root("tbf".to_owned()),
        Qdisc::Ingress("clsact".to_owned()),
        Qdisc::Ingress("ingress".to_owned()),
    ]);
    let filter = prop::sample::select(vec![
        filter(Hook::Ingress, "bpf", 50, 1, Some("from_pod")),
        filter(Hook::Ingress, "bpf", 50, 0, None),
        filter(Hook::Egress, "u32", 0, 0, None),
    ]);
    (
        kind,
        prop::option::of(0_u32..9),
        any::<bool>(),
        prop::collection::btree_set(address.prop_map(|text| text.parse().unwrap()), 0..3),
        prop::collection::btree_set(route.prop_map(subnet), 0..3),
        prop::collection::btree_set(qdisc, 0..3),
        prop::collection::btree_set(filter, 0..3),
        prop::option::of(prop::sample::select(vec![65535_u32, 3506])),
    )
        .prop_map(
            |(kind, master, peer_elsewhere, addresses, routes, qdiscs, filters, max_mtu)| {
                HostLink {
                    name: "any".to_owned(),
                    kind: kind.to_owned(),
                    master,
                    up: peer_elsewhere,
                    peer_elsewhere,
                    max_mtu,
                    addresses,
                    routes,
                    qdiscs,
                    filters,
                }
            },
        )
}

proptest! {
    /// Whatever is found is a veth with its other end elsewhere; and what is fast carries
    /// nothing that a fast packet would skip, and neither does its bridge.
    #[test]
    fn only_clean_veths_are_fast(
        links in prop::collection::btree_map(0_u32..9, any_link(), 0..9),
        program in prop::option::of(0_u32..9),
    ) {
        let host = HostLinks { links };
        let mut rules = rules();
        rules.foreign_programs.extend(program.map(|ifindex| (ifindex, "retis".to_owned())));
        for (ifindex, pod) in find(&host, &rules) {
            let veth = &host.links[&ifindex];
            prop_assert!(veth.kind == "veth" && veth.peer_elsewhere && ifindex != UPLINK);
            let bridge = veth.master.filter(|_| pod.wiring == Wiring::Bridge);
            let mut clean = veth.max_mtu.is_none_or(|max_mtu| max_mtu == 65535);
            for ifindex in [Some(ifindex), bridge].into_iter().flatten() {
                let link = &host.links[&ifindex];
                clean &= !rules.foreign_programs.contains_key(&ifindex);
                clean &= link.qdiscs.iter().all(|qdisc| {
                    matches!(qdisc, Qdisc::Root(kind) if kind == "noqueue")
                        || matches!(qdisc, Qdisc::Ingress(kind) if kind == "clsact")
                });
                clean &= link.filters.iter().all(|f| f.kind == "bpf" && link.kind == "veth");
            }
            prop_assert_eq!(clean, pod.never_fast.is_none(), "{:?}", pod.never_fast);
        }
    }

    /// What is said of one pod does not depend on the other links, its bridge aside.
    #[test]
    fn a_pod_is_judged_by_itself(
        links in prop::collection::btree_map(10_u32..30, any_link(), 0..9),
    ) {
        let alone = find(&host(), &rules());
        let mut among = host();
        among.links.extend(links);
        let mut found = find(&among, &rules());
        found.retain(|ifindex, _| *ifindex < 10);
        prop_assert_eq!(found, alone);
    }
}

#[test]
fn a_bridge_is_looked_at_once_and_a_routed_veth_has_none() {
    let link = |name: &str, master| HostLink {
        name: name.to_owned(),
        master,
        ..HostLink::default()
    };
    let host = HostLinks {
        links: [
            (5, link("cni0", None)),
            (6, link("br-other", None)),
            (7, link("veth7", Some(5))),
            (8, link("veth8", Some(5))),
            (9, link("cali9", None)),
            // Its master is gone.
            (10, link("veth10", Some(99))),
            (11, link("veth11", Some(6))),
        ]
        .into(),
    };
    let pod = |ifindex: u32, never_fast| PodVeth {
        name: host.links[&ifindex].name.clone(),
        wiring: Wiring::Bridge,
        up: true,
        never_fast,
    };
    let mut pods: BTreeMap<u32, PodVeth> = [7, 8, 9, 10]
        .map(|ifindex| (ifindex, pod(ifindex, None)))
        .into();
    pods.insert(11, pod(11, Some(NeverFast::Excluded)));
    let asked: Vec<u32> = with_programs(&host, &pods).into_keys().collect();
    assert_eq!(asked, [5, 7, 8, 9, 10]);
}
