//! Keeping the maps to what routes say of the MTU towards other nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use twill_core::backend::Peer;
use twill_core::plan::{Op, plan_path_mtus};
use twill_core::simulate::apply_op;
use twill_core::subnet::Subnet;

use super::agent::{Agent, Look};
use crate::datapath::settings::KERNEL_VXLAN_PORT;

impl Agent {
    /// Reads the routes towards every VTEP, or towards those of `subnets` where nothing else has
    /// changed, and writes what differs.
    pub(super) async fn follow_path_mtus(&mut self, look: Look, subnets: &BTreeSet<Subnet>) {
        let vxlan = self.state.config().backend.vxlan();
        let (Some(maps), Some(vxlan)) = (&self.observed.maps, vxlan) else {
            return;
        };
        if look >= Look::Kernel {
            match self.netlink.routes_carry_mtus().await {
                Ok(carried) => self.mtus_carried = carried,
                Err(error) => {
                    self.failures.add("netlink", &error);
                    return;
                }
            }
        } else if !self.mtus_carried {
            return;
        }
        let asked: BTreeSet<IpAddr> = if look >= Look::Kernel {
            maps.vteps.values().map(|vtep| vtep.underlay).collect()
        } else {
            let peers = self.state.peers();
            let vteps = subnets.iter().filter_map(|&subnet| peers.get(subnet));
            vteps.map(Peer::underlay).collect()
        };
        let routes = if self.mtus_carried {
            let addresses = asked.iter().filter_map(|address| match address {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            });
            let port = vxlan.port.unwrap_or(KERNEL_VXLAN_PORT);
            let outer = (self.state.uplink().local, port);
            match self.netlink.route_mtus(outer, addresses).await {
                Ok(routes) => routes,
                Err(error) => {
                    self.failures.add("netlink", &error);
                    return;
                }
            }
        } else {
            BTreeMap::new()
        };
        for op in plan_path_mtus(maps, &routes, |address| asked.contains(&address)) {
            if let Op::Map(map) = &op
                && self.bpf.apply(map, &mut self.failures)
            {
                apply_op(&mut self.observed, &op);
            }
        }
    }
}
