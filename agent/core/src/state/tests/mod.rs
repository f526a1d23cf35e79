//! What events make of the state.

mod fake_store;

use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;

use crate::backend::Peer;
use crate::config::NetworkConfig;
use crate::event::Event;
use crate::lease::{BackendData, Lease, LeaseAttrs};
use crate::leases::{Listing, Position, StoreEvent};
use crate::observed::{Observed, ObservedMaps};
use crate::peers::Objection;
use crate::plan::{plan, plan_peer};
use crate::simulate::apply_op;
use crate::state::{Change, State, desired};
use crate::subnet::Subnet;
use crate::uplink::Uplink;
use crate::vtep::{MacAddr, RemoteVtep};

const OWN: u8 = 100;

fn subnet(n: u8) -> Subnet {
    format!("10.244.{n}.0/24").parse().unwrap()
}

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

fn at(mac_number: u8, underlay: u8) -> Peer {
    Peer::Vtep(RemoteVtep {
        underlay: [192, 168, 0, underlay].into(),
        mac: mac(mac_number),
    })
}

fn uplink(address: u8) -> Uplink {
    let address = Ipv4Addr::new(192, 168, 0, address);
    Uplink {
        ifindex: 2,
        name: "eth0".to_owned(),
        mtu: 1500,
        mac: mac(0xff),
        address,
        public_ip: address,
        local: address,
    }
}

fn state() -> State {
    let text = r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}"#;
    let config = NetworkConfig::parse(text).unwrap();
    let mut state = State::new(config, uplink(OWN), mac(OWN));
    state.set_own_subnet(Some(subnet(OWN)));
    state
}

fn lease(subnet: Subnet, mac: u8, underlay: u8) -> Lease {
    let data = serde_json::json!({"VNI": 1, "VtepMAC": self::mac(mac)});
    Lease {
        subnet,
        attrs: LeaseAttrs {
            public_ip: Ipv4Addr::new(192, 168, 0, underlay),
            public_ipv6: None,
            backend_type: "vxlan".to_owned(),
            backend_data: Some(BackendData::from(&data)),
            backend_v6_data: None,
        },
        ttl_seconds: None,
    }
}

fn unreadable(n: u8) -> Lease {
    let mut lease = lease(subnet(n), n, n);
    let data = serde_json::json!({"VtepMAC": "nonsense"});
    lease.attrs.backend_data = Some(BackendData::from(&data));
    lease
}

fn put(lease: Lease) -> Event {
    StoreEvent::Put(lease).into()
}

fn gone(subnet: Subnet) -> Event {
    StoreEvent::Gone(subnet).into()
}

fn resync(leases: Vec<Lease>) -> Event {
    let listing = Listing {
        position: Position::new("1"),
        replaced: false,
        leases,
        unread: Vec::new(),
    };
    StoreEvent::Listed(listing).into()
}

fn replaced(leases: Vec<Lease>) -> Event {
    let listing = Listing {
        position: Position::new("1"),
        replaced: true,
        leases,
        unread: Vec::new(),
    };
    StoreEvent::Listed(listing).into()
}

fn apply(state: &mut State, event: Event) -> Change {
    state.apply(event, Duration::ZERO)
}

fn add(state: &mut State, n: u8, mac: u8, underlay: u8) -> Change {
    apply(state, put(lease(subnet(n), mac, underlay)))
}

fn conflicts(state: &State) -> Vec<(Subnet, Objection)> {
    let conflicts = state.conflicts();
    conflicts.map(|it| (it.subnet, it.objection)).collect()
}

#[test]
fn lease_comes_changes_and_goes() {
    let mut state = state();
    assert_eq!(add(&mut state, 1, 1, 1), Change::Peer(subnet(1)));
    assert_eq!(add(&mut state, 1, 1, 1), Change::Nothing);
    assert_eq!(add(&mut state, 1, 2, 1), Change::Peer(subnet(1)));
    assert_eq!(state.peer(subnet(1)), Some(at(2, 1)));
    let removed = gone(subnet(1));
    assert_eq!(apply(&mut state, removed.clone()), Change::Peer(subnet(1)));
    assert_eq!(apply(&mut state, removed), Change::Nothing);
    assert_eq!(state.peer(subnet(1)), None);
}

