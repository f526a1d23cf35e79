//! What each word of a store makes of the index.

use std::time::Duration;

use super::*;
use crate::peers::Peers;
use crate::uplink::Uplink;
use crate::vtep::MacAddr;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
/// When the machine has been up for a while.
const NOW: Duration = Duration::from_hours(1000);

fn subnet(n: u8) -> Subnet {
    format!("10.244.{n}.0/24").parse().unwrap()
}

fn lease(n: u8) -> Lease {
    lease_of(n, n)
}

/// Of an hour, where the store says how long.
fn lease_of(n: u8, node: u8) -> Lease {
    let text = format!(
        r#"{{"subnet":"10.244.{n}.0/24","ttl_seconds":3600,"attrs":{{"PublicIP":"192.0.2.{node}",
            "BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:{node:02}"}}}}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn listing(replaced: bool, leases: impl IntoIterator<Item = Lease>) -> Listing {
    Listing {
        position: Position::new("10"),
        replaced,
        leases: leases.into_iter().collect(),
        unread: Vec::new(),
    }
}

fn listed(leases: impl IntoIterator<Item = Lease>) -> StoreEvent {
    StoreEvent::Listed(listing(false, leases))
}

fn replaced(leases: impl IntoIterator<Item = Lease>) -> StoreEvent {
    StoreEvent::Listed(listing(true, leases))
}

fn reached(position: &str) -> StoreEvent {
    StoreEvent::Reached(Position::new(position))
}

/// An index, and what it judges by.
struct Lab {
    config: NetworkConfig,
    own: Own,
    index: LeaseIndex,
}

impl Lab {
    fn new() -> Self {
        let text = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;
        let address = [192, 0, 2, 100].into();
        let uplink = Uplink {
            ifindex: 2,
            name: "eth0".to_owned(),
            mtu: 1500,
            mac: MacAddr([2, 0, 0, 0, 0, 0xff]),
            address,
            public_ip: address,
            local: address,
        };
        Self {
            config: NetworkConfig::parse(text).unwrap(),
            own: Own::new(uplink, MacAddr([2, 0, 0, 0, 0, 0xfe])),
            index: LeaseIndex::default(),
        }
    }

    /// After a list of these.
    fn knowing(nodes: &[u8]) -> Self {
        let mut lab = Self::new();
        lab.say(listed(nodes.iter().copied().map(lease)), NOW);
        lab
    }

    /// Of a start after one that left these, and kept some until then.
    fn remembering(nodes: &[u8], kept_until: Option<Duration>, now: Duration) -> Self {
        let mut lab = Self::new();
        let leases: Vec<Lease> = nodes.iter().copied().map(lease).collect();
        let judge = Judge {
            config: &lab.config,
            own: &lab.own,
        };
        lab.index.remember(&leases, kept_until, judge, now);
        lab
    }

    fn say(&mut self, event: StoreEvent, now: Duration) -> Change {
        let judge = Judge {
            config: &self.config,
            own: &self.own,
        };
        self.index.apply(event, judge, now)
    }

    fn peers(&self) -> &Peers {
        self.index.claims().peers()
    }

    #[track_caller]
    fn check(&self, nodes: &[u8]) {
        let peers: Vec<Subnet> = self.peers().iter().map(|(subnet, _)| subnet).collect();
        let expected: Vec<Subnet> = nodes.iter().copied().map(subnet).collect();
        assert_eq!(peers, expected);
    }

    fn kept_until(&self) -> Option<Duration> {
        self.index.checkpoint().unwrap().kept_until
    }
}

#[test]
fn the_first_list_is_taken_as_it_is() {
    let mut lab = Lab::new();
    assert_eq!(lab.index.checkpoint(), None);
    lab.say(reached("9"), NOW);
    assert!(!lab.index.is_complete());
    assert_eq!(
        lab.say(listed([lease(2), lease(1)]), NOW),
        Change::Everything
    );
    lab.check(&[1, 2]);
    assert!(lab.index.is_complete());
    let checkpoint = lab.index.checkpoint().unwrap();
    assert_eq!(checkpoint.position.as_str(), "10");
    assert_eq!(checkpoint.kept_until, None);
    lab.say(reached("11"), NOW);
    assert_eq!(lab.index.checkpoint().unwrap().position.as_str(), "11");
}

