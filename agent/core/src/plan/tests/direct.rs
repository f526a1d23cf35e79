//! `DirectRouting`: peers on a link of the host are reached without encap.

use crate::observed::{Observed, UnderlayRoute};
use crate::plan::plan;
use crate::plan::tests::world::{apply, check, desired, settled, subnet, underlay, vtep};

fn settled_direct() -> Observed {
    let peers = [(subnet(1), vtep(1)), (subnet(2), vtep(2))];
    let mut observed = settled(&peers);
    observed.kernel.on_link.insert(underlay(1), 2);
    let ops = plan(&observed, &desired(&peers)).ops;
    apply(&mut observed, &ops);
    observed
}

#[test]
fn a_peer_that_comes_onto_the_link_keeps_all_but_its_routes() {
    let peers = [(subnet(1), vtep(1)), (subnet(2), vtep(2))];
    let mut observed = settled(&peers);
    observed.kernel.on_link.insert(underlay(1), 2);
    check(
        &observed,
        &desired(&peers),
        &[
            "remove route[10.244.1.0/24]",
            "direct route 10.244.1.0/24 via 192.168.0.1",
        ],
    );
    check(&settled_direct(), &desired(&peers), &[]);
}

#[test]
fn a_peer_that_leaves_the_link_is_encapsulated_again() {
    let peers = [(subnet(1), vtep(1)), (subnet(2), vtep(2))];
    let mut observed = settled_direct();
    observed.kernel.on_link.clear();
    check(
        &observed,
        &desired(&peers),
        &[
            "route 10.244.1.0/24 via 10.244.1.0",
            "route[10.244.1.0/24] = 0",
        ],
    );
}

#[test]
fn a_new_peer_on_the_link_may_come_encapsulated_too() {
    let mut observed = settled(&[]);
    observed.kernel.on_link.insert(underlay(1), 2);
    check(
        &observed,
        &desired(&[(subnet(1), vtep(1))]),
        &[
            "neighbor 10.244.1.0 :1",
            "fdb :1 192.168.0.1",
            "direct route 10.244.1.0/24 via 192.168.0.1",
            "vtep[0] = :1 192.168.0.1",
            "source[192.168.0.1] = 0",
        ],
    );
}

#[test]
fn a_direct_route_goes_with_its_peer_and_follows_it() {
    check(
        &settled_direct(),
        &desired(&[(subnet(2), vtep(2))]),
        &[
            "remove source[192.168.0.1]",
            "clear vtep[0]",
            "remove direct route 10.244.1.0/24 via 192.168.0.1",
            "remove fdb :1 192.168.0.1",
            "remove neighbor 10.244.1.0",
        ],
    );
    let mut observed = settled_direct();
    let via = |number| UnderlayRoute {
        via: underlay(number),
        ifindex: 2,
    };
    let routes = &mut observed.kernel.underlay_routes;
    let gone = routes.insert(subnet(1), via(9));
    assert_eq!(gone, Some(via(1)));
    check(
        &observed,
        &desired(&[(subnet(1), vtep(1)), (subnet(2), vtep(2))]),
        &["direct route 10.244.1.0/24 via 192.168.0.1"],
    );
}

#[test]
fn a_direct_route_follows_the_interface_that_leads_to_its_peer() {
    let mut observed = settled_direct();
    observed.kernel.on_link.insert(underlay(1), 3);
    check(
        &observed,
        &desired(&[(subnet(1), vtep(1)), (subnet(2), vtep(2))]),
        &["direct route 10.244.1.0/24 via 192.168.0.1"],
    );
}

#[test]
fn nothing_is_removed_before_the_list_is_complete() {
    let mut desired = desired(&[]);
    desired.complete = false;
    check(&settled_direct(), &desired, &[]);
}
