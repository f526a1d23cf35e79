//! When the device is made, changed and replaced.

use crate::backend::LinkKind;
use crate::observed::{Observed, ObservedDevice};
use crate::plan::tests::world::{check, desired, overlay, parse, settled, subnet, vtep};

const REPLAY: &[&str] = &[
    "remove device 0",
    "create flannel.1",
    "up",
    "address 10.244.100.0/32",
    "neighbor 10.244.1.0 :1",
    "fdb :1 192.168.0.1",
    "route 10.244.1.0/24 via 10.244.1.0",
];

fn with_device(change: impl FnOnce(&mut ObservedDevice)) -> Observed {
    let mut observed = settled(&[(subnet(1), vtep(1))]);
    change(&mut overlay(&mut observed).device);
    observed
}

#[track_caller]
fn check_device(change: impl FnOnce(&mut ObservedDevice), expected: &[&str]) {
    let wanted = desired(&[(subnet(1), vtep(1))]);
    check(&with_device(change), &wanted, expected);
}

#[test]
fn missing_device_is_made_and_every_peer_replayed() {
    let mut observed = with_device(|_| ());
    observed.kernel.links.clear();
    check(&observed, &desired(&[(subnet(1), vtep(1))]), &REPLAY[1..]);
}

#[test]
fn incompatible_device_is_replaced_and_every_peer_replayed() {
    check_device(|device| device.vni = Some(2), REPLAY);
    check_device(|device| device.uplink_ifindex = Some(3), REPLAY);
    check_device(|device| device.local = Some(parse("192.168.0.101")), REPLAY);
    check_device(|device| device.group = Some(parse("239.1.1.1")), REPLAY);
    check_device(|device| device.l2miss = true, REPLAY);
    check_device(|device| device.gbp = true, REPLAY);
    check_device(|device| device.kind = "dummy".to_owned(), REPLAY);
}

#[test]
fn what_flannel_does_not_compare_is_kept() {
    check_device(|device| device.learning = true, &[]);
    check_device(|device| device.mac = vtep(50).mac, &[]);
    check_device(|device| device.uplink_ifindex = None, &[]);
    check_device(|device| device.uplink_ifindex = Some(0), &[]);
    check_device(|device| device.local = None, &[]);
    check_device(|device| device.port = Some(4789), &[]);
}

#[test]
fn port_counts_where_one_is_configured() {
    let mut wanted = desired(&[(subnet(1), vtep(1))]);
    let LinkKind::Vxlan(vxlan) = &mut wanted.link.as_mut().unwrap().kind;
    vxlan.port = Some(8472);
    check(
        &with_device(|device| device.port = Some(4789)),
        &wanted,
        REPLAY,
    );
    check(
        &with_device(|device| device.port = Some(8472)),
        &wanted,
        &[],
    );
}

#[test]
fn mtu_and_up_are_set_in_place() {
    let mut wanted = desired(&[(subnet(1), vtep(1))]);
    wanted.link.as_mut().unwrap().former_mtu = Some(1400);
    // What we gave it before, and what does not fit.
    for mtu in [1400, 1500] {
        let observed = with_device(|device| device.mtu = mtu);
        check(&observed, &wanted, &["mtu 1450"]);
    }
    for mtu in [1300, 1450] {
        check(&with_device(|device| device.mtu = mtu), &wanted, &[]);
    }
    check_device(|device| device.up = false, &["up"]);
}

#[test]
fn an_mtu_that_is_not_ours_stays() {
    for mtu in [1300, 1500] {
        check_device(|device| device.mtu = mtu, &[]);
    }
}

#[test]
fn device_of_another_kind_and_name_blocks_the_kernel_side() {
    let mut wanted = desired(&[(subnet(1), vtep(1)), (subnet(2), vtep(2))]);
    wanted.link.as_mut().unwrap().name = "overlay0".into();
    let mut observed = with_device(|device| device.kind = "dummy".to_owned());
    let link = observed.kernel.links.pop_first().unwrap().1;
    observed.kernel.links.insert("overlay0".into(), link);
    check(
        &observed,
        &wanted,
        &[
            "vtep[1] = :2 192.168.0.2",
            "source[192.168.0.2] = 1",
            "route[10.244.2.0/24] = 1",
        ],
    );
}

#[test]
fn other_addresses_inside_the_network_go() {
    let mut observed = settled(&[]);
    overlay(&mut observed).addresses = ["10.244.7.0/32", "10.244.100.0/24", "172.31.0.1/32"]
        .map(parse)
        .into();
    check(
        &observed,
        &desired(&[]),
        &[
            "address 10.244.100.0/32",
            "remove address 10.244.7.0/32",
            "remove address 10.244.100.0/24",
        ],
    );
}

#[test]
fn addresses_stay_until_there_is_a_lease() {
    let mut wanted = desired(&[]);
    wanted.link.as_mut().unwrap().address = None;
    check(&settled(&[]), &wanted, &[]);
}
