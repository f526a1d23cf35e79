//! What each answer makes of what is known.

use std::time::Duration;

use twill_core::event::Event;
use twill_core::lease::Lease;
use twill_core::subnet::Subnet;

use super::*;
use crate::store::known::{List, UnreadLease};

fn subnet(n: u8) -> Subnet {
    format!("10.244.{n}.0/24").parse().unwrap()
}

fn lease(n: u8) -> Lease {
    lease_of(n, n)
}

fn lease_of(n: u8, node: u8) -> Lease {
    let text = format!(
        r#"{{"subnet":"10.244.{n}.0/24","attrs":{{"PublicIP":"192.0.2.{node}"}},"ttl_seconds":3600}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn list(store: &str, revision: u64, leases: Vec<Lease>) -> List {
    List {
        store: store.to_owned(),
        revision,
        leases,
        unread: Vec::new(),
    }
}

fn unread(subnet: Option<Subnet>) -> UnreadLease {
    UnreadLease {
        subnet,
        value: "rubbish".to_owned(),
        why: "because".to_owned(),
    }
}

/// Store `a` at revision 10 with leases 1, 2 and 3.
fn known(now: Instant) -> Known {
    let mut known = Known::default();
    known.listed(list("a", 10, vec![lease(1), lease(2), lease(3)]), now);
    known
}

fn resync(leases: &[Lease]) -> Vec<Event> {
    vec![Event::Resync(leases.to_vec())]
}

fn added(revision: u64, lease: &Lease) -> String {
    let lease = serde_json::to_string(lease).unwrap();
    format!(r#"{{"revision":{revision},"type":"added","lease":{lease}}}"#)
}

fn bookmark(revision: u64, store: &str) -> String {
    format!(r#"{{"revision":{revision},"type":"bookmark","store":"{store}"}}"#)
}

fn events(known: &mut Known, line: &str, now: Instant) -> Vec<Event> {
    known.line(line.as_bytes(), now).unwrap().events
}

#[test]
fn the_first_list_is_taken_as_it_is() {
    let mut known = Known::default();
    assert_eq!(known.resume(), None);
    let step = known.listed(list("a", 10, vec![lease(2), lease(1)]), Instant::now());
    assert_eq!(step.events, resync(&[lease(1), lease(2)]));
    assert!(!step.replaced);
    assert_eq!(known.resume(), Some(("a", 10)));
}

#[test]
fn the_store_that_is_known_may_remove_peers_all_of_them_too() {
    let now = Instant::now();
    let mut known = known(now);
    let step = known.listed(list("a", 11, vec![lease(1)]), now);
    assert_eq!(step.events, resync(&[lease(1)]));
    let step = known.listed(list("a", 12, vec![]), now);
    assert_eq!(step.events, resync(&[]));
}

#[test]
fn a_store_that_was_replaced_or_set_back_adds_and_removes_nothing() {
    for (store, revision) in [("b", 50), ("b", 0), ("a", 9), ("a", 0)] {
        let now = Instant::now();
        let mut known = known(now);
        let step = known.listed(list(store, revision, vec![]), now);
        assert!(step.replaced);
        assert_eq!(step.events, resync(&[lease(1), lease(2), lease(3)]));
        assert!(!known.confirms(subnet(1)));

        let step = known.listed(list(store, revision + 1, vec![lease(7), lease(2)]), now);
        assert_eq!(
            step.events,
            resync(&[lease(1), lease(2), lease(3), lease(7)])
        );
        assert!(known.confirms(subnet(2)) && known.confirms(subnet(7)));
        assert!(!known.confirms(subnet(3)));
    }
}

#[test]
fn what_a_replaced_store_lacks_goes_when_its_lease_would_have_ended() {
    let now = Instant::now();
    let mut known = known(now);
    known.listed(list("b", 50, vec![lease(2)]), now);
    let before = now + Duration::from_secs(3599);
    let after = now + Duration::from_hours(1);
    assert_eq!(events(&mut known, &bookmark(50, "b"), before), []);
    assert_eq!(
        events(&mut known, &bookmark(50, "b"), after),
        [
            Event::LeaseRemoved(subnet(1)),
            Event::LeaseRemoved(subnet(3))
        ]
    );

    let mut known = self::known(now);
    known.listed(list("b", 50, vec![lease(2)]), now);
    let step = known.listed(list("b", 51, vec![lease(2)]), before);
    assert_eq!(step.events, resync(&[lease(1), lease(2), lease(3)]));
    let step = known.listed(list("b", 52, vec![lease(2)]), after);
    assert_eq!(step.events, resync(&[lease(2)]));
}

#[test]
fn what_a_replaced_store_lacks_goes_at_once_when_it_contradicts() {
    let now = Instant::now();
    let mut known = known(now);
    // Node 1 has another subnet in the new store.
    let step = known.listed(list("b", 5, vec![lease_of(9, 1)]), now);
    assert_eq!(step.events, resync(&[lease(2), lease(3), lease_of(9, 1)]));
    // Node 2 as well, a little later; node 3 registers again and is no orphan any more.
    assert_eq!(
        events(&mut known, &added(6, &lease_of(8, 2)), now),
        [
            Event::LeaseRemoved(subnet(2)),
            Event::LeaseAdded(lease_of(8, 2))
        ]
    );
    assert_eq!(
        events(&mut known, &added(7, &lease(3)), now),
        [Event::LeaseAdded(lease(3))]
    );
    assert!(known.orphans.is_empty());

    // A wider lease covers what an orphan had.
    let mut known = self::known(now);
    let mut wide = lease(7);
    wide.subnet = "10.244.2.0/23".parse().unwrap();
    let step = known.listed(list("b", 5, vec![wide.clone()]), now);
    assert_eq!(step.events, resync(&[lease(1), wide]));
}

#[test]
fn a_lease_that_cannot_be_read_stays_as_it_was() {
    let now = Instant::now();
    let mut known = known(now);
    let mut answer = list("a", 11, vec![lease(1)]);
    answer.unread = vec![unread(Some(subnet(2)))];
    let step = known.listed(answer, now);
    assert_eq!(step.events, resync(&[lease(1), lease(2)]));
    assert_eq!(step.unread, [unread(Some(subnet(2)))]);
}

#[test]
fn a_lease_without_readable_subnet_may_be_any_that_is_missing() {
    let now = Instant::now();
    let mut known = known(now);
    let mut answer = list("a", 11, vec![lease(1)]);
    answer.unread = vec![unread(None)];
    let step = known.listed(answer, now);
    assert_eq!(step.events, resync(&[lease(1), lease(2), lease(3)]));
    // The next list is whole again.
    let step = known.listed(list("a", 11, vec![lease(1)]), now);
    assert_eq!(step.events, resync(&[lease(1)]));
}

#[test]
fn a_watch_says_what_happened() {
    let now = Instant::now();
    let mut known = known(now);
    assert_eq!(
        events(&mut known, &added(11, &lease(4)), now),
        [Event::LeaseAdded(lease(4))]
    );
    let removed = r#"{"revision":12,"type":"removed","subnet":"10.244.1.0/24"}"#;
    assert_eq!(
        events(&mut known, removed, now),
        [Event::LeaseRemoved(subnet(1))]
    );
    assert_eq!(events(&mut known, &bookmark(12, "a"), now), []);
    assert_eq!(known.resume(), Some(("a", 12)));
    assert!(known.confirms(subnet(4)) && !known.confirms(subnet(1)));
}

#[test]
fn a_changed_lease_that_cannot_be_read_stays_as_it_was() {
    let now = Instant::now();
    let mut known = known(now);
    let line = r#"{"revision":11,"type":"added","lease":{"subnet":"10.244.2.0/24","attrs":{}}}"#;
    let step = known.line(line.as_bytes(), now).unwrap();
    assert_eq!(step.events, []);
    assert_eq!(step.unread.len(), 1);
    assert_eq!(step.unread[0].subnet, Some(subnet(2)));
    assert!(known.confirms(subnet(2)));
    assert_eq!(known.resume(), Some(("a", 11)));
}

#[test]
fn a_line_that_cannot_be_trusted_changes_nothing_and_asks_for_a_list() {
    let now = Instant::now();
    for line in [
        String::new(),
        "null".to_owned(),
        "<html>".to_owned(),
        r#"{"revision":11}"#.to_owned(),
        r#"{"revision":11,"type":"flushed"}"#.to_owned(),
        r#"{"revision":11,"type":"removed","subnet":"10.244.1.0"}"#.to_owned(),
        r#"{"revision":11,"type":"removed","subnet":"10.244.1.0/24""#.to_owned(),
        // Changes were lost, or come again.
        r#"{"revision":12,"type":"removed","subnet":"10.244.1.0/24"}"#.to_owned(),
        r#"{"revision":10,"type":"removed","subnet":"10.244.1.0/24"}"#.to_owned(),
        added(13, &lease(4)),
        bookmark(11, "a"),
        bookmark(9, "a"),
        bookmark(10, "b"),
        r#"{"revision":10,"type":"gone","error":"too slow"}"#.to_owned(),
    ] {
        let mut known = known(now);
        assert!(
            known.line(line.as_bytes(), now).is_err(),
            "{line} was taken"
        );
        assert_eq!(known.resume(), None, "{line}");
        let leases: Vec<Lease> = known.leases.values().cloned().collect();
        assert_eq!(leases, [lease(1), lease(2), lease(3)], "{line}");
    }
}
