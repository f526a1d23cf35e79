use std::collections::HashMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;
use twill_abi::{
    Address, Be16, PERMIT_FLAG_DIRECT, PERMIT_FLAG_UNANSWERED, PERMIT_FLAG_UNHEARD, PERMIT_FLAGS,
    PERMIT_LIVE, PERMIT_TOMBSTONE,
};

use super::watch::{Change, changes};
use super::*;

const NOW: u64 = 100_000_000_000;
const SECOND: u64 = 1_000_000_000;

fn tuple(remote: [u8; 4], remote_port: u16) -> FlowTuple {
    FlowTuple {
        local: Address::from(Ipv4Addr::new(10, 244, 1, 2)),
        remote: Address::from(Ipv4Addr::from(remote)),
        local_port: Be16::from_host(40_000),
        remote_port: Be16::from_host(remote_port),
        protocol: 6,
        reserved: [0; 3],
    }
}

/// A flow through a Service, accepted in both directions for five seconds more.
fn service() -> Permit {
    let (pod, wire) = (tuple([10, 96, 0, 1], 80), tuple([10, 244, 2, 2], 8080));
    Permit {
        out_until_ns: NOW + 5 * SECOND,
        in_until_ns: NOW + 5 * SECOND + SECOND / 2,
        probe_out_at_ns: NOW + 250_000_000,
        vtep: 1,
        vtep_generation: 3,
        probes: 2,
        renewals: 4,
        pod_mac: [2; 6],
        gateway_mac: [2; 6],
        sent_to_mac: [2; 6],
        ..Permit::new(&pod, &wire, 5, NOW - 7 * SECOND)
    }
}

fn vtep() -> Vtep {
    Vtep {
        underlay: Address::from(Ipv4Addr::new(192, 0, 2, 2)),
        subnet: Address::from(Ipv4Addr::new(10, 244, 2, 0)),
        mac: [2; 6],
        subnet_prefix: 120,
        reserved: 0,
        vni: 1,
        flags: 1,
        generation: 3,
        path_mtu: 0,
        subnet_mtu: 0,
        reserved_tail: 0,
    }
}

fn seen(key: &FlowTuple, record: &Permit) -> View {
    let around = Surroundings {
        now_ns: NOW,
        interface: &|ifindex| (ifindex == 5).then(|| "veth5".to_owned()),
        vtep: &|index| (index == 1).then(vtep),
    };
    View::of(key, record, &around)
}

fn view(record: &Permit) -> View {
    seen(&record.pod, record)
}

fn all(records: &[Permit]) -> BTreeMap<String, View> {
    let around = Surroundings {
        now_ns: NOW,
        interface: &|_| None,
        vtep: &|_| None,
    };
    let records: HashMap<_, _> = records.iter().map(|one| (one.pod, *one)).collect();
    views(&records, &around)
}

#[test]
fn a_service_shows_its_nat_and_what_is_left() {
    let view = view(&service());
    assert_eq!(
        row(&view),
        [
            "live",
            "permit",
            "tcp",
            "10.244.1.2:40000",
            "10.96.0.1:80 → 10.244.2.2:8080",
            "veth5",
            "192.0.2.2",
            "7.0",
            "5.0",
            "5.5",
            "0.2",
            "2",
            "4",
        ]
    );
    assert!(view.nat && !view.stale_vtep);
}

#[test]
fn the_state_is_what_the_programs_would_make_of_it() {
    for (state, out_left, in_left, tombstone_left, expected) in [
        (PERMIT_LIVE, 1, 1, 0, State::Live),
        (PERMIT_LIVE, 1, 0, 0, State::Half),
        (PERMIT_LIVE, 0, 1, 0, State::Half),
        (PERMIT_LIVE, 0, 0, 0, State::Expired),
        (PERMIT_TOMBSTONE, 1, 1, 1, State::Tombstone),
        (PERMIT_TOMBSTONE, 1, 1, 0, State::Expired),
    ] {
        let record = Permit {
            state,
            out_until_ns: NOW + out_left,
            in_until_ns: NOW + in_left,
            tombstone_until_ns: NOW + tombstone_left,
            ..service()
        };
        assert_eq!(view(&record).state, expected, "{record:?}");
    }
}

#[test]
fn a_vtep_that_changed_or_went_is_stale() {
    assert!(
        view(&Permit {
            vtep_generation: 4,
            ..service()
        })
        .stale_vtep
    );
    let gone = view(&Permit {
        vtep: 9,
        ..service()
    });
    assert_eq!((gone.vtep, gone.stale_vtep), (None, true));
    // Learned from the reply first: no VTEP yet.
    let half = view(&Permit {
        out_until_ns: 0,
        vtep: 9,
        ..service()
    });
    assert_eq!((half.vtep, half.stale_vtep), (None, false));
}

