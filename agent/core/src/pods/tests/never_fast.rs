//! What keeps a pod's packets slow, and in which words.

use super::*;

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
fn a_pods_own_program_shows_in_what_its_veth_may_carry() {
    let why = "the pod behind veth0 has an XDP program, which fast packets would skip";
    for (max_mtu, expected) in [
        (None, None),
        (Some(65535), None),
        // Without fragments, and with them.
        (Some(3506), Some(why)),
        (Some(73138), Some(why)),
    ] {
        let change = |host: &mut HostLinks, _: &mut Rules| {
            host.links.get_mut(&VETH).unwrap().max_mtu = max_mtu;
        };
        check_slow(&format!("{max_mtu:?}"), change, [expected, None]);
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
            NeverFast::PodProgram { link }
            | NeverFast::ForeignQdisc { link, .. }
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

#[test]
fn what_an_uplink_has_by_default_is_nobody_s_policy() {
    let ours = OurFilters {
        ingress: "from_uplink".to_owned(),
        egress: "to_uplink".to_owned(),
        ..rules().our_filters
    };
    let judge = |qdiscs: &[Qdisc], filters: &[Filter], program| {
        let uplink = HostLink {
            name: "eth0".to_owned(),
            qdiscs: qdiscs.iter().cloned().collect(),
            filters: filters.iter().cloned().collect(),
            ..HostLink::default()
        };
        judge_uplink(&uplink, &ours, program).map(|reason| reason.label())
    };
    let root = |kind: &str| Qdisc::Root(kind.to_owned());
    let clsact = Qdisc::Ingress("clsact".to_owned());
    for kind in ["noqueue", "mq", "pfifo_fast", "fq_codel", "fq"] {
        assert_eq!(judge(&[root(kind)], &[], None), None, "{kind}");
    }
    for kind in ["htb", "tbf", "prio", "netem", "cake", ""] {
        assert_eq!(
            judge(&[root(kind)], &[], None),
            Some("foreign_qdisc"),
            "{kind}"
        );
    }
    let ingress = Qdisc::Ingress("ingress".to_owned());
    assert_eq!(judge(&[ingress], &[], None), Some("foreign_qdisc"));
    let filter = |hook, program: &str| Filter {
        hook,
        priority: ours.priority,
        handle: ours.handle,
        kind: "bpf".to_owned(),
        program: Some(program.to_owned()),
    };
    let own = [
        filter(Hook::Ingress, "from_uplink"),
        filter(Hook::Egress, "to_uplink"),
    ];
    let usual = [root("mq"), clsact];
    assert_eq!(judge(&usual, &own, None), None);
    let other = filter(Hook::Ingress, "retis");
    assert_eq!(judge(&usual, &[other], None), Some("foreign_filter"));
    assert_eq!(judge(&usual, &own, Some("retis")), Some("foreign_program"));
}
