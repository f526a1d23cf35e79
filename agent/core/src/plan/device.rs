//! The vxlan device and its address.

use std::net::IpAddr;

use ipnetwork::Ipv4Network;

use crate::desired::{Desired, Device};
use crate::observed::{ObservedDevice, ObservedKernel};
use crate::plan::KernelOp;

/// What becomes of the device.
pub(super) enum Outcome {
    /// It stays, and what hangs on it.
    Kept,
    /// It is made anew: nothing hangs on it.
    New,
    /// Somebody else's device has the name.
    Blocked,
}

/// Plans the device and its address.
pub(super) fn plan(
    observed: &ObservedKernel,
    desired: &Desired,
    ops: &mut Vec<KernelOp>,
) -> Outcome {
    let wanted = &desired.device;
    let (outcome, addresses) = match &observed.device {
        None => {
            create(wanted, ops);
            (Outcome::New, None)
        }
        Some(device) if is_compatible(device, wanted) => {
            if device.mtu != wanted.mtu {
                ops.push(KernelOp::SetMtu(wanted.mtu));
            }
            if !device.up {
                ops.push(KernelOp::SetUp);
            }
            (Outcome::Kept, Some(&observed.addresses))
        }
        Some(device) if device.kind == "vxlan" || has_flannel_name(wanted) => {
            ops.push(KernelOp::RemoveDevice {
                ifindex: device.ifindex,
            });
            create(wanted, ops);
            (Outcome::New, None)
        }
        Some(_) => return Outcome::Blocked,
    };
    let Some(own) = desired.address.map(Ipv4Network::from) else {
        return outcome;
    };
    if addresses.is_none_or(|addresses| !addresses.contains(&own)) {
        ops.push(KernelOp::AddAddress(own));
    }
    for &address in addresses.into_iter().flatten() {
        if address != own && desired.network.contains(IpAddr::V4(address.ip())) {
            ops.push(KernelOp::RemoveAddress(address));
        }
    }
    outcome
}

/// Whether entries can be put on the device as it is.
pub(super) fn is_usable(observed: &ObservedKernel, wanted: &Device) -> bool {
    let device = observed.device.as_ref();
    device.is_some_and(|device| is_compatible(device, wanted))
}

fn create(wanted: &Device, ops: &mut Vec<KernelOp>) {
    ops.push(KernelOp::CreateDevice(wanted.clone()));
    ops.push(KernelOp::SetUp);
}

/// Only under flannel's own name may a device of another kind be replaced, as flannel does.
fn has_flannel_name(wanted: &Device) -> bool {
    wanted.name == format!("flannel.{}", wanted.vni)
}

/// Whether an existing device is used as it is: flannel's `vxlanLinksIncompat`
/// (flannel 0.28.9, `pkg/backend/vxlan/device.go`). MTU, MAC address and learning do not count.
fn is_compatible(device: &ObservedDevice, wanted: &Device) -> bool {
    let other_uplink = device
        .uplink_ifindex
        .is_some_and(|it| it != 0 && wanted.uplink_ifindex != 0 && it != wanted.uplink_ifindex);
    let other_local = device
        .local
        .is_some_and(|local| local != IpAddr::V4(wanted.local));
    let other_port = match (device.port, wanted.port) {
        (Some(is), Some(should)) => is != 0 && should != 0 && is != should,
        _ => false,
    };
    device.kind == "vxlan"
        && device.vni == Some(wanted.vni.get())
        && !other_uplink
        && !other_local
        && device.group.is_none()
        && !device.l2miss
        && !other_port
        && device.gbp == wanted.gbp
}
