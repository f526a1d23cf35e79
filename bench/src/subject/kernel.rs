//! The kernel's vxlan device, set up by hand as flannel does it.

use anyhow::Result;
use twill_testbed::pod::Pod;
use twill_testbed::service::SERVICE;
use twill_testbed::stock::{self, Peer};
use twill_testbed::topology::Node;
use twill_testbed::world::{NODE_A, NODE_B, SUBNET_A, SUBNET_B, VTEP_MAC_A, VTEP_MAC_B};

use super::Network;
use crate::case::Target;
use crate::leases;
use crate::load::{Ends, Place};
use crate::topology::{self, Setup};

pub(crate) struct Kernel {
    // Pods go before their nodes: fields are dropped in order.
    pods: [Pod; 2],
    nodes: [Node; 2],
}

impl Kernel {
    pub(crate) fn new(setup: Setup) -> Result<Self> {
        let (_, nodes) = topology::nodes(setup)?;
        let [a, b] = &nodes;
        let peer_a = Peer::new(SUBNET_A, NODE_A, VTEP_MAC_A)?;
        let peer_b = Peer::new(SUBNET_B, NODE_B, VTEP_MAC_B)?;
        let env_a = stock::set_up(a, &peer_a)?;
        let env_b = stock::set_up(b, &peer_b)?;
        stock::add_peer(a, &peer_b)?;
        stock::add_peer(b, &peer_a)?;
        if setup.leases > 0 {
            leases::fill_kernel(a, setup.leases)?;
            leases::fill_kernel(b, setup.leases)?;
        }
        let pods = [Pod::add(a, "1", &env_a)?, Pod::add(b, "1", &env_b)?];
        topology::add_services([a, b], pods[1].address(), setup)?;
        topology::widen_ports(&pods)?;
        Ok(Self { pods, nodes })
    }

    pub(crate) fn nodes(&self) -> &[Node; 2] {
        &self.nodes
    }
}

impl Network for Kernel {
    fn ends(&self, target: Target) -> Ends<'_> {
        pod_to_pod(&self.pods, target)
    }
}

/// From the first pod to the second, or to the Service before it.
pub(super) fn pod_to_pod([a, b]: &[Pod; 2], target: Target) -> Ends<'_> {
    Ends {
        client: Place::Inside(a.namespace()),
        server: Place::Inside(b.namespace()),
        to: match target {
            Target::Pod => b.address(),
            Target::Service => SERVICE,
        },
    }
}
