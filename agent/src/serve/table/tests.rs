//! Who gets what.

use super::*;

const HOUR: Duration = Duration::from_hours(1);
const NOON: Timestamp = Timestamp(1_800_000_000_000);

fn config() -> NetworkConfig {
    let text = r#"{"Network":"10.244.0.0/16","SubnetMin":"10.244.1.0","SubnetMax":"10.244.3.0",
        "Backend":{"Type":"vxlan"}}"#;
    NetworkConfig::parse(text).unwrap()
}

fn table() -> Table {
    Table::new(config(), HOUR, 0, |_| 0)
}

fn subnet(n: u8) -> Subnet {
    format!("10.244.{n}.0/24").parse().unwrap()
}

fn address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, node)
}

fn attrs(node: u8) -> LeaseAttrs {
    serde_json::from_str(&format!(r#"{{"PublicIP":"192.0.2.{node}"}}"#)).unwrap()
}

fn acquire(node: u8, previous: Option<u8>) -> Request {
    Request::Acquire {
        attrs: attrs(node),
        previous: previous.map(subnet),
    }
}

fn renew(n: u8, node: u8) -> Request {
    Request::Renew {
        subnet: subnet(n),
        holder: address(node),
        attrs: attrs(node),
    }
}

fn release(n: u8, node: u8) -> Request {
    Request::Release {
        subnet: subnet(n),
        holder: address(node),
    }
}

/// Applies a request, and checks what holds after every one.
fn apply(
    table: &mut Table,
    request: Request,
    now: Timestamp,
) -> (Result<Subnet, Refusal>, Vec<Change>) {
    let before = table.revision();
    let mut changes = Vec::new();
    let answer = table.apply(request, now, &mut changes);
    check(table, before, &changes);
    (answer.map(|record| record.subnet), changes)
}

fn check(table: &Table, before: u64, changes: &[Change]) {
    let revisions: Vec<u64> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Added { revision, .. } | Change::Removed { revision, .. } => Some(*revision),
            Change::Renewed(_) => None,
        })
        .collect();
    let expected: Vec<u64> = (before + 1..=table.revision()).collect();
    assert_eq!(revisions, expected, "revisions have gaps");
    assert_eq!(table.records.len(), table.holders.len());
    assert_eq!(table.records.len(), table.taken.leases.len());
    for (place, lease) in table.taken.leases.iter().enumerate() {
        assert_eq!(table.taken.places[&lease.subnet], place);
        let record = &table.records[&lease.subnet];
        assert_eq!(record.attrs.public_ip, lease.attrs.public_ip);
        assert_eq!(table.holders[&lease.attrs.public_ip], lease.subnet);
        let term = record.term.map(|term| (term.ends, lease.subnet));
        assert!(term.is_none_or(|end| table.ends.contains(&end)));
    }
    let terms = table.records().filter(|record| record.term.is_some());
    assert_eq!(table.ends.len(), terms.count());
}

#[test]
fn a_node_gets_a_subnet_once() {
    let mut table = table();
    let (first, changes) = apply(&mut table, acquire(1, None), NOON);
    assert_eq!(first, Ok(subnet(1)));
    assert!(matches!(
        changes.as_slice(),
        [Change::Added { revision: 1, .. }]
    ));

    let later = NOON.after(HOUR / 2);
    let (second, changes) = apply(&mut table, acquire(1, Some(3)), later);
    assert_eq!(second, Ok(subnet(1)));
    let [Change::Renewed(record)] = changes.as_slice() else {
        panic!("{changes:?}");
    };
    assert_eq!(record.term.map(|term| term.ends), Some(later.after(HOUR)));
}

#[test]
fn a_node_gets_its_previous_subnet_if_nobody_has_it() {
    let mut table = table();
    assert_eq!(
        apply(&mut table, acquire(1, Some(3)), NOON).0,
        Ok(subnet(3))
    );
    assert_eq!(
        apply(&mut table, acquire(2, Some(3)), NOON).0,
        Ok(subnet(1))
    );
}

#[test]
fn when_all_are_taken_the_next_is_told() {
    let mut table = table();
    for node in 1..=3 {
        assert_eq!(
            apply(&mut table, acquire(node, None), NOON).0,
            Ok(subnet(node))
        );
    }
    let (answer, changes) = apply(&mut table, acquire(4, None), NOON);
    assert!(matches!(answer, Err(Refusal::Allocate(_))));
    assert_eq!(changes, []);
    apply(&mut table, release(2, 2), NOON).0.unwrap();
    assert_eq!(apply(&mut table, acquire(4, None), NOON).0, Ok(subnet(2)));
}

