//! What is a pod, what is none, and which pods must stay slow.

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

/// What is found, as `name wiring`, after one change to the node.
fn check(what: &str, change: impl FnOnce(&mut HostLinks), expected: &[&str]) {
    let mut host = host();
    change(&mut host);
    let pods = find(&host, &rules());
    let found: Vec<String> = pods
        .values()
        .map(|pod| format!("{} {:?}", pod.name, pod.wiring))
        .collect();
    assert_eq!(found, expected, "{what}");
}

const BOTH: [&str; 2] = ["veth0 Bridge", "cali0 Routed"];

#[test]
fn pods_are_found_by_their_wiring() {
    check("both", |_| {}, &BOTH);
    for (what, veth) in [
        ("a subnet of several pods", routed("cali0", "10.244.1.8/29")),
        ("the whole subnet", routed("cali0", "10.244.1.0/24")),
    ] {
        check(what, |host| drop(host.links.insert(CALI, veth)), &BOTH);
    }
    check(
        "a port with a route is a port",
        |host| {
            let veth = HostLink {
                master: Some(CNI0),
                ..routed("both", "10.244.1.3/32")
            };
            host.links.insert(VETH, veth);
        },
        &["both Bridge", "cali0 Routed"],
    );
    check(
        "a port of another bridge with a route",
        |host| {
            host.links.insert(3, bridge("docker0", "172.17.0.1/16"));
            let veth = HostLink {
                master: Some(3),
                ..routed("odd", "10.244.1.3/32")
            };
            host.links.insert(VETH, veth);
        },
        &["odd Routed", "cali0 Routed"],
    );
    check(
        "two bridges",
        |host| {
            host.links.insert(3, bridge("docker0", "10.244.1.129/25"));
            host.links.insert(9, port("veth9", 3));
        },
        &["veth0 Bridge", "cali0 Routed", "veth9 Bridge"],
    );
    check(
        "an address of the subnet among others",
        |host| {
            let mut cni0 = bridge("cni0", "10.244.1.1/24");
            cni0.addresses.insert("172.17.0.1/16".parse().unwrap());
            host.links.insert(CNI0, cni0);
        },
        &BOTH,
    );
}

#[test]
fn what_only_looks_like_a_pod_is_none() {
    const CALI: [&str; 1] = ["cali0 Routed"];
    let here = |veth| HostLink {
        peer_elsewhere: false,
        ..veth
    };
    let tap = HostLink {
        kind: "tun".to_owned(),
        ..port("tap0", CNI0)
    };
    for (what, ifindex, other, expected) in [
        ("no veth", VETH, tap, &CALI[..]),
        ("other end here", VETH, here(port("veth0", CNI0)), &CALI),
        ("no port", VETH, link("veth0", "veth"), &CALI),
        ("master is no bridge", CNI0, link("cni0", "bond"), &CALI),
        (
            "bridge without the subnet's address",
            CNI0,
            bridge("cni0", "10.244.2.1/24"),
            &CALI,
        ),
        (
            "an address of the network, not of the subnet",
            CNI0,
            bridge("cni0", "10.244.0.1/16"),
            &CALI,
        ),
        (
            "the uplink",
            UPLINK,
            routed("eth0", "10.244.1.77/32"),
            &BOTH,
        ),
        ("the uplink as a port", UPLINK, port("eth0", CNI0), &BOTH),
        (
            "route to another subnet",
            9,
            routed("veth9", "10.244.2.9/32"),
            &BOTH,
        ),
        (
            "route to the network",
            9,
            routed("veth9", "10.244.0.0/16"),
            &BOTH,
        ),
        ("default route", 9, routed("veth9", "0.0.0.0/0"), &BOTH),
        (
            "our own device",
            9,
            HostLink {
                kind: "vxlan".to_owned(),
                ..routed("flannel.1", "10.244.1.0/32")
            },
            &BOTH,
        ),
        (
            "route, other end here",
            9,
            here(routed("veth9", "10.244.1.3/32")),
            &BOTH,
        ),
    ] {
        let change = |host: &mut HostLinks| drop(host.links.insert(ifindex, other));
        check(what, change, expected);
    }
    check(
        "bridge is gone",
        |host| drop(host.links.remove(&CNI0)),
        &CALI,
    );
}

