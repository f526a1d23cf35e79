//! What an observation becomes when a step succeeds.
//!
//! The run loop keeps its last observation up to date with this, so that a lease event
//! needs no new one. What only the kernel knows (a new device's index) is read again by
//! the next full observation.

use std::net::IpAddr;

use crate::desired::Device;
use crate::observed::{Observed, ObservedDevice, ObservedKernel, ObservedMaps, ObservedRoute};
use crate::plan::{KernelOp, MapOp, Op};

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
    match *op {
        KernelOp::CreateDevice(ref device) => {
            *kernel = ObservedKernel {
                device: Some(created(device)),
                ..without_device(kernel)
            };
        }
        KernelOp::RemoveDevice { .. } => *kernel = without_device(kernel),
        KernelOp::SetMtu(mtu) => {
            if let Some(device) = &mut kernel.device {
                device.mtu = mtu;
            }
        }
        KernelOp::SetUp => {
            if let Some(device) = &mut kernel.device {
                device.up = true;
            }
        }
        KernelOp::AddAddress(address) => {
            kernel.addresses.insert(address);
        }
        KernelOp::RemoveAddress(address) => {
            kernel.addresses.remove(&address);
        }
        KernelOp::SetNeighbor { address, mac } => {
            kernel.neighbors.insert(address, mac);
        }
        KernelOp::RemoveNeighbor { address } => {
            kernel.neighbors.remove(&address);
        }
        // The kernel replaces one destination of the MAC address, we cannot know which. What
        // may still be there counts as there: removing it once too often does no harm.
        KernelOp::SetFdb { mac, underlay } => {
            kernel.fdb.insert((mac, underlay));
        }
        KernelOp::RemoveFdb { mac, underlay } => {
            kernel.fdb.remove(&(mac, underlay));
        }
        KernelOp::SetRoute { subnet, gateway } => {
            let route = ObservedRoute {
                gateway: Some(IpAddr::V4(gateway)),
                onlink: true,
            };
            kernel.routes.insert(subnet, route);
            kernel.direct_routes.remove(&subnet);
        }
        KernelOp::RemoveRoute { subnet } => {
            kernel.routes.remove(&subnet);
        }
        KernelOp::SetDirectRoute { subnet, gateway } => {
            kernel.direct_routes.insert(subnet, gateway.into());
            kernel.routes.remove(&subnet);
        }
        KernelOp::RemoveDirectRoute { subnet, .. } => {
            kernel.direct_routes.remove(&subnet);
        }
    }
}

/// What does not hang on the device.
fn without_device(kernel: &mut ObservedKernel) -> ObservedKernel {
    ObservedKernel {
        direct_routes: std::mem::take(&mut kernel.direct_routes),
        on_link: std::mem::take(&mut kernel.on_link),
        ..ObservedKernel::default()
    }
}

fn apply_map_op(maps: &mut ObservedMaps, op: MapOp) {
    match op {
        MapOp::SetVtep { index, vtep, .. } => {
            maps.vteps.insert(index, vtep);
            maps.path_mtus.remove(&index);
        }
        MapOp::ClearVtep { index } => {
            maps.vteps.remove(&index);
            maps.path_mtus.remove(&index);
        }
        MapOp::SetPathMtu { index, bytes } => {
            match bytes {
                Some(bytes) => maps.path_mtus.insert(index, bytes),
                None => maps.path_mtus.remove(&index),
            };
        }
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

fn created(device: &Device) -> ObservedDevice {
    ObservedDevice {
        ifindex: 0,
        kind: "vxlan".to_owned(),
        mtu: device.mtu,
        mac: device.mac,
        up: false,
        vni: Some(device.vni.get()),
        port: device.port,
        local: Some(IpAddr::V4(device.local)),
        uplink_ifindex: Some(device.uplink_ifindex),
        group: None,
        l2miss: false,
        gbp: device.gbp,
        learning: device.learning,
    }
}
