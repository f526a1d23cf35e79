//! Who gets which subnet.

use std::cell::Cell;

use proptest::prelude::*;

use super::*;

const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

fn config(entries: &str) -> NetworkConfig {
    let text = format!(r#"{{"Network":"10.3.0.0/16","Backend":{{"Type":"vxlan"}}{entries}}}"#);
    NetworkConfig::parse(&text).unwrap()
}

fn attrs(public_ip: Ipv4Addr) -> LeaseAttrs {
    serde_json::from_value(serde_json::json!({ "PublicIP": public_ip })).unwrap()
}

fn subnet(text: &str) -> Subnet {
    text.parse().unwrap()
}

fn lease(text: &str, holder: Ipv4Addr) -> Lease {
    Lease {
        subnet: subnet(text),
        attrs: attrs(holder),
        ttl_seconds: Some(86_400),
    }
}

fn reservation(text: &str, holder: Ipv4Addr) -> Lease {
    Lease {
        ttl_seconds: None,
        ..lease(text, holder)
    }
}

/// Allocates for `OWN` in 10.3.1.0 to 10.3.4.0, and takes the first of those that are free.
fn check(taken: &[Lease], previous: Option<&str>, expected: impl Into<Option<Allocation>>) {
    let config = config(r#","SubnetMax":"10.3.4.0""#);
    let result = allocate(&config, taken, &attrs(OWN), previous.map(subnet), |_| 0);
    let out = AllocateError::OutOfSubnets {
        len: 24,
        min: Ipv4Addr::new(10, 3, 1, 0),
        max: Ipv4Addr::new(10, 3, 4, 0),
    };
    assert_eq!(result, expected.into().ok_or(out));
}

fn kept(text: &str) -> Allocation {
    Allocation::Kept(subnet(text))
}

fn previous(text: &str) -> Allocation {
    Allocation::Previous(subnet(text))
}

fn new(text: &str) -> Allocation {
    Allocation::New(subnet(text))
}

#[test]
fn node_keeps_what_it_holds() {
    let taken = [lease("10.3.1.0/24", OTHER), lease("10.3.3.0/24", OWN)];
    check(&taken, None, kept("10.3.3.0/24"));
    check(&taken, Some("10.3.2.0/24"), kept("10.3.3.0/24"));
    check(&taken, Some("10.3.1.0/24"), kept("10.3.3.0/24"));
}

#[test]
fn node_gets_what_is_reserved_for_it() {
    let mut taken = vec![lease("10.3.1.0/24", OTHER), reservation("10.3.4.0/24", OWN)];
    check(&taken, Some("10.3.2.0/24"), kept("10.3.4.0/24"));
    taken.push(lease("10.3.3.0/24", OWN));
    check(&taken, None, kept("10.3.4.0/24"));
}

#[test]
fn lowest_of_several_is_kept() {
    let taken = [lease("10.3.3.0/24", OWN), lease("10.3.2.0/24", OWN)];
    check(&taken, None, kept("10.3.2.0/24"));
}

#[test]
fn what_does_not_fit_is_not_kept() {
    for (held, expected) in [
        ("10.3.5.0/24", "10.3.1.0/24"),
        ("10.3.0.0/24", "10.3.1.0/24"),
        ("10.4.1.0/24", "10.3.1.0/24"),
        ("fd00::/64", "10.3.1.0/24"),
        // It stays taken until the caller removes it.
        ("10.3.1.0/25", "10.3.2.0/24"),
        ("10.3.0.0/23", "10.3.2.0/24"),
    ] {
        check(&[lease(held, OWN)], None, new(expected));
        check(&[reservation(held, OWN)], None, new(expected));
    }
}

#[test]
fn nobody_is_0_0_0_0() {
    let nobody = Ipv4Addr::UNSPECIFIED;
    let taken = [lease("10.3.1.0/24", nobody)];
    let result = allocate(&config(""), &taken, &attrs(nobody), None, |_| 0);
    assert_eq!(result, Ok(Allocation::New(subnet("10.3.2.0/24"))));
}

#[test]
fn node_gets_its_previous_subnet_back() {
    check(&[], Some("10.3.4.0/24"), previous("10.3.4.0/24"));
    check(
        &[lease("10.3.1.0/24", OTHER)],
        Some("10.3.4.0/24"),
        previous("10.3.4.0/24"),
    );
}

#[test]
fn previous_subnet_that_is_taken_or_does_not_fit_is_left() {
    for taken in ["10.3.4.0/24", "10.3.4.128/25", "10.3.4.0/22", "10.3.4.7/32"] {
        check(
            &[lease(taken, OTHER)],
            Some("10.3.4.0/24"),
            new("10.3.1.0/24"),
        );
        check(
            &[reservation(taken, OTHER)],
            Some("10.3.4.0/24"),
            new("10.3.1.0/24"),
        );
    }
    for unfit in [
        "10.3.5.0/24",
        "10.3.0.0/24",
        "10.3.4.0/25",
        "10.2.1.0/24",
        "fd00::/24",
    ] {
        check(&[], Some(unfit), new("10.3.1.0/24"));
    }
}

#[test]
fn one_taken_address_takes_the_subnet() {
    for taken in ["10.3.1.0/32", "10.3.1.77/32", "10.3.1.255/32"] {
        check(&[lease(taken, OTHER)], None, new("10.3.2.0/24"));
    }
    for free in ["10.3.0.255/32", "10.3.2.0/32"] {
        check(&[lease(free, OTHER)], None, new("10.3.1.0/24"));
    }
}

#[test]
fn none_is_left() {
    let mut taken = vec![lease("10.3.2.0/23", OTHER), lease("10.3.4.255/32", OTHER)];
    check(&taken, None, new("10.3.1.0/24"));
    taken.push(lease("10.3.1.0/24", OTHER));
    check(&taken, None, None);
    check(&[lease("0.0.0.0/0", OTHER)], None, None);
}

#[test]
fn pick_chooses_among_the_first_100() {
    for (index, expected) in [
        (0, "10.3.1.0/24"),
        (99, "10.3.100.0/24"),
        // An index that there is not is no reason to panic.
        (100, "10.3.1.0/24"),
    ] {
        let count = Cell::new(0);
        let result = allocate(&config(""), &[], &attrs(OWN), None, |candidates| {
            count.set(candidates);
            index
        });
        assert_eq!(
            (result, count.get()),
            (Ok(Allocation::New(subnet(expected))), 100)
        );
    }
}

#[test]
fn last_addresses_of_ipv4_are_allocated() {
    let text = r#"{"Network":"255.255.255.240/28","Backend":{"Type":"vxlan"}}"#;
    let config = NetworkConfig::parse(text).unwrap();
    let result = allocate(&config, &[], &attrs(OWN), None, |count| count - 1);
    assert_eq!(result, Ok(Allocation::New(subnet("255.255.255.252/30"))));
}

/// The slow and obvious way: every subnet against every lease.
fn obvious(config: &NetworkConfig, taken: &[Lease]) -> Vec<Subnet> {
    let step = 1_u64 << (32 - config.subnet_len);
    let number = |address: Ipv4Addr| u64::from(u32::from(address));
    (number(config.subnet_min)..=number(config.subnet_max))
        .step_by(usize::try_from(step).unwrap())
        .map(|first| subnet_at(first, config.subnet_len).unwrap())
        .filter(|subnet| !taken.iter().any(|lease| lease.subnet.overlaps(*subnet)))
        .take(100)
        .collect()
}

proptest! {
    #[test]
    fn candidates_are_those_of_the_obvious_way(
        taken in prop::collection::vec((0x0a02_f000_u32..0x0a04_1000, 14_u8..=32), 0..60),
        len in 18_u8..=30,
    ) {
        let taken: Vec<Lease> = taken
            .into_iter()
            .map(|(bits, len)| {
                let network = IpNetwork::new(Ipv4Addr::from(bits).into(), len).unwrap();
                lease(&Subnet::containing(network).to_string(), OTHER)
            })
            .collect();
        let config = config(&format!(r#","SubnetLen":{len}"#));
        prop_assert_eq!(candidates(&config, &taken), obvious(&config, &taken));
    }
}