/// Why each of the two pods is slow, after one change to node and rules.
fn check_slow(
    what: &str,
    change: impl FnOnce(&mut HostLinks, &mut Rules),
    expected: [Option<&str>; 2],
) {
    let (mut host, mut rules) = (host(), rules());
    change(&mut host, &mut rules);
    let pods = find(&host, &rules);
    let found = [VETH, CALI].map(|ifindex| {
        let why = pods.get(&ifindex)?.never_fast.as_ref()?;
        Some(why.to_string())
    });
    assert_eq!(found.each_ref().map(Option::as_deref), expected, "{what}");
}

#[test]
fn a_foreign_qdisc_makes_slow() {
    let root = |kind: &str| Qdisc::Root(kind.to_owned());
    let ingress = |kind: &str| Qdisc::Ingress(kind.to_owned());
    for (qdisc, expected) in [
        (root("noqueue"), None),
        (ingress("clsact"), None),
        (root("tbf"), Some("tbf")),
        (root("htb"), Some("htb")),
        (root("fq_codel"), Some("fq_codel")),
        (root("pfifo_fast"), Some("pfifo_fast")),
        // What cannot be read is not trusted.
        (root(""), Some("")),
        (root("clsact"), Some("clsact")),
        (ingress("ingress"), Some("ingress")),
        (ingress("noqueue"), Some("noqueue")),
    ] {
        let sentence = |link: &str| {
            expected
                .map(|kind| format!("{link} has the qdisc {kind}, which fast packets would skip"))
        };
        for (on, index, why) in [
            (VETH, 0, sentence("veth0")),
            (CNI0, 0, sentence("cni0")),
            (CALI, 1, sentence("cali0")),
            (UPLINK, 0, None),
        ] {
            let mut all = [None; 2];
            all[index] = why.as_deref();
            check_slow(
                &format!("{qdisc:?} on {on}"),
                |host, _| {
                    let link = host.links.get_mut(&on).unwrap();
                    link.qdiscs.insert(qdisc.clone());
                },
                all,
            );
        }
    }
    // A link that is down has none.
    check_slow(
        "none",
        |host, _| {
            host.links.get_mut(&VETH).unwrap().qdiscs.clear();
        },
        [None; 2],
    );
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

#[test]
fn a_foreign_filter_makes_slow() {
    use Hook::{Egress, Ingress};
    for (filter, on_veth) in [
        (filter(Ingress, "bpf", 50, 1, Some("from_pod")), None),
        (filter(Egress, "bpf", 50, 1, Some("to_pod")), None),
        (filter(Ingress, "bpf", 50, 0, None), None),
        (
            filter(Ingress, "u32", 49152, 0x8000_0000, None),
            Some("a u32 filter at ingress, priority 49152,"),
        ),
        (
            filter(Egress, "bpf", 1, 1, Some("retis")),
            Some("a bpf filter, retis, at egress, priority 1,"),
        ),
        // At our priority, but not ours.
        (
            filter(Ingress, "bpf", 50, 2, Some("from_pod")),
            Some("a bpf filter, from_pod, at ingress, priority 50,"),
        ),
        (
            filter(Ingress, "bpf", 50, 1, Some("to_pod")),
            Some("a bpf filter, to_pod, at ingress, priority 50,"),
        ),
        (
            filter(Egress, "bpf", 50, 1, Some("from_pod")),
            Some("a bpf filter, from_pod, at egress, priority 50,"),
        ),
        (
            filter(Ingress, "bpf", 50, 1, None),
            Some("a bpf filter at ingress, priority 50,"),
        ),
        (
            filter(Ingress, "bpf", 50, 0, Some("from_pod")),
            Some("a bpf filter, from_pod, at ingress, priority 50,"),
        ),
        // Ours, but elsewhere.
        (
            filter(Ingress, "bpf", 51, 1, Some("from_pod")),
            Some("a bpf filter, from_pod, at ingress, priority 51,"),
        ),
        // A classifier of the old kind may have no filter of its own.
        (
            filter(Ingress, "fw", 50, 0, None),
            Some("a fw filter at ingress, priority 50,"),
        ),
    ] {
        let why = on_veth.map(|text| format!("veth0 has {text} which fast packets would skip"));
        let add = |on: u32| {
            let filter = filter.clone();
            move |host: &mut HostLinks, _: &mut Rules| {
                let link = host.links.get_mut(&on).unwrap();
                // Beside one of ours.
                let ours = self::filter(Ingress, "bpf", 50, 1, Some("from_pod"));
                if on == VETH {
                    link.filters.insert(ours);
                }
                link.filters.insert(filter);
            }
        };
        check_slow(&format!("{filter:?}"), add(VETH), [why.as_deref(), None]);
        // On the bridge none is ours.
        let mut host = host();
        add(CNI0)(&mut host, &mut rules());
        let pods = find(&host, &rules());
        let labels = pods
            .values()
            .map(|pod| pod.never_fast.as_ref()?.label().into());
        let labels: Vec<Option<&str>> = labels.collect();
        assert_eq!(labels, [Some("foreign_filter"), None], "{filter:?}");
    }
}

#[test]
fn a_foreign_program_makes_slow() {
    for (on, expected) in [
        (
            VETH,
            [
                Some("veth0 has the TCX program retis, which fast packets would skip"),
                None,
            ],
        ),
        (
            CNI0,
            [
                Some("cni0 has the TCX program retis, which fast packets would skip"),
                None,
            ],
        ),
        (UPLINK, [None; 2]),
    ] {
        let change = |_: &mut HostLinks, rules: &mut Rules| {
            rules.foreign_programs.insert(on, "retis".to_owned());
        };
        check_slow(&format!("on {on}"), change, expected);
    }
}

#[test]
fn the_operator_excludes_by_name_or_address() {
    const WORD: Option<&str> = Some("excluded by the operator");
    let excluded = |links: &[&str], addresses: &[&str]| Excluded {
        links: links.iter().map(|&name| name.to_owned()).collect(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
    };
    for (excluded, expected) in [
        (excluded(&["veth0"], &[]), [WORD, None]),
        (excluded(&["veth", "cni0", "eth0"], &[]), [None; 2]),
        (excluded(&[], &["10.244.1.9"]), [None, WORD]),
        (excluded(&[], &["10.244.1.8", "10.244.1.10"]), [None; 2]),
        (excluded(&["veth0", "cali0"], &["10.244.1.9"]), [WORD; 2]),
    ] {
        let what = format!("{excluded:?}");
        check_slow(&what, |_, rules| rules.excluded = excluded, expected);
    }
}

#[test]
fn the_operators_word_comes_first_and_the_bridge_last() {
    let everything = |host: &mut HostLinks, rules: &mut Rules| {
        for ifindex in [VETH, CNI0] {
            let link = host.links.get_mut(&ifindex).unwrap();
            link.qdiscs.insert(Qdisc::Root("tbf".to_owned()));
            link.filters
                .insert(filter(Hook::Ingress, "u32", 1, 1, None));
            rules.foreign_programs.insert(ifindex, "retis".to_owned());
        }
        rules.excluded.links.insert("veth0".to_owned());
    };
    let (mut host, mut rules) = (host(), rules());
    everything(&mut host, &mut rules);
    let mut reasons = Vec::new();
    while let Some(why) = find(&host, &rules)[&VETH].never_fast.clone() {
        reasons.push(why.to_string());
        rules.excluded.links.clear();
        let (ifindex, name) = match &why {
            NeverFast::Excluded => continue,
            NeverFast::ForeignQdisc { link, .. }
            | NeverFast::ForeignFilter { link, .. }
            | NeverFast::ForeignProgram { link, .. } => {
                (if link == "cni0" { CNI0 } else { VETH }, why.label())
            }
        };
        let link = host.links.get_mut(&ifindex).unwrap();
        match name {
            "foreign_qdisc" => link.qdiscs.clear(),
            "foreign_filter" => link.filters.clear(),
            _ => drop(rules.foreign_programs.remove(&ifindex)),
        }
    }
    let carried = |link: &str| {
        [
            format!("{link} has the qdisc tbf, which fast packets would skip"),
            format!(
                "{link} has a u32 filter at ingress, priority 1, which fast packets would skip"
            ),
            format!("{link} has the TCX program retis, which fast packets would skip"),
        ]
    };
    let expected = [
        vec!["excluded by the operator".to_owned()],
        carried("veth0").to_vec(),
        carried("cni0").to_vec(),
    ];
    assert_eq!(reasons, expected.concat());
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
    )
        .prop_map(
            |(kind, master, peer_elsewhere, addresses, routes, qdiscs, filters)| HostLink {
                name: "any".to_owned(),
                kind: kind.to_owned(),
                master,
                up: peer_elsewhere,
                peer_elsewhere,
                addresses,
                routes,
                qdiscs,
                filters,
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
            let mut clean = true;
            for ifindex in [Some(ifindex), bridge].into_iter().flatten() {
                let link = &host.links[&ifindex];
                clean &= rules.foreign_programs.get(&ifindex).is_none();
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
