//! The link that carries the overlay, and its address.

use std::borrow::Cow;

use ipnetwork::Ipv4Network;

use crate::backend::{LinkName, LinkSpec};
use crate::observed::{ObservedKernel, ObservedLink};
use crate::plan::KernelOp;
use crate::subnet::Subnet;

/// Plans the link, and says what of the kernel there is to plan entries on: a link that is made
/// anew has none. `None`: somebody else's has the name.
pub(super) fn plan<'a>(
    observed: &'a ObservedKernel,
    wanted: &LinkSpec,
    network: Subnet,
    ops: &mut Vec<KernelOp>,
) -> Option<Cow<'a, ObservedKernel>> {
    let link = || wanted.name.clone();
    let (kernel, addresses) = match observed.links.get(&wanted.name) {
        None => {
            create(wanted, ops);
            (made_anew(observed, link()), None)
        }
        Some(ObservedLink {
            device, addresses, ..
        }) if wanted.is_compatible(device) => {
            if wanted.wants_mtu(device) {
                ops.push(KernelOp::SetMtu {
                    link: link(),
                    mtu: wanted.mtu,
                });
            }
            if !device.up {
                ops.push(KernelOp::SetUp(link()));
            }
            (Cow::Borrowed(observed), Some(addresses))
        }
        Some(ObservedLink { device, .. }) if wanted.may_replace(device) => {
            ops.push(KernelOp::Remove {
                link: link(),
                ifindex: device.ifindex,
            });
            create(wanted, ops);
            (made_anew(observed, link()), None)
        }
        Some(_) => return None,
    };
    let Some(own) = wanted.address else {
        return Some(kernel);
    };
    if addresses.is_none_or(|addresses| !addresses.contains(&own)) {
        ops.push(KernelOp::AddAddress {
            link: link(),
            address: own,
        });
    }
    for &address in addresses.into_iter().flatten() {
        if address != own && is_within(network, address) {
            ops.push(KernelOp::RemoveAddress {
                link: link(),
                address,
            });
        }
    }
    Some(kernel)
}

/// Whether entries can be put on the link as it is.
pub(super) fn is_usable(observed: &ObservedKernel, wanted: &LinkSpec) -> bool {
    let link = observed.links.get(&wanted.name);
    link.is_some_and(|link| wanted.is_compatible(&link.device))
}

fn create(wanted: &LinkSpec, ops: &mut Vec<KernelOp>) {
    ops.push(KernelOp::Create(wanted.clone()));
    ops.push(KernelOp::SetUp(wanted.name.clone()));
}

fn made_anew(observed: &ObservedKernel, link: LinkName) -> Cow<'static, ObservedKernel> {
    Cow::Owned(ObservedKernel {
        links: [(link, ObservedLink::default())].into(),
        underlay_routes: observed.underlay_routes.clone(),
        on_link: observed.on_link.clone(),
    })
}

fn is_within(network: Subnet, address: Ipv4Network) -> bool {
    network.contains(address.ip().into())
}