#[test]
fn own_lease_is_no_peer_and_no_conflict() {
    let mut state = state();
    assert_eq!(add(&mut state, OWN, OWN, OWN), Change::Nothing);
    // As published under another address, or by the device before its MAC was read.
    assert_eq!(add(&mut state, OWN, OWN, 7), Change::Nothing);
    assert_eq!(add(&mut state, OWN, 7, OWN), Change::Nothing);
    assert!(state.peers().is_empty());
    assert_eq!(conflicts(&state), []);
}

#[test]
fn others_on_our_subnet_or_address_are_conflicts() {
    let mut state = state();
    add(&mut state, OWN, 1, 1);
    add(&mut state, 2, 2, OWN);
    assert!(state.peers().is_empty());
    let own_address = [192, 168, 0, OWN].into();
    assert_eq!(
        conflicts(&state),
        [
            (subnet(OWN), Objection::OverlapsOwn(subnet(OWN))),
            (subnet(2), Objection::OwnUnderlay(own_address)),
        ]
    );
}

#[test]
fn a_claim_to_our_mac_address_is_a_conflict_and_no_peer() {
    let mut state = state();
    add(&mut state, 2, OWN, 2);
    assert!(state.peers().is_empty());
    let own_mac = Objection::OwnMac(mac(OWN));
    assert_eq!(conflicts(&state), [(subnet(2), own_mac)]);
    assert_eq!(state.claims_against_us().count(), 1);
    // Our device may get another address, and the other's too.
    state.set_device_mac(mac(OWN + 1));
    assert_eq!(state.peer(subnet(2)), Some(at(OWN, 2)));
    assert_eq!(state.claims_against_us().count(), 0);
    state.set_device_mac(mac(OWN));
    assert!(state.peers().is_empty());
    assert_eq!(add(&mut state, 2, 2, 2), Change::Peer(subnet(2)));
    assert_eq!(conflicts(&state), []);
}

#[test]
fn our_own_lease_with_another_s_mac_address_is_a_conflict_once_ours_was_seen() {
    let mut state = state();
    add(&mut state, OWN, 7, OWN);
    assert_eq!(conflicts(&state), []);
    state.set_device_mac(mac(OWN));
    let not_ours = Objection::OwnLease(mac(7));
    assert_eq!(conflicts(&state), [(subnet(OWN), not_ours)]);
    // The store has what the device had before, until it is told.
    state.set_device_mac(mac(8));
    add(&mut state, OWN, OWN, OWN);
    assert_eq!(conflicts(&state), []);
    add(&mut state, OWN, 8, OWN);
    assert_eq!(conflicts(&state), []);
    // Others' quarrels are not ours.
    add(&mut state, 1, 1, 1);
    add(&mut state, 2, 2, 1);
    assert_eq!(
        (state.conflicts().count(), state.claims_against_us().count()),
        (1, 0)
    );
}

#[test]
fn older_owner_stays() {
    let mut state = state();
    add(&mut state, 5, 5, 5);
    let half: Subnet = "10.244.5.128/25".parse().unwrap();
    apply(&mut state, put(lease(half, 1, 1)));
    assert_eq!(add(&mut state, 2, 9, 5), Change::Nothing);
    assert_eq!(add(&mut state, 3, 5, 9), Change::Nothing);
    assert_eq!(state.peers().len(), 1);
    assert_eq!(
        conflicts(&state),
        [
            (half, Objection::Overlaps(subnet(5))),
            (subnet(2), Objection::UnderlayTaken(mac(5))),
            (subnet(3), Objection::MacTaken([192, 168, 0, 5].into())),
        ]
    );
}

#[test]
fn one_node_may_hold_several_subnets() {
    let mut state = state();
    add(&mut state, 1, 1, 1);
    assert_eq!(add(&mut state, 2, 1, 1), Change::Peer(subnet(2)));
    assert_eq!(conflicts(&state), []);
}

#[test]
fn loser_gets_in_when_the_winner_goes() {
    let mut state = state();
    add(&mut state, 1, 1, 1);
    add(&mut state, 2, 9, 1);
    let change = apply(&mut state, gone(subnet(1)));
    assert_eq!(change, Change::Everything);
    assert_eq!(state.peer(subnet(2)), Some(at(9, 1)));
    assert_eq!(conflicts(&state), []);
}

