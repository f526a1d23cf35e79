//! The steps that each change of a peer takes, and their order.

use crate::observed::Observed;
use crate::plan::plan;
use crate::plan::tests::world::{
    add_foreign, at, check, desired, fresh, mac, overlay, parse, route_via, settled, subnet,
    underlay, vtep,
};

#[test]
fn nothing_to_do_is_nothing_done() {
    let peers = [(subnet(1), vtep(1)), (subnet(2), vtep(2))];
    check(&settled(&peers), &desired(&peers), &[]);
}

#[test]
fn node_joins() {
    check(
        &settled(&[]),
        &desired(&[(subnet(1), vtep(1))]),
        &[
            "neighbor 10.244.1.0 :1",
            "fdb :1 192.168.0.1",
            "route 10.244.1.0/24 via 10.244.1.0",
            "vtep[0] = :1 192.168.0.1",
            "source[192.168.0.1] = 0",
            "route[10.244.1.0/24] = 0",
        ],
    );
}

#[test]
fn node_leaves() {
    check(
        &settled(&[(subnet(1), vtep(1))]),
        &desired(&[]),
        &[
            "remove route[10.244.1.0/24]",
            "remove source[192.168.0.1]",
            "clear vtep[0]",
            "remove fdb :1 192.168.0.1",
            "remove neighbor 10.244.1.0",
            "remove route 10.244.1.0/24",
        ],
    );
}

#[test]
fn node_gets_a_second_subnet() {
    check(
        &settled(&[(subnet(1), vtep(1))]),
        &desired(&[(subnet(1), vtep(1)), (subnet(2), vtep(1))]),
        &[
            "neighbor 10.244.2.0 :1",
            "route 10.244.2.0/24 via 10.244.2.0",
            "route[10.244.2.0/24] = 0",
        ],
    );
}

#[test]
fn node_gives_up_one_of_two_subnets() {
    check(
        &settled(&[(subnet(1), vtep(1)), (subnet(2), vtep(1))]),
        &desired(&[(subnet(1), vtep(1))]),
        &[
            "remove route[10.244.2.0/24]",
            "remove neighbor 10.244.2.0",
            "remove route 10.244.2.0/24",
        ],
    );
}

#[test]
fn node_returns_with_another_mac() {
    check(
        &settled(&[(subnet(1), vtep(1))]),
        &desired(&[(subnet(1), at(9, 1))]),
        &[
            "fdb :9 192.168.0.1",
            "remove fdb :1 192.168.0.1",
            "neighbor 10.244.1.0 :9",
            "vtep[1] = :9 192.168.0.1",
            "source[192.168.0.1] = 1",
            "route[10.244.1.0/24] = 1",
            "clear vtep[0]",
        ],
    );
}

#[test]
fn node_returns_with_another_underlay_address() {
    check(
        &settled(&[(subnet(1), vtep(1))]),
        &desired(&[(subnet(1), at(1, 9))]),
        &[
            "fdb :1 192.168.0.9",
            "remove fdb :1 192.168.0.1",
            "vtep[1] = :1 192.168.0.9",
            "source[192.168.0.9] = 1",
            "route[10.244.1.0/24] = 1",
            "remove source[192.168.0.1]",
            "clear vtep[0]",
        ],
    );
}

#[test]
fn subnet_moves_to_a_node_that_is_there() {
    check(
        &settled(&[(subnet(1), vtep(1)), (subnet(2), vtep(2))]),
        &desired(&[(subnet(1), vtep(2)), (subnet(2), vtep(2))]),
        &[
            "remove fdb :1 192.168.0.1",
            "neighbor 10.244.1.0 :2",
            "route[10.244.1.0/24] = 1",
            "remove source[192.168.0.1]",
            "clear vtep[0]",
        ],
    );
}

#[test]
fn moved_subnet_makes_room_first_where_the_map_is_full() {
    let mut observed = fresh(1, 4);
    let before = plan(&observed, &desired(&[(subnet(1), vtep(1))])).ops;
    super::world::apply(&mut observed, &before);
    check(
        &observed,
        &desired(&[(subnet(1), vtep(2))]),
        &[
            "remove route[10.244.1.0/24]",
            "remove source[192.168.0.1]",
            "clear vtep[0]",
            "fdb :2 192.168.0.2",
            "remove fdb :1 192.168.0.1",
            "neighbor 10.244.1.0 :2",
            "vtep[0] = :2 192.168.0.2",
            "source[192.168.0.2] = 0",
            "route[10.244.1.0/24] = 0",
        ],
    );
}

