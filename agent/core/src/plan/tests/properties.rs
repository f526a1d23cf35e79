//! What holds for every plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use crate::backend::{Peer, Wanted};
use crate::desired::Desired;
use crate::observed::{Observed, ObservedKernel, ObservedLink, ObservedMaps};
use crate::peers::Peers;
use crate::plan::tests::world::{
    add_foreign, apply, at, desired, fresh, link_name, mac, overlay, parse, route_via, subnet,
    underlay,
};
use crate::plan::{NOBODY, Plan, plan, plan_one};
use crate::subnet::Subnet;
use crate::vtep::RemoteVtep;

fn some_subnet() -> impl Strategy<Value = Subnet> {
    prop_oneof![
        8 => (1..9_u8).prop_map(subnet),
        1 => (1..9_u8).prop_map(|n| parse(&format!("10.244.{n}.0/25"))),
        1 => (1..9_u8).prop_map(|n| parse(&format!("10.244.{n}.128/25"))),
    ]
}

fn some_vtep() -> impl Strategy<Value = RemoteVtep> {
    prop_oneof![
        3 => (1..6_u8).prop_map(|n| at(n, n)),
        1 => (1..6_u8, 1..6_u8).prop_map(|(mac, underlay)| at(mac, underlay)),
    ]
}

prop_compose! {
    fn some_desired()(
        peers in proptest::collection::btree_map(some_subnet(), some_vtep(), 0..8)
    ) -> Desired {
        {
            let peers: Vec<_> = peers.into_iter().collect();
            desired(&peers)
        }
    }
}

/// A node on which the first desired state was reached, with foreign entries beside it.
fn some_settled() -> impl Strategy<Value = Observed> {
    (some_desired(), 0..8_u32, 0..10_u32).prop_map(|(before, vteps, routes)| {
        let mut observed = fresh(vteps, routes);
        let ops = plan(&observed, &before).ops;
        apply(&mut observed, &ops);
        add_foreign(&mut observed);
        observed
    })
}

prop_compose! {
    /// A node with anything on it.
    fn some_garbage()(
        mut observed in some_settled(),
        routes in proptest::collection::btree_map(some_subnet(), (1..9_u8, any::<bool>()), 0..5),
        neighbors in proptest::collection::btree_map(1..9_u8, 1..6_u8, 0..5),
        fdb in proptest::collection::btree_set((1..6_u8, 1..6_u8), 0..5),
        vteps in proptest::collection::btree_map(0..9_u32, some_vtep(), 0..5),
        map_routes in proptest::collection::btree_map(some_subnet(), 0..9_u32, 0..5),
        sources in proptest::collection::btree_map(1..6_u8, 0..9_u32, 0..5),
    ) -> Observed {
        let kernel = overlay(&mut observed);
        kernel.routes.extend(routes.into_iter().map(|(subnet, (n, onlink))| {
            (subnet, route_via(&format!("10.244.{n}.0"), onlink))
        }));
        kernel.neighbors.extend(neighbors.into_iter().map(|(n, m)| (subnet(n).network(), mac(m))));
        kernel.fdb.extend(fdb.into_iter().map(|(m, u)| (mac(m), underlay(u))));
        let maps = observed.maps.as_mut().unwrap();
        maps.vteps.extend(vteps);
        maps.routes.extend(map_routes);
        maps.sources.extend(sources.into_iter().map(|(n, index)| (underlay(n), index)));
        observed
    }
}

fn peers_of(desired: &Desired) -> Peers {
    let mut peers = Peers::default();
    for (&subnet, &peer) in &desired.peers {
        peers.insert(subnet, peer);
    }
    peers
}

/// The kernel's side as it has to be: ours and the foreign, nothing else.
fn expected_kernel(reached: &ObservedKernel, peers: &Peers) -> ObservedKernel {
    let mut expected = fresh(0, 0);
    let ops = plan(&expected, &desired(&[])).ops;
    apply(&mut expected, &ops);
    add_foreign(&mut expected);
    let link = overlay(&mut expected);
    link.device.clone_from(&reached.links[&link_name()].device);
    for (subnet, vtep) in peers.vteps() {
        let gateway = subnet.network().to_string();
        link.routes.insert(subnet, route_via(&gateway, true));
        link.neighbors.insert(subnet.network(), vtep.mac);
        link.fdb.insert((vtep.mac, vtep.underlay));
    }
    expected.kernel
}

fn on_overlay(kernel: &ObservedKernel) -> &ObservedLink {
    &kernel.links[&link_name()]
}

