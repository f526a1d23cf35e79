//! Routes to nodes on a link of this one, past any tunnel: all of host-gw, and what vxlan does
//! with `DirectRouting`.

use std::net::IpAddr;

use super::{Entry, Out, Route, Wanted};
use crate::observed::{ObservedKernel, UnderlayRoute};
use crate::plan::KernelOp;
use crate::subnet::Subnet;

/// The route to a node that is reached by the interface `ifindex`, unless it is there.
pub(super) fn set(
    kernel: &ObservedKernel,
    subnet: Subnet,
    via: IpAddr,
    ifindex: u32,
) -> Option<KernelOp> {
    let wanted = UnderlayRoute { via, ifindex };
    let missing = kernel.underlay_routes.get(&subnet) != Some(&wanted);
    missing.then(|| KernelOp::Set(entry(subnet, wanted)))
}

/// The removal of every such route that is nobody's any more.
pub(super) fn stale(kernel: &ObservedKernel, wanted: Wanted<'_>) -> impl Iterator<Item = KernelOp> {
    let routes = kernel.underlay_routes.iter();
    routes
        .filter(move |&(&subnet, _)| wanted.is_stale(subnet))
        .map(|(&subnet, &route)| KernelOp::Unset(entry(subnet, route)))
}

fn entry(subnet: Subnet, route: UnderlayRoute) -> Entry {
    let UnderlayRoute { via, ifindex } = route;
    Entry::Route(Route {
        subnet,
        via,
        out: Out::Underlay { ifindex },
    })
}