#[test]
fn only_the_holder_renews_and_releases() {
    let mut table = table();
    apply(&mut table, acquire(1, None), NOON).0.unwrap();
    let stranger = Refusal::HeldByAnother {
        subnet: subnet(1),
        holder: address(1),
    };
    let nobody = Refusal::NotHeld { subnet: subnet(2) };
    for (request, refusal) in [
        (renew(1, 9), &stranger),
        (release(1, 9), &stranger),
        (renew(2, 1), &nobody),
        (release(2, 1), &nobody),
    ] {
        let (answer, changes) = apply(&mut table, request, NOON);
        assert_eq!((answer, changes), (Err(refusal.clone()), vec![]));
    }
    assert_eq!(apply(&mut table, renew(1, 1), NOON).0, Ok(subnet(1)));
    assert_eq!(apply(&mut table, release(1, 1), NOON).0, Ok(subnet(1)));
    assert_eq!(table.records().count(), 0);
}

#[test]
fn a_node_may_move_its_lease_to_another_address() {
    let mut table = table();
    apply(&mut table, acquire(1, None), NOON).0.unwrap();
    apply(&mut table, acquire(2, None), NOON).0.unwrap();
    let moved = |to: u8| Request::Renew {
        subnet: subnet(1),
        holder: address(1),
        attrs: attrs(to),
    };
    let (answer, changes) = apply(&mut table, moved(2), NOON);
    let refusal = Refusal::HoldsAnother {
        public_ip: address(2),
        subnet: subnet(2),
    };
    assert_eq!((answer, changes), (Err(refusal), vec![]));
    let (answer, changes) = apply(&mut table, moved(7), NOON);
    assert_eq!(answer, Ok(subnet(1)));
    assert!(matches!(changes.as_slice(), [Change::Added { .. }]));
    assert_eq!(apply(&mut table, renew(1, 7), NOON).0, Ok(subnet(1)));
}

#[test]
fn a_lease_that_does_not_fit_the_network_any_more_makes_room() {
    let mut table = table();
    let old = Record {
        subnet: "10.99.0.0/24".parse().unwrap(),
        attrs: attrs(1),
        term: Some(Term::starting(NOON, HOUR)),
    };
    table.load(vec![old], NOON);
    let (answer, changes) = apply(&mut table, acquire(1, None), NOON);
    assert_eq!(answer, Ok(subnet(1)));
    assert!(matches!(
        changes.as_slice(),
        [Change::Removed { .. }, Change::Added { .. }]
    ));
    assert_eq!(table.records().count(), 1);
}

#[test]
fn a_lease_ends_with_its_term_and_not_before() {
    let mut table = table();
    apply(&mut table, acquire(1, None), NOON).0.unwrap();
    apply(&mut table, acquire(2, None), NOON).0.unwrap();
    apply(&mut table, renew(2, 2), NOON.after(HOUR / 2))
        .0
        .unwrap();
    assert_eq!(table.next_end(), Some(NOON.after(HOUR)));

    let expire = |table: &mut Table, now| {
        let (before, mut changes) = (table.revision(), Vec::new());
        table.expire(now, &mut changes);
        check(table, before, &changes);
        changes.len()
    };
    assert_eq!(expire(&mut table, Timestamp(NOON.after(HOUR).0 - 1)), 0);
    assert_eq!(expire(&mut table, NOON.after(HOUR)), 1);
    assert_eq!(table.next_end(), Some(NOON.after(HOUR + HOUR / 2)));
    assert_eq!(expire(&mut table, NOON.after(HOUR * 9)), 1);
    assert_eq!(table.next_end(), None);
}

#[test]
fn a_reservation_stays_one() {
    let mut table = table();
    let reserved = Record {
        subnet: subnet(2),
        attrs: attrs(1),
        term: None,
    };
    table.load(vec![reserved], NOON);
    for request in [acquire(1, None), renew(2, 1)] {
        assert_eq!(apply(&mut table, request, NOON).0, Ok(subnet(2)));
        assert_eq!(table.next_end(), None);
    }
}

#[test]
fn terms_that_ended_while_the_server_was_away_are_stored_anew() {
    let mut table = table();
    let record = |n: u8, ends| Record {
        subnet: subnet(n),
        attrs: attrs(n),
        term: Some(Term {
            granted: HOUR,
            ends,
        }),
    };
    let changes = table.load(
        vec![record(1, Timestamp(1)), record(2, NOON.after(HOUR / 2))],
        NOON,
    );
    let [Change::Renewed(renewed)] = changes.as_slice() else {
        panic!("{changes:?}");
    };
    assert_eq!(**renewed, record(1, NOON.after(HOUR)));
    check(&table, 0, &changes);
}