/// What the maps say, whatever the indices are.
fn meaning(maps: &ObservedMaps) -> BTreeMap<Subnet, Option<RemoteVtep>> {
    let vtep = |index: &u32| maps.vteps.get(index).copied();
    maps.routes
        .iter()
        .map(|(&subnet, index)| (subnet, vtep(index)))
        .collect()
}

fn check_maps(
    maps: &ObservedMaps,
    peers: &Peers,
    unmapped: &[Subnet],
) -> Result<(), TestCaseError> {
    let mapped: BTreeMap<_, _> = peers
        .vteps()
        .filter(|(subnet, _)| !unmapped.contains(subnet))
        .map(|(subnet, vtep)| (subnet, Some(vtep)))
        .collect();
    prop_assert_eq!(meaning(maps), mapped);
    let used: BTreeSet<u32> = maps.routes.values().copied().collect();
    let active: BTreeSet<u32> = maps.vteps.keys().copied().collect();
    prop_assert_eq!(used, active, "every active index has a subnet");
    let sources: BTreeMap<IpAddr, u32> = maps
        .vteps
        .iter()
        .map(|(&index, vtep)| (vtep.underlay, index))
        .collect();
    prop_assert_eq!(sources.len(), maps.vteps.len(), "one index per VTEP");
    prop_assert_eq!(&maps.sources, &sources);
    Ok(())
}