#[test]
fn lowest_free_index_is_taken() {
    let three = [
        (subnet(1), vtep(1)),
        (subnet(2), vtep(2)),
        (subnet(3), vtep(3)),
    ];
    let mut observed = settled(&three);
    let ops = plan(&observed, &desired(&[three[0], three[2]])).ops;
    super::world::apply(&mut observed, &ops);
    let maps = observed.maps.as_ref().unwrap();
    assert_eq!(maps.vteps.keys().copied().collect::<Vec<_>>(), [0, 2]);

    let ops = plan(
        &observed,
        &desired(&[three[0], three[2], (subnet(4), vtep(4))]),
    )
    .ops;
    super::world::apply(&mut observed, &ops);
    assert_eq!(observed.maps.unwrap().routes.get(&subnet(4)), Some(&1));
}

#[test]
fn highest_subnets_are_unmapped_where_the_maps_are_full() {
    let peers = [
        (subnet(1), vtep(1)),
        (subnet(2), vtep(2)),
        (subnet(3), vtep(3)),
    ];
    assert_eq!(plan(&fresh(2, 9), &desired(&peers)).unmapped, [subnet(3)]);
    assert_eq!(plan(&fresh(9, 2), &desired(&peers)).unmapped, [subnet(3)]);
    assert_eq!(plan(&fresh(0, 0), &desired(&peers)).unmapped.len(), 3);
    assert_eq!(plan(&fresh(3, 3), &desired(&peers)).unmapped, []);
}

#[test]
fn without_bpf_only_the_kernel_is_planned() {
    let mut observed = settled(&[]);
    observed.maps = None;
    check(
        &observed,
        &desired(&[(subnet(1), vtep(1))]),
        &[
            "neighbor 10.244.1.0 :1",
            "fdb :1 192.168.0.1",
            "route 10.244.1.0/24 via 10.244.1.0",
        ],
    );
}

#[test]
fn nothing_goes_before_the_list_is_complete() {
    let mut wanted = desired(&[]);
    wanted.complete = false;
    check(&settled(&[(subnet(1), vtep(1))]), &wanted, &[]);
}

#[test]
fn wrong_route_of_a_peer_is_replaced() {
    let peers = [(subnet(1), vtep(1))];
    for wrong in [
        route_via("10.244.1.1", true),
        route_via("10.244.1.0", false),
    ] {
        let mut observed = settled(&peers);
        overlay(&mut observed).routes.insert(subnet(1), wrong);
        check(
            &observed,
            &desired(&peers),
            &["route 10.244.1.0/24 via 10.244.1.0"],
        );
    }
}

#[test]
fn second_destination_of_a_peer_is_removed() {
    let peers = [(subnet(1), vtep(1))];
    let mut observed = settled(&peers);
    overlay(&mut observed).fdb.insert((mac(1), underlay(7)));
    check(&observed, &desired(&peers), &["remove fdb :1 192.168.0.7"]);
}

#[test]
fn neighbor_without_route_goes_with_its_fdb_entry() {
    let mut observed = settled(&[(subnet(1), vtep(1))]);
    overlay(&mut observed).routes.clear();
    observed.maps = None;
    check(
        &observed,
        &desired(&[]),
        &["remove fdb :1 192.168.0.1", "remove neighbor 10.244.1.0"],
    );
}

#[test]
fn foreign_entries_stay() {
    let mut observed = settled(&[]);
    add_foreign(&mut observed);
    check(&observed, &desired(&[]), &[]);
}

#[test]
fn shorter_subnet_at_the_same_address_keeps_the_neighbor() {
    check(
        &settled(&[(parse("10.244.1.0/25"), vtep(1))]),
        &desired(&[(subnet(1), vtep(1))]),
        &[
            "remove route[10.244.1.0/25]",
            "remove route 10.244.1.0/25",
            "route 10.244.1.0/24 via 10.244.1.0",
            "route[10.244.1.0/24] = 0",
        ],
    );
}

#[test]
fn peers_that_cannot_be_are_left_out() {
    let peers = [
        (parse("10.245.1.0/24"), vtep(1)),
        (parse("fd00:1::/64"), vtep(2)),
        (subnet(3), at(3, 3)),
        (subnet(4), at(4, 3)),
        (subnet(5), at(3, 5)),
        (parse("10.244.3.128/25"), vtep(6)),
    ];
    let reached = settled(&peers);
    assert_eq!(reached, settled(&[(subnet(3), at(3, 3))]));
    let nothing: Observed = fresh(64, 64);
    assert_ne!(reached, nothing);
}
