//! host-gw: `<subnet> via <public address> dev <uplink>`, and nothing else (flannel 0.28.9,
//! `pkg/backend/hostgw`, `pkg/backend/route_network.go`).

use std::net::{IpAddr, Ipv4Addr};

use super::{EntryPlan, Peer, Unsuitable, Wanted, underlay};
use crate::lease::{Lease, LeaseAttrs};
use crate::observed::ObservedKernel;
use crate::plan::KernelOp;
use crate::subnet::Subnet;
use crate::uplink::Uplink;

/// `Backend.Type` and `BackendType`.
pub(super) const NAME: &str = "host-gw";

pub(super) const WITHOUT_BPF: &str =
    "Backend.Type is host-gw: the kernel's routes lead from node to node, without a tunnel";

/// Peers route to the public address: it must be the interface's.
pub(super) fn suits(uplink: &Uplink) -> Result<(), Unsuitable> {
    if uplink.public_ip == uplink.address {
        return Ok(());
    }
    Err(Unsuitable::Translated {
        public_ip: uplink.public_ip,
        interface: uplink.name.clone(),
        address: uplink.address,
    })
}

pub(super) fn attrs(public_ip: Ipv4Addr) -> LeaseAttrs {
    LeaseAttrs {
        public_ip,
        public_ipv6: None,
        backend_type: NAME.to_owned(),
        backend_data: None,
        backend_v6_data: None,
    }
}

pub(super) fn leases(kernel: &ObservedKernel) -> Vec<Lease> {
    let routes = kernel.underlay_routes.iter();
    let lease = |(&subnet, route): (&Subnet, &crate::observed::UnderlayRoute)| match route.via {
        IpAddr::V4(via) => Some(Lease {
            subnet,
            attrs: attrs(via),
            ttl_seconds: None,
        }),
        IpAddr::V6(_) => None,
    };
    routes.filter_map(lease).collect()
}

/// A peer has one entry, its route.
pub(super) struct Entries<'a> {
    kernel: &'a ObservedKernel,
    wanted: Wanted<'a>,
    ops: Vec<KernelOp>,
}

impl<'a> Entries<'a> {
    pub(super) fn new(kernel: &'a ObservedKernel, wanted: Wanted<'a>) -> Self {
        Self {
            kernel,
            wanted,
            ops: Vec::new(),
        }
    }
}

impl EntryPlan for Entries<'_> {
    /// A node that is not on the link gets no route: the kernel would refuse it.
    fn set(&mut self, subnet: Subnet, peer: Peer) {
        let via = peer.underlay();
        if let Some(ifindex) = self.wanted.direct(via) {
            let route = underlay::set(self.kernel, subnet, via, ifindex);
            self.ops.extend(route);
        }
    }

    fn remove_stale(&mut self) {
        self.ops.extend(underlay::stale(self.kernel, self.wanted));
    }

    fn remove_stale_peer(&mut self, subnet: Subnet) {
        if self.kernel.underlay_routes.contains_key(&subnet) {
            self.remove_stale();
        }
    }

    fn take(&mut self) -> Vec<KernelOp> {
        std::mem::take(&mut self.ops)
    }
}