#[test]
fn node_with_two_subnets_changes_its_mac() {
    let mut state = state();
    add(&mut state, 1, 1, 1);
    add(&mut state, 2, 1, 1);
    add(&mut state, 1, 9, 1);
    assert_eq!(add(&mut state, 2, 9, 1), Change::Everything);
    assert_eq!(state.peer(subnet(1)), Some(at(9, 1)));
    assert_eq!(state.peer(subnet(2)), Some(at(9, 1)));
    assert_eq!(conflicts(&state), []);
}

#[test]
fn unreadable_update_keeps_the_last_good_one() {
    let mut state = state();
    add(&mut state, 1, 1, 1);
    for event in [
        put(unreadable(1)),
        resync(vec![unreadable(1), unreadable(2)]),
    ] {
        apply(&mut state, event);
        assert_eq!(state.peer(subnet(1)), Some(at(1, 1)));
        assert!(state.rejected().contains_key(&subnet(1)));
    }
    assert_eq!(state.peer(subnet(2)), None);
    assert_eq!(state.rejected().len(), 2);
    add(&mut state, 2, 2, 2);
    apply(&mut state, gone(subnet(1)));
    assert!(state.rejected().is_empty());
    assert_eq!(state.peer(subnet(1)), None);
}

#[test]
fn resync_forgets_what_is_not_listed_and_makes_the_list_complete() {
    let mut state = state();
    add(&mut state, 1, 1, 1);
    assert!(!desired(&state).complete);
    apply(&mut state, resync(vec![lease(subnet(2), 2, 2)]));
    assert!(desired(&state).complete);
    assert_eq!(
        state.peers().iter().collect::<Vec<_>>(),
        [(subnet(2), at(2, 2))]
    );
}

#[test]
fn resync_prefers_who_was_there_then_the_lowest_subnet() {
    let list = |order: [u8; 3]| resync(order.map(|n| lease(subnet(n), n, 1)).into());
    let mut state = state();
    apply(&mut state, list([3, 2, 1]));
    assert_eq!(
        state.peers().iter().collect::<Vec<_>>(),
        [(subnet(1), at(1, 1))]
    );

    let mut state = self::state();
    add(&mut state, 2, 2, 1);
    apply(&mut state, list([1, 2, 3]));
    assert_eq!(
        state.peers().iter().collect::<Vec<_>>(),
        [(subnet(2), at(2, 1))]
    );
    assert_eq!(state.conflicts().count(), 2);
}

#[test]
fn subnet_listed_twice_is_a_conflict() {
    let twice = [lease(subnet(1), 2, 2), lease(subnet(1), 1, 1)];
    let mut state = state();
    apply(&mut state, resync(twice.to_vec()));
    assert_eq!(state.peer(subnet(1)), Some(at(1, 1)));
    assert_eq!(
        conflicts(&state),
        [(subnet(1), Objection::Overlaps(subnet(1)))]
    );
}

#[test]
fn another_uplink_is_judged_anew() {
    let mut state = state();
    add(&mut state, 1, 1, 1);
    add(&mut state, 2, 2, OWN);
    assert_eq!(state.set_uplink(uplink(OWN)), Change::Nothing);
    assert_eq!(state.set_uplink(uplink(1)), Change::Everything);
    assert_eq!(state.peer(subnet(1)), None);
    assert_eq!(state.peer(subnet(2)), Some(at(2, OWN)));
}

#[test]
fn what_others_publish_is_elsewhere_and_our_own_lease_is_not() {
    let mut state = state();
    let address = |n| Ipv4Addr::new(192, 168, 0, n);
    add(&mut state, 1, 1, 1);
    // Our lease as the store still has it, and another one of our device.
    add(&mut state, OWN, OWN, 7);
    add(&mut state, 2, OWN, 8);
    assert_eq!(state.elsewhere(), [address(1)].into());
    // Somebody else at our address, who is no peer for that.
    add(&mut state, 3, 3, OWN);
    assert_eq!(state.elsewhere(), [address(1), address(OWN)].into());
}

#[test]
fn desired_is_flannels_device_and_address() {
    let desired = desired(&state());
    let link = desired.link.unwrap();
    assert_eq!(link.name.as_str(), "flannel.1");
    assert_eq!(link.mtu, 1450);
    let own = Ipv4Addr::new(10, 244, OWN, 0);
    assert_eq!(link.address, Some(own.into()));
}

