use super::*;
use crate::permits::Addresses;
use twill_datapath::operator::Word;
use twill_files::status::{FastPathStatus, PodStatus};

/// A flow that is fast.
fn facts() -> Facts {
    let flow = Flow {
        pod: "10.244.1.2:40000".parse().unwrap(),
        peer: "10.96.0.1:80".parse().unwrap(),
        protocol: Protocol::Tcp,
    };
    Facts {
        flow,
        settings: PinnedSettings {
            mode: "bpf",
            operator: None,
            fast_path: Word {
                holds: "permit",
                agent: "permit",
                operator: None,
            },
            tcp_permits: true,
            mark_bit: 0x1000,
            permit_seconds: 10.0,
            heartbeat_age_seconds: 1,
            stale: false,
            routed_by_port: false,
            rule_marks: 0,
            vni: 1,
            port: 8472,
            uplink_ifindex: 2,
            overlay_ifindex: 3,
        },
        said: Status {
            subnet: "10.244.1.0/24".to_owned(),
            ..Status::default()
        },
        record: Some(record(State::Live)),
        veth: Veth {
            attached: true,
            never_fast: false,
        },
        way: Way::Confirmed,
        unheard: None,
    }
}

fn record(state: State) -> View {
    View {
        state,
        why: None,
        kind: "permit",
        protocol: "tcp".to_owned(),
        local: "10.244.1.2:40000".to_owned(),
        remote: "10.96.0.1:80".to_owned(),
        wire_local: "10.244.1.2:40000".to_owned(),
        wire_remote: "10.244.2.2:8080".to_owned(),
        nat: true,
        ifindex: 5,
        interface: Some("veth5".to_owned()),
        vtep_index: 1,
        vtep: Some("192.0.2.2".parse().unwrap()),
        stale_vtep: false,
        age_seconds: 1.0,
        out_seconds: 5.0,
        in_seconds: 0.0,
        probe_out_seconds: None,
        probe_in_seconds: None,
        tombstone_seconds: None,
        probes: 0,
        renewals: 0,
        addresses: Addresses {
            pod: "10.244.1.2".parse().unwrap(),
            peer: "10.96.0.1".parse().unwrap(),
            wire_peer: "10.244.2.2".parse().unwrap(),
        },
    }
}

fn slow(change: impl FnOnce(&mut Facts), expected: &str) {
    let mut facts = facts();
    change(&mut facts);
    let Answer { fast, why } = answer(&facts);
    assert!(!fast && why.contains(expected), "{expected:?}: {why}");
}

#[test]
fn with_nothing_in_the_way_it_is_fast() {
    assert!(answer(&facts()).fast);
}

#[test]
fn the_settings_come_first() {
    slow(
        |facts| facts.settings.mode = "kernel",
        "mode is kernel, as twilld says",
    );
    slow(
        |facts| {
            facts.settings.mode = "kernel";
            facts.settings.operator = Some("kernel");
        },
        "the operator's override",
    );
    slow(|facts| facts.settings.stale = true, "doubts");
    let off = |operator| {
        move |facts: &mut Facts| {
            facts.settings.fast_path.holds = "off";
            facts.settings.fast_path.operator = operator;
            facts.said.fast_path.reason = Some("no nft".to_owned());
        }
    };
    slow(off(None), "off, as twilld says (no nft)");
    slow(off(Some("off")), "off, by the operator's override");
    slow(
        |facts| facts.settings.tcp_permits = false,
        "TCP flows get no permits",
    );
}

#[test]
fn so_do_the_addresses() {
    slow(
        |facts| facts.flow.pod = "10.244.9.2:1".parse().unwrap(),
        "no pod of this node",
    );
    slow(
        |facts| facts.flow.peer = "10.244.1.9:1".parse().unwrap(),
        "on this node",
    );
    let exclude = vec!["rubbish".to_owned(), "10.96.0.0/16".to_owned()];
    slow(
        |facts| {
            facts.said.fast_path = FastPathStatus {
                exclude,
                ..FastPathStatus::default()
            };
        },
        "10.96.0.1 is excluded by --exclude 10.96.0.0/16",
    );
}

#[test]
fn then_the_veth_and_the_record() {
    slow(|facts| facts.record = None, "accepted no packet");
    slow(
        |facts| facts.veth.attached = false,
        "no program is on veth5",
    );
    slow(
        |facts| {
            facts.veth.never_fast = true;
            facts.said.pods = vec![PodStatus {
                ifindex: 5,
                never_fast: Some("it has the qdisc tbf".to_owned()),
                ..PodStatus::default()
            }];
        },
        "never fast: it has the qdisc tbf",
    );
    for (state, expected) in [
        (State::Garbage, "no program of Twill"),
        (State::Tombstone, "FIN or RST"),
        (State::Expired, "did not accept a packet of it lately"),
        (State::Half, "no packet into the pod"),
    ] {
        slow(|facts| facts.record = Some(record(state)), expected);
    }
}

#[test]
fn and_the_way_to_the_node_last() {
    slow(
        |facts| {
            facts
                .record
                .iter_mut()
                .for_each(|record| record.stale_vtep = true);
        },
        "lease behind it has changed",
    );
    slow(|facts| facts.way = Way::Unconfirmed, "VXLAN to 192.0.2.2");
    slow(|facts| facts.way = Way::Disputed, "another next hop");
    slow(
        |facts| {
            facts.record = None;
            facts.unheard = "192.0.2.2".parse().ok();
            facts.settings.fast_path.holds = "direct";
        },
        "nothing from 192.0.2.2 came in by the uplink",
    );
    let rule = "ip rule 100 sport 1-2: every packet to other nodes is the kernel's";
    slow(
        |facts| {
            facts.settings.routed_by_port = true;
            facts.said.routing = vec![rule.to_owned()];
        },
        rule,
    );
    slow(
        |facts| {
            facts.record = None;
            facts.said.routing = vec![rule.to_owned()];
        },
        rule,
    );
}
