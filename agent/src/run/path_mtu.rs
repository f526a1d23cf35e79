//! Keeping the maps to what routes say of the MTU towards other nodes and towards their pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use twill_core::backend::Peer;
use twill_core::plan::{Op, plan_path_mtus, plan_subnet_mtus, subnet_mtus};
use twill_core::simulate::apply_op;
use twill_core::subnet::Subnet;

use super::agent::{Agent, Look};
use crate::datapath::settings::KERNEL_VXLAN_PORT;
use crate::netlink::RouteWithMtu;

impl Agent {
    /// Reads the routes towards every VTEP, or towards those of `subnets` where nothing else has
    /// changed, and writes what differs.
    pub(super) async fn follow_path_mtus(&mut self, look: Look, subnets: &BTreeSet<Subnet>) {
        let vxlan = self.state.config().backend.vxlan();
        let port = vxlan.map(|vxlan| vxlan.port.unwrap_or(KERNEL_VXLAN_PORT));
        let (Some(port), true) = (port, self.observed.maps.is_some()) else {
            return;
        };
        if look >= Look::Kernel {
            match self.netlink.routes_with_mtus().await {
                Ok(routes) => self.take_mtus(&routes),
                Err(error) => {
                    self.failures.add("netlink", &error);
                    return;
                }
            }
        } else if !self.mtus_carried {
            return;
        }
        let Some(maps) = &self.observed.maps else {
            return;
        };
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
        let limits = subnet_mtus(self.state.peers().iter(), &self.overlay_mtus);
        let is_asked = |address| asked.contains(&address);
        let mut ops = plan_path_mtus(maps, &routes, is_asked);
        ops.extend(plan_subnet_mtus(maps, &limits, is_asked));
        for op in ops {
            if let Op::Map(map) = &op
                && self.bpf.apply(map, &mut self.failures)
            {
                apply_op(&mut self.observed, &op);
            }
        }
    }

    /// Keeps what routes with an MTU mean to the overlay: those that may leave by its device.
    fn take_mtus(&mut self, routes: &[RouteWithMtu]) {
        self.mtus_carried = !routes.is_empty();
        let name = self.state.config().backend.link_name();
        let link = name.and_then(|name| self.observed.kernel.links.get(&name));
        let device = link.map(|link| link.device.ifindex);
        let ours = routes
            .iter()
            .filter(|route| device.is_some_and(|device| route.may_use(device)));
        self.overlay_mtus = ours.map(|route| (route.destination, route.mtu)).collect();
    }
}