#[test]
fn the_device_follows_the_uplinks_mtu_and_nobody_elses_is_touched() {
    let mut state = state();
    let uplink = |state: &State, mtu| Uplink {
        mtu,
        ..state.uplink().clone()
    };
    let former = |state: &State| state.link().unwrap().former_mtu;
    // Whatever it was made with, or found with.
    assert_eq!(former(&state), None);
    state.set_device_mtu(1300);
    assert_eq!(former(&state), None);
    let smaller = uplink(&state, 1400);
    state.set_uplink(smaller);
    let larger = uplink(&state, 9000);
    state.set_uplink(larger);
    // Not yet done, or refused.
    state.set_device_mtu(1450);
    assert_eq!(former(&state), Some(1450));
    state.set_device_mtu(8950);
    assert_eq!(former(&state), None);
    // There and back before anybody looked.
    for mtu in [1400, 9000] {
        let uplink = uplink(&state, mtu);
        state.set_uplink(uplink);
    }
    state.set_device_mtu(8950);
    assert_eq!(former(&state), None);
}

fn some_lease() -> impl Strategy<Value = Lease> {
    let prefix = prop_oneof![Just("0/24"), Just("0/24"), Just("0/25"), Just("128/25")];
    (1..7_u8, prefix, 1..5_u8, 1..5_u8, 0..3_u8).prop_map(|(n, prefix, mac, underlay, same)| {
        let subnet = format!("10.244.{n}.{prefix}").parse().unwrap();
        lease(subnet, mac, if same > 0 { mac } else { underlay })
    })
}

/// What may change what is known.
#[derive(Clone, Debug)]
enum Step {
    Event(Event, u64),
    Uplink(u8),
}

fn some_step() -> impl Strategy<Value = Step> {
    let leases = || proptest::collection::vec(some_lease(), 0..6);
    let event = prop_oneof![
        6 => some_lease().prop_map(put),
        3 => some_lease().prop_map(|lease| gone(lease.subnet)),
        1 => (1..7_u8).prop_map(|n| put(unreadable(n))),
        1 => leases().prop_map(resync),
        1 => leases().prop_map(replaced),
        1 => Just(StoreEvent::Reached(Position::new("2")).into()),
        1 => Just(StoreEvent::Lost("away".to_owned()).into()),
        1 => Just(Event::KernelChanged),
    ];
    prop_oneof![
        14 => (event, 0..90_000_u64).prop_map(|(event, pause)| Step::Event(event, pause)),
        1 => prop_oneof![Just(OWN), 1..5_u8].prop_map(Step::Uplink),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// What the run loop does: plan what the change says, and nothing is left to plan.
    #[test]
    fn change_says_all_that_has_to_be_planned(
        steps in proptest::collection::vec(some_step(), 1..25), capacity in 0..7_u32,
    ) {
        let mut state = state();
        apply(&mut state, resync(Vec::new()));
        let maps = ObservedMaps {
            vtep_capacity: capacity,
            route_capacity: capacity,
            ..ObservedMaps::default()
        };
        let mut observed = Observed { maps: Some(maps), ..Observed::default() };
        for op in plan(&observed, &desired(&state)).ops {
            apply_op(&mut observed, &op);
        }
        let mut now = Duration::ZERO;
        for step in steps {
            let change = match step.clone() {
                Step::Uplink(n) => state.set_uplink(uplink(n)),
                Step::Event(event, pause) => {
                    now += Duration::from_secs(pause);
                    state.apply(event, now)
                }
            };
            let ops = match change {
                Change::Nothing => Vec::new(),
                Change::Peer(subnet) => plan_peer(&observed, &state, subnet).ops,
                Change::Everything => plan(&observed, &desired(&state)).ops,
            };
            for op in ops {
                apply_op(&mut observed, &op);
            }
            prop_assert_eq!(plan(&observed, &desired(&state)).ops, vec![], "after {:?}", step);
            prop_assert!(state.peer(subnet(OWN)).is_none());
            let waiting = state.leases.claims().waits_for_nothing(&state.own);
            prop_assert_eq!(waiting, None, "after {:?}", step);
        }
    }
}
