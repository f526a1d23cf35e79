//! What an observation becomes when a step succeeds.
//!
//! The run loop keeps its last observation up to date with this, so that a lease event
//! needs no new one. What only the kernel knows (a new device's index) is read again by
//! the next full observation.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::backend::{Entry, LinkKind, LinkName, LinkSpec, Out, Route};
use crate::datapath::MapOp;
use crate::observed::{
    Observed, ObservedDevice, ObservedKernel, ObservedLink, ObservedMaps, ObservedRoute,
    UnderlayRoute,
};
use crate::plan::{KernelOp, Op};

/// Applies a step to an observation.
pub fn apply_op(observed: &mut Observed, op: &Op) {
    match op {
        Op::Kernel(op) => apply_kernel_op(&mut observed.kernel, op),
        Op::Map(op) => {
            if let Some(maps) = &mut observed.maps {
                apply_map_op(maps, *op);
            }
        }
    }
}

fn apply_kernel_op(kernel: &mut ObservedKernel, op: &KernelOp) {
    match op {
        KernelOp::Create(spec) => {
            let link = ObservedLink {
                device: created(spec),
                ..ObservedLink::default()
            };
            kernel.links.insert(spec.name.clone(), link);
        }
        KernelOp::Remove { link, .. } => {
            kernel.links.remove(link);
        }
        KernelOp::SetMtu { link, mtu } => on(kernel, link, |link| link.device.mtu = *mtu),
        KernelOp::SetUp(link) => on(kernel, link, |link| link.device.up = true),
        KernelOp::AddAddress { link, address } => on(kernel, link, |link| {
            link.addresses.insert(*address);
        }),
        KernelOp::RemoveAddress { link, address } => on(kernel, link, |link| {
            link.addresses.remove(address);
        }),
        KernelOp::Set(entry) => set(kernel, entry),
        KernelOp::Unset(entry) => unset(kernel, entry),
    }
}

/// Changes what hangs on a link.
fn on(kernel: &mut ObservedKernel, link: &LinkName, change: impl FnOnce(&mut ObservedLink)) {
    if let Some(link) = kernel.links.get_mut(link) {
        change(link);
    }
}

fn set(kernel: &mut ObservedKernel, entry: &Entry) {
    match *entry {
        Entry::Neighbor {
            ref link,
            address,
            mac,
        } => on(kernel, link, |link| {
            link.neighbors.insert(address, mac);
        }),
        // The kernel replaces one destination of the MAC address, we cannot know which. What
        // may still be there counts as there: removing it once too often does no harm.
        Entry::Fdb {
            ref link,
            mac,
            underlay,
        } => on(kernel, link, |link| {
            link.fdb.insert((mac, underlay));
        }),
        Entry::Route(ref route) => set_route(kernel, route),
    }
}

/// A subnet has one route, whichever way it leaves.
fn set_route(kernel: &mut ObservedKernel, route: &Route) {
    let &Route {
        subnet,
        via,
        ref out,
    } = route;
    kernel.underlay_routes.remove(&subnet);
    for link in kernel.links.values_mut() {
        link.routes.remove(&subnet);
    }
    match out {
        Out::Overlay(link) => on(kernel, link, |link| {
            let route = ObservedRoute {
                gateway: Some(via),
                onlink: true,
            };
            link.routes.insert(subnet, route);
        }),
        &Out::Underlay { ifindex } => {
            let route = UnderlayRoute { via, ifindex };
            kernel.underlay_routes.insert(subnet, route);
        }
    }
}

fn unset(kernel: &mut ObservedKernel, entry: &Entry) {
    match *entry {
        Entry::Neighbor {
            ref link, address, ..
        } => on(kernel, link, |link| {
            link.neighbors.remove(&address);
        }),
        Entry::Fdb {
            ref link,
            mac,
            underlay,
        } => on(kernel, link, |link| {
            link.fdb.remove(&(mac, underlay));
        }),
        Entry::Route(Route {
            subnet,
            out: Out::Overlay(ref link),
            ..
        }) => on(kernel, link, |link| {
            link.routes.remove(&subnet);
        }),
        Entry::Route(Route {
            subnet,
            out: Out::Underlay { .. },
            ..
        }) => {
            kernel.underlay_routes.remove(&subnet);
        }
    }
}

fn apply_map_op(maps: &mut ObservedMaps, op: MapOp) {
    match op {
        MapOp::SetVtep { index, vtep, .. } => {
            maps.vteps.insert(index, vtep);
            maps.path_mtus.remove(&index);
            maps.subnet_mtus.remove(&index);
        }
        MapOp::ClearVtep { index } => {
            maps.vteps.remove(&index);
            maps.path_mtus.remove(&index);
            maps.subnet_mtus.remove(&index);
        }
        MapOp::SetPathMtu { index, bytes } => say(&mut maps.path_mtus, index, bytes),
        MapOp::SetSubnetMtu { index, bytes } => say(&mut maps.subnet_mtus, index, bytes),
        MapOp::SetSource { underlay, index } => {
            maps.sources.insert(underlay, index);
        }
        MapOp::RemoveSource { underlay } => {
            maps.sources.remove(&underlay);
        }
        MapOp::SetRoute { subnet, index } => {
            maps.routes.insert(subnet, index);
        }
        MapOp::RemoveRoute { subnet } => {
            maps.routes.remove(&subnet);
        }
    }
}

fn say(mtus: &mut BTreeMap<u32, u32>, index: u32, bytes: Option<u32>) {
    match bytes {
        Some(bytes) => mtus.insert(index, bytes),
        None => mtus.remove(&index),
    };
}

fn created(spec: &LinkSpec) -> ObservedDevice {
    let LinkKind::Vxlan(vxlan) = &spec.kind;
    ObservedDevice {
        ifindex: 0,
        kind: spec.kind.name().to_owned(),
        mtu: spec.mtu,
        mac: spec.mac,
        up: false,
        vni: Some(vxlan.vni.get()),
        port: vxlan.port,
        local: Some(IpAddr::V4(vxlan.local)),
        uplink_ifindex: Some(vxlan.uplink_ifindex),
        group: None,
        l2miss: false,
        gbp: vxlan.gbp,
        learning: vxlan.learning,
    }
}
