//! What routes say of MTUs, which the programs cannot ask for: of the way to a VTEP, and of the
//! way that the stack takes to the overlay with packets to the subnets behind it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use twill_packet::vxlan::ENCAP_OVERHEAD;

use super::{MapOp, ObservedMaps};
use crate::backend::Peer;
use crate::plan::Op;
use crate::subnet::Subnet;

/// The steps that make the maps say what the routes say: underlay address → MTU of the route to
/// it, bytes, where it has one. VTEPs at addresses that were not `asked` for stay as they are.
pub fn plan_path_mtus(
    maps: &ObservedMaps,
    routes: &BTreeMap<IpAddr, u32>,
    asked: impl Fn(IpAddr) -> bool,
) -> Vec<Op> {
    let set = |index, bytes| MapOp::SetPathMtu { index, bytes };
    changes(maps, &maps.path_mtus, routes, asked, set)
}

/// The same for what [`subnet_mtus`] says.
pub fn plan_subnet_mtus(
    maps: &ObservedMaps,
    limits: &BTreeMap<IpAddr, u32>,
    asked: impl Fn(IpAddr) -> bool,
) -> Vec<Op> {
    let set = |index, bytes| MapOp::SetSubnetMtu { index, bytes };
    changes(maps, &maps.subnet_mtus, limits, asked, set)
}

/// Underlay address → largest outer packet for what routes into the overlay take, bytes, where
/// one of them says so. A route that leads to a part of a node's subnets limits the whole node,
/// and so does one that leads to more: in which order the kernel would ask them, rules decide.
pub fn subnet_mtus(
    peers: impl Iterator<Item = (Subnet, Peer)>,
    routes: &[(Subnet, u32)],
) -> BTreeMap<IpAddr, u32> {
    let mut limits = BTreeMap::new();
    if routes.is_empty() {
        return limits;
    }
    for (subnet, peer) in peers {
        let met = routes.iter().filter(|(route, _)| route.overlaps(subnet));
        if let Some(mtu) = met
            .map(|&(_, mtu)| mtu.saturating_add(ENCAP_OVERHEAD))
            .min()
        {
            let limit = limits.entry(peer.underlay()).or_insert(mtu);
            *limit = mtu.min(*limit);
        }
    }
    limits
}

fn changes(
    maps: &ObservedMaps,
    said: &BTreeMap<u32, u32>,
    wanted: &BTreeMap<IpAddr, u32>,
    asked: impl Fn(IpAddr) -> bool,
    set: impl Fn(u32, Option<u32>) -> MapOp,
) -> Vec<Op> {
    let asked = maps.vteps.iter().filter(|(_, vtep)| asked(vtep.underlay));
    let differs = asked.filter_map(|(&index, vtep)| {
        let bytes = wanted.get(&vtep.underlay).copied();
        (said.get(&index).copied() != bytes).then(|| Op::Map(set(index, bytes)))
    });
    differs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Observed;
    use crate::simulate::apply_op;
    use crate::vtep::{MacAddr, RemoteVtep};

    fn underlay(number: u8) -> IpAddr {
        [192, 0, 2, number].into()
    }

    fn maps(path_mtus: &[(u32, u32)]) -> ObservedMaps {
        let vtep = |number| RemoteVtep {
            underlay: underlay(number),
            mac: MacAddr([2, 0, 0, 0, 0, number]),
        };
        ObservedMaps {
            vteps: [(0, vtep(10)), (1, vtep(11)), (5, vtep(15))].into(),
            path_mtus: path_mtus.iter().copied().collect(),
            ..ObservedMaps::default()
        }
    }

    /// Plans, carries out, and plans again: then there is nothing to do.
    fn check(before: &[(u32, u32)], routes: &[(u8, u32)], after: &[(u32, u32)], steps: usize) {
        let routes = routes
            .iter()
            .map(|&(number, bytes)| (underlay(number), bytes))
            .collect();
        let mut observed = Observed {
            maps: Some(maps(before)),
            ..Observed::default()
        };
        let ops = plan_path_mtus(&maps(before), &routes, |_| true);
        assert_eq!(ops.len(), steps, "{ops:?}");
        for op in &ops {
            apply_op(&mut observed, op);
        }
        let now = observed.maps.unwrap();
        assert_eq!(now.path_mtus, after.iter().copied().collect());
        assert_eq!(plan_path_mtus(&now, &routes, |_| true), []);
    }

    #[test]
    fn a_route_s_mtu_comes_changes_and_goes() {
        check(&[], &[], &[], 0);
        check(&[], &[(11, 1400)], &[(1, 1400)], 1);
        check(
            &[(1, 1400)],
            &[(11, 1400), (15, 9000)],
            &[(1, 1400), (5, 9000)],
            1,
        );
        check(&[(0, 1400), (1, 1400)], &[(11, 1300)], &[(1, 1300)], 2);
        // A route to nobody.
        check(&[], &[(99, 1400)], &[], 0);
    }

    #[test]
    fn a_route_into_the_overlay_limits_every_node_that_it_meets() {
        let subnet = |text: &str| text.parse::<Subnet>().unwrap();
        let peer = |number| {
            Peer::Vtep(RemoteVtep {
                underlay: underlay(number),
                mac: MacAddr([2, 0, 0, 0, 0, number]),
            })
        };
        let peers = [
            (subnet("10.244.10.0/24"), peer(10)),
            (subnet("10.244.11.0/24"), peer(11)),
            (subnet("10.244.12.0/24"), peer(11)),
        ];
        let check = |routes: &[(&str, u32)], expected: &[(u8, u32)]| {
            let routes: Vec<_> = routes.iter().map(|&(to, mtu)| (subnet(to), mtu)).collect();
            let expected = expected
                .iter()
                .map(|&(number, bytes)| (underlay(number), bytes));
            let found = subnet_mtus(peers.into_iter(), &routes);
            assert_eq!(found, expected.collect(), "{routes:?}");
        };
        check(&[], &[]);
        check(&[("10.245.0.0/16", 1300)], &[]);
        check(&[("10.244.10.0/24", 1300)], &[(10, 1350)]);
        check(
            &[("10.244.11.0/24", 1300), ("10.244.12.7/32", 1200)],
            &[(11, 1250)],
        );
        check(
            &[("10.244.0.0/16", 1400), ("10.244.10.0/24", 9000)],
            &[(10, 1450), (11, 1450)],
        );
        check(
            &[("0.0.0.0/0", u32::MAX)],
            &[(10, u32::MAX), (11, u32::MAX)],
        );
    }

    #[test]
    fn the_limits_of_subnets_are_written_beside_those_of_the_way() {
        let maps = ObservedMaps {
            subnet_mtus: [(0, 1250), (1, 1350)].into(),
            ..maps(&[(0, 1400)])
        };
        let limits = [(underlay(11), 1350), (underlay(15), 1300)].into();
        let set = |index, bytes| Op::Map(MapOp::SetSubnetMtu { index, bytes });
        let expected = vec![set(0, None), set(5, Some(1300))];
        assert_eq!(plan_subnet_mtus(&maps, &limits, |_| true), expected);
    }

    #[test]
    fn who_was_not_asked_for_keeps_what_there_is() {
        let maps = maps(&[(0, 1400)]);
        let ops = plan_path_mtus(&maps, &BTreeMap::new(), |address| address == underlay(11));
        assert_eq!(ops, []);
    }
}