fn fits(maps: &ObservedMaps) -> bool {
    maps.vteps.keys().all(|&index| index < maps.vtep_capacity)
        && maps.routes.len() <= maps.route_capacity as usize
        && maps.sources.len() <= maps.vtep_capacity as usize
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn plan_reaches_what_is_desired(mut observed in some_settled(), desired in some_desired()) {
        let peers = peers_of(&desired);
        let Plan { ops, unmapped } = plan(&observed, &desired);
        apply(&mut observed, &ops);
        prop_assert_eq!(&observed.kernel, &expected_kernel(&observed.kernel, &peers));
        let maps = observed.maps.as_ref().unwrap();
        check_maps(maps, &peers, &unmapped)?;
        let roomy = peers.len() <= maps.route_capacity as usize
            && peers.node_count() <= maps.vtep_capacity as usize;
        prop_assert_eq!(unmapped.is_empty(), roomy);
        prop_assert_eq!(plan(&observed, &desired), Plan { ops: vec![], unmapped });
    }

    #[test]
    fn plan_that_was_cut_off_is_finished_by_the_next(
        observed in some_settled(), desired in some_desired()
    ) {
        let Plan { ops, unmapped } = plan(&observed, &desired);
        let mut reached = observed.clone();
        apply(&mut reached, &ops);
        for cut in 0..ops.len() {
            let mut partly = observed.clone();
            apply(&mut partly, &ops[..cut]);
            let rest = plan(&partly, &desired);
            apply(&mut partly, &rest.ops);
            prop_assert_eq!(&partly.kernel, &reached.kernel, "cut at {}", cut);
            prop_assert_eq!(&rest.unmapped, &unmapped);
            check_maps(partly.maps.as_ref().unwrap(), &peers_of(&desired), &unmapped)?;
        }
    }

    #[test]
    fn maps_never_mislead_on_the_way(mut observed in some_settled(), desired in some_desired()) {
        let before = meaning(observed.maps.as_ref().unwrap());
        let plan = plan(&observed, &desired);
        let mut end = observed.clone();
        apply(&mut end, &plan.ops);
        let after = meaning(end.maps.as_ref().unwrap());
        let capacity = observed.maps.as_ref().unwrap().vtep_capacity as usize;
        let roomy = observed.maps.as_ref().unwrap().vteps.len()
            + end.maps.as_ref().unwrap().vteps.len() <= capacity;
        for op in &plan.ops {
            apply(&mut observed, [op]);
            let maps = observed.maps.as_ref().unwrap();
            prop_assert!(fits(maps), "{:?}", op);
            let now = meaning(maps);
            for (subnet, vtep) in &now {
                let known = before.get(subnet) == Some(vtep) || after.get(subnet) == Some(vtep);
                prop_assert!(known, "{} leads to {:?} at {:?}", subnet, vtep, op);
            }
            for subnet in before.keys().filter(|subnet| roomy && after.contains_key(subnet)) {
                prop_assert!(now.contains_key(subnet), "gap for {} at {:?}", subnet, op);
            }
        }
    }

    #[test]
    fn garbage_is_put_right(mut observed in some_garbage(), desired in some_desired()) {
        let peers = peers_of(&desired);
        let Plan { ops, unmapped } = plan(&observed, &desired);
        apply(&mut observed, &ops);
        let expected = expected_kernel(&observed.kernel, &peers);
        let (expected, kernel) = (on_overlay(&expected), on_overlay(&observed.kernel));
        // Beside what is expected, only such entries may remain as nothing marks as ours.
        for (subnet, route) in &expected.routes {
            prop_assert_eq!(kernel.routes.get(subnet), Some(route));
        }
        for (address, mac) in &expected.neighbors {
            prop_assert_eq!(kernel.neighbors.get(address), Some(mac));
        }
        prop_assert!(kernel.fdb.is_superset(&expected.fdb));
        for &(mac, underlay) in kernel.fdb.difference(&expected.fdb) {
            prop_assert!(!peers.has_mac(mac), "second destination {} of {}", underlay, mac);
        }
        check_maps(observed.maps.as_ref().unwrap(), &peers, &unmapped)?;
        prop_assert_eq!(plan(&observed, &desired), Plan { ops: vec![], unmapped });
    }

    #[test]
    fn before_the_list_is_complete_nothing_unknown_goes(
        observed in some_settled(), mut desired in some_desired()
    ) {
        desired.complete = false;
        let peers = peers_of(&desired);
        let mut reached = observed.clone();
        let Plan { ops, unmapped } = plan(&observed, &desired);
        apply(&mut reached, &ops);
        let (link, link_after) = (on_overlay(&observed.kernel), on_overlay(&reached.kernel));
        for (subnet, route) in &link.routes {
            prop_assert_eq!(link_after.routes.get(subnet), Some(route));
        }
        for (address, mac) in &link.neighbors {
            let kept = link_after.neighbors.get(address) == Some(mac);
            prop_assert!(kept || peers.starts_at(*address));
        }
        for &(mac, underlay) in link.fdb.difference(&link_after.fdb) {
            prop_assert!(peers.has_mac(mac), "{} {}", mac, underlay);
        }
        let (before, after) = (observed.maps.as_ref().unwrap(), reached.maps.as_ref().unwrap());
        prop_assert!(fits(after));
        let (was, is) = (meaning(before), meaning(after));
        for (subnet, vtep) in &was {
            prop_assert!(peers.get(*subnet).is_some() || is.get(subnet) == Some(vtep));
        }
        for (subnet, vtep) in peers.vteps().filter(|(subnet, _)| !unmapped.contains(subnet)) {
            prop_assert_eq!(is.get(&subnet), Some(&Some(vtep)));
        }
        for subnet in &unmapped {
            prop_assert_eq!(is.get(subnet), None);
        }
        prop_assert_eq!(plan(&reached, &desired), Plan { ops: vec![], unmapped });
    }

    #[test]
    fn one_peer_is_planned_as_the_full_plan_does(
        before in some_desired(), subnet in some_subnet(), vtep in proptest::option::of(some_vtep()),
        capacity in 0..10_u32, complete in any::<bool>(), damage in 0..64_u8,
    ) {
        let mut observed = fresh(capacity, capacity);
        let mut after = before.clone();
        let ops = plan(&observed, &before).ops;
        apply(&mut observed, &ops);
        add_foreign(&mut observed);
        after.complete = complete;
        let mut peers = peers_of(&before);
        let old = peers.remove(subnet);
        if let Some(vtep) = vtep {
            peers.insert(subnet, vtep.into());
        }
        after.peers = peers.as_map().clone();
        // Damage to this one peer's entries belongs to its plan too.
        if let Some(old) = old.filter(|old| !peers.has(*old)).and_then(Peer::vtep) {
            let kernel = observed.kernel.links.get_mut(&link_name()).unwrap();
            let maps = observed.maps.as_mut().unwrap();
            let lost = |bit: u8| damage & (1 << bit) != 0;
            if lost(0) { kernel.routes.remove(&subnet); }
            if lost(1) { kernel.neighbors.remove(&subnet.network()); }
            if lost(2) { kernel.fdb.remove(&(old.mac, old.underlay)); }
            if lost(3) { maps.sources.remove(&old.underlay); }
        }
        let wanted = Wanted { network: after.network, complete, peers: &peers, on_link: &NOBODY };
        let full = plan(&observed, &after);
        // What stale entries leave no room for is everybody's affair.
        prop_assume!(complete || full.unmapped.is_empty());
        prop_assert_eq!(plan_one(&observed, wanted, after.backend.entries(&observed.kernel, wanted), subnet), full);
    }
}
