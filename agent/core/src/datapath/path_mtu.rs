//! What routes say of the MTU on the way to a VTEP, which the programs cannot ask for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{MapOp, ObservedMaps};
use crate::plan::Op;

/// The steps that make the maps say what the routes say: underlay address → MTU of the route to
/// it, bytes, where it has one. VTEPs at addresses that were not `asked` for stay as they are.
pub fn plan_path_mtus(
    maps: &ObservedMaps,
    routes: &BTreeMap<IpAddr, u32>,
    asked: impl Fn(IpAddr) -> bool,
) -> Vec<Op> {
    let mut ops = Vec::new();
    for (&index, vtep) in &maps.vteps {
        let bytes = routes.get(&vtep.underlay).copied();
        if asked(vtep.underlay) && maps.path_mtus.get(&index).copied() != bytes {
            ops.push(Op::Map(MapOp::SetPathMtu { index, bytes }));
        }
    }
    ops
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
    fn who_was_not_asked_for_keeps_what_there_is() {
        let maps = maps(&[(0, 1400)]);
        let ops = plan_path_mtus(&maps, &BTreeMap::new(), |address| address == underlay(11));
        assert_eq!(ops, []);
    }
}