#[test]
fn the_store_that_is_known_may_remove_peers_all_of_them_too() {
    let mut lab = Lab::knowing(&[1, 2, 3]);
    lab.say(listed([lease(1)]), NOW);
    lab.check(&[1]);
    lab.say(listed([]), NOW);
    lab.check(&[]);
}

#[test]
fn a_store_that_was_replaced_or_set_back_adds_and_removes_nothing() {
    let mut lab = Lab::knowing(&[1, 2, 3]);
    lab.say(replaced([]), NOW);
    lab.check(&[1, 2, 3]);
    lab.say(listed([lease(7), lease(2)]), NOW);
    lab.check(&[1, 2, 3, 7]);
    assert_eq!(lab.index.orphans.len(), 2);
}

#[test]
fn what_a_replaced_store_lacks_goes_when_its_lease_would_have_ended() {
    let (before, after) = (NOW + 59 * MINUTE, NOW + HOUR);
    let mut lab = Lab::knowing(&[1, 2, 3]);
    lab.say(replaced([lease(2)]), NOW);
    assert_eq!(lab.say(reached("50"), before), Change::Nothing);
    assert_eq!(lab.kept_until(), Some(after));
    assert_eq!(lab.say(reached("50"), after), Change::Everything);
    lab.check(&[2]);
    assert_eq!(lab.kept_until(), None);

    let mut lab = Lab::knowing(&[1, 2, 3]);
    lab.say(replaced([lease(2)]), NOW);
    lab.say(listed([lease(2)]), before);
    lab.check(&[1, 2, 3]);
    lab.say(listed([lease(2)]), after);
    lab.check(&[2]);
}

#[test]
fn nothing_goes_while_the_store_is_away() {
    let mut lab = Lab::knowing(&[1, 2]);
    lab.say(replaced([]), NOW);
    let away = StoreEvent::Lost("connection refused".to_owned());
    assert_eq!(lab.say(away, NOW + 100 * HOUR), Change::Nothing);
    assert_eq!(lab.index.lost(), Some("connection refused"));
    lab.check(&[1, 2]);
    // A list alone says that the store answers, not that it will.
    lab.say(listed([lease(1)]), NOW + 100 * HOUR);
    lab.check(&[1]);
    assert!(lab.index.lost().is_some());
    lab.say(reached("12"), NOW + 100 * HOUR);
    assert_eq!(lab.index.lost(), None);
}

#[test]
fn what_a_replaced_store_lacks_goes_at_once_when_it_contradicts() {
    let mut lab = Lab::knowing(&[1, 2, 3]);
    // Node 1 has another subnet in the new store.
    lab.say(replaced([lease_of(9, 1)]), NOW);
    lab.check(&[2, 3, 9]);
    // Node 2 as well, a little later; node 3 registers again and is no orphan any more.
    let change = lab.say(StoreEvent::Put(lease_of(8, 2)), NOW);
    assert_eq!(change, Change::Everything);
    lab.check(&[3, 8, 9]);
    lab.say(StoreEvent::Put(lease(3)), NOW);
    assert!(lab.index.orphans.is_empty());

    // A wider lease covers what an orphan had.
    let mut lab = Lab::knowing(&[1, 2, 3]);
    let mut wide = lease(7);
    wide.subnet = "10.244.2.0/23".parse().unwrap();
    lab.say(replaced([wide.clone()]), NOW);
    let peers: Vec<Subnet> = lab.peers().iter().map(|(subnet, _)| subnet).collect();
    assert_eq!(peers, [subnet(1), wide.subnet]);
}

#[test]
fn a_lease_that_cannot_be_read_stays_as_it_was() {
    let mut lab = Lab::knowing(&[1, 2, 3]);
    let mut answer = listing(false, [lease(1)]);
    answer.unread = vec![Some(subnet(2))];
    lab.say(StoreEvent::Listed(answer), NOW);
    lab.check(&[1, 2]);
    // Nor does one that names no peer.
    let mut odd = lease(2);
    odd.attrs.backend_data = None;
    assert_eq!(lab.say(StoreEvent::Put(odd.clone()), NOW), Change::Nothing);
    lab.check(&[1, 2]);
    lab.say(listed([lease(1), odd]), NOW);
    lab.check(&[1, 2]);
    assert_eq!(lab.index.claims().rejected().len(), 1);
}