#[test]
fn what_no_program_writes_is_garbage_with_a_reason() {
    let good = service();
    let icmp = FlowTuple {
        protocol: 1,
        ..good.pod
    };
    let udp = FlowTuple {
        protocol: 17,
        ..good.wire
    };
    let dirty = FlowTuple {
        reserved: [0, 0, 1],
        ..good.wire
    };
    for (bad, expected) in [
        (
            Permit {
                pod: icmp,
                wire: icmp,
                ..good
            },
            "neither TCP nor UDP",
        ),
        (Permit { wire: udp, ..good }, "two protocols"),
        (
            Permit {
                wire: dirty,
                ..good
            },
            "reserved bytes are not zero",
        ),
        (Permit { state: 0, ..good }, "unknown state 0"),
        (Permit { flags: 6, ..good }, "unknown flags 0x6"),
        (
            Permit {
                in_until_ns: u64::MAX,
                ..good
            },
            "accepted for longer than any permit",
        ),
    ] {
        let view = view(&bad);
        assert_eq!(
            (view.state, view.why.as_deref()),
            (State::Garbage, Some(expected))
        );
    }
    let other = seen(&good.wire, &good);
    assert_eq!(other.why.as_deref(), Some("its tuple is not its key"));
    assert_eq!(other.local, "10.244.1.2:40000", "the key counts");
}

#[test]
fn a_direct_record_has_no_probes() {
    let direct = view(&Permit {
        flags: PERMIT_FLAG_DIRECT,
        ..service()
    });
    assert_eq!((direct.kind, direct.probe_out_seconds), ("direct", None));
}

#[test]
fn a_direct_record_is_one_before_the_other_side_was_heard_as_well() {
    let why = |flags| {
        let record = Permit { flags, ..service() };
        view(&record).why
    };
    for flags in [
        PERMIT_FLAG_DIRECT,
        PERMIT_FLAG_DIRECT | PERMIT_FLAG_UNANSWERED,
        PERMIT_FLAG_DIRECT | PERMIT_FLAG_UNHEARD,
        PERMIT_FLAGS,
    ] {
        assert_eq!(why(flags), None, "{flags:#x}");
    }
    // None of a permit, and none that nobody knows.
    for flags in [PERMIT_FLAG_UNANSWERED, PERMIT_FLAG_UNHEARD, 9] {
        let expected = format!("unknown flags {flags:#x}");
        assert_eq!(why(flags), Some(expected));
    }
}

#[test]
fn a_filter_knows_the_peer_by_both_its_addresses() {
    let record = service();
    let addresses = Addresses::of(&record.pod, &record);
    for (pod, peer, fits) in [
        (None, None, true),
        (Some("10.244.1.2"), None, true),
        (Some("10.244.1.3"), None, false),
        (None, Some("10.96.0.1"), true),
        (None, Some("10.244.2.2"), true),
        (None, Some("10.244.1.2"), false),
        (Some("10.244.1.2"), Some("10.244.2.3"), false),
        (Some("::1"), None, false),
    ] {
        let parse = |text: Option<&str>| text.map(|text| text.parse().unwrap());
        let which = Which {
            pod: parse(pod),
            peer: parse(peer),
        };
        assert_eq!(which.fits(&addresses), fits, "{which:?}");
    }
}

#[test]
fn watching_tells_what_came_changed_and_went() {
    let other = Permit {
        pod: tuple([10, 96, 0, 1], 81),
        ..service()
    };
    let closed = Permit {
        state: PERMIT_TOMBSTONE,
        tombstone_until_ns: NOW + SECOND,
        ..service()
    };
    let renewed = Permit {
        out_until_ns: NOW + 9 * SECOND,
        renewals: 5,
        ..service()
    };
    let moved = Permit {
        wire: tuple([10, 244, 3, 2], 8080),
        ..service()
    };
    let told = |before: &[Permit], now: &[Permit]| -> Vec<(Change, String)> {
        changes(&all(before), &all(now))
            .into_iter()
            .map(|(change, view)| (change, view.remote.clone()))
            .collect()
    };
    let (first, second) = ("10.96.0.1:80".to_owned(), "10.96.0.1:81".to_owned());
    assert_eq!(told(&[], &[service()]), [(Change::New, first.clone())]);
    assert_eq!(told(&[service()], &[renewed]), []);
    for changed in [closed, moved] {
        assert_eq!(
            told(&[service()], &[changed]),
            [(Change::Changed, first.clone())]
        );
    }
    assert_eq!(
        told(&[service()], &[other]),
        [(Change::New, second), (Change::Gone, first)]
    );
}

proptest! {
    /// Whatever is in the map: it is shown, and never takes the tool down.
    #[test]
    fn any_bytes_are_shown(
        words in prop::array::uniform12(any::<u64>()),
        address in any::<[u8; 16]>(),
        port in any::<u16>(),
        byte in any::<u8>(),
    ) {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = words;
        let low = |word: u64| u32::try_from(word & 0xffff_ffff).unwrap();
        let tuple = FlowTuple {
            local: Address::from(IpAddr::from(address)),
            remote: Address::from(IpAddr::from(address)),
            local_port: Be16::from_host(port),
            remote_port: Be16::from_host(port),
            protocol: byte,
            reserved: [byte; 3],
        };
        let record = Permit {
            pod: tuple,
            wire: tuple,
            out_until_ns: a,
            in_until_ns: b,
            probe_out_at_ns: c,
            probe_in_at_ns: d,
            tombstone_until_ns: e,
            since_ns: f,
            ifindex: low(g),
            vtep: low(h),
            vtep_generation: low(i),
            probes: low(j),
            renewals: low(k),
            state: low(l),
            pod_mac: [byte; 6],
            gateway_mac: [byte; 6],
            sent_to_mac: [byte; 6],
            pod_mtu: u16::from(byte),
            flags: low(a),
            look_at_ns: b,
        };
        let view = view(&record);
        prop_assert_eq!(row(&view).len(), 13);
        prop_assert!(serde_json::to_string(&view).is_ok());
    }
}