#[test]
fn a_lease_without_readable_subnet_may_be_any_that_is_missing() {
    let mut lab = Lab::knowing(&[1, 2, 3]);
    let mut answer = listing(false, [lease(1)]);
    answer.unread = vec![None];
    lab.say(StoreEvent::Listed(answer), NOW);
    lab.check(&[1, 2, 3]);
    // The next list is whole again.
    lab.say(listed([lease(1)]), NOW);
    lab.check(&[1]);
}

#[test]
fn a_watch_says_what_happened() {
    let mut lab = Lab::knowing(&[1, 2, 3]);
    let change = lab.say(StoreEvent::Put(lease(4)), NOW);
    assert_eq!(change, Change::Peer(subnet(4)));
    let change = lab.say(StoreEvent::Gone(subnet(1)), NOW);
    assert_eq!(change, Change::Peer(subnet(1)));
    assert_eq!(lab.say(reached("12"), NOW), Change::Nothing);
    lab.check(&[2, 3, 4]);
}

#[test]
fn peers_of_an_earlier_start_stay_while_another_store_may_not_know_them_yet() {
    let mut lab = Lab::remembering(&[1, 2, 3], None, NOW);
    lab.check(&[]);
    lab.say(replaced([lease(2)]), NOW);
    lab.check(&[1, 2, 3]);
    // One registers again, the other has had its time.
    lab.say(StoreEvent::Put(lease(3)), NOW);
    assert_eq!(lab.say(reached("1"), NOW + HOUR / 2), Change::Nothing);
    let change = lab.say(reached("1"), NOW + HOUR);
    assert_eq!(change, Change::Peer(subnet(1)));
    lab.check(&[2, 3]);
}

#[test]
fn what_says_no_term_is_kept_for_the_usual_one() {
    let mut lab = Lab::new();
    let mut endless = lease(1);
    endless.ttl_seconds = None;
    lab.say(listed([endless]), NOW);
    lab.say(replaced([]), NOW);
    assert_eq!(lab.kept_until(), Some(NOW + USUAL_TERM));
}

#[test]
fn peers_of_an_earlier_start_go_when_their_own_store_has_them_no_more() {
    let mut lab = Lab::remembering(&[1, 2], None, NOW);
    lab.say(listed([lease(2)]), NOW);
    lab.check(&[2]);
}

#[test]
fn restarts_do_not_begin_the_time_of_those_anew_that_the_store_lacks() {
    let mut lab = Lab::remembering(&[1, 2], None, NOW);
    lab.say(replaced([lease(2)]), NOW);
    let end = lab.kept_until();
    assert_eq!(end, Some(NOW + HOUR));
    for minutes in [15, 30, 45] {
        let now = NOW + Duration::from_mins(minutes);
        lab = Lab::remembering(&[1, 2], end, now);
        lab.say(listed([lease(2)]), now);
        lab.check(&[1, 2]);
        assert_eq!(lab.kept_until(), end);
    }
    // Another list of the same start, and the end of the time.
    lab.say(listed([lease(2)]), NOW + 59 * MINUTE);
    let change = lab.say(reached("1"), NOW + HOUR);
    assert_eq!(change, Change::Peer(subnet(1)));

    // The time ended while the agent was away.
    let mut lab = Lab::remembering(&[1, 2], Some(NOW), NOW);
    lab.say(listed([lease(2)]), NOW);
    lab.check(&[2]);
    // A third store has not had its time.
    let mut lab = Lab::remembering(&[1, 2], Some(NOW + SECOND), NOW);
    lab.say(replaced([lease(2)]), NOW);
    assert_eq!(lab.kept_until(), Some(NOW + HOUR));
    // What is noted may be rubbish.
    let mut lab = Lab::remembering(&[1, 2], Some(Duration::MAX), NOW);
    lab.say(listed([lease(2)]), NOW);
    assert_eq!(lab.kept_until(), Some(NOW + LONGEST_TERM));
}
