//! Which nodes are on a link of this one, and the routes to them past any tunnel: `DirectRouting`,
//! and host-gw.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use tracing::info;
use twill_core::observed::UnderlayRoute;
use twill_core::subnet::Subnet;

use super::agent::Agent;

impl Agent {
    /// Reads the routes that we made past any tunnel.
    pub(super) async fn look_for_underlay_routes(
        &mut self,
        before: BTreeMap<Subnet, UnderlayRoute>,
    ) {
        let network = self.state.config().network;
        let found = self.netlink.underlay_routes(network).await;
        self.observed.kernel.underlay_routes = found.unwrap_or_else(|error| {
            self.failures.add("netlink", &error);
            before
        });
    }

    /// Asks for each peer whether it is on a link of this host. What is not known stays as it
    /// was.
    pub(super) async fn look_for_ways(&mut self, before: BTreeMap<IpAddr, u32>) {
        let overlay = self.state.config().backend.link_name();
        let overlay = overlay.and_then(|name| self.observed.kernel.links.get(&name));
        let overlay = overlay.map(|link| link.device.ifindex);
        // Flannel's routes leave by the uplink, whatever other links there are.
        let uplink = self.state.uplink().ifindex;
        let only_uplink = self.state.config().backend.needs_one_link();
        let peers = self.state.peers().iter();
        let underlays: BTreeSet<Ipv4Addr> = peers
            .filter_map(|(_, peer)| match peer.underlay() {
                IpAddr::V4(underlay) => Some(underlay),
                IpAddr::V6(_) => None,
            })
            .collect();
        match self.netlink.on_link(underlays).await {
            Ok(mut on_link) => {
                on_link.retain(|_, ifindex| {
                    Some(*ifindex) != overlay && (!only_uplink || *ifindex == uplink)
                });
                let of = |ways: &BTreeMap<IpAddr, u32>| -> BTreeSet<IpAddr> {
                    ways.keys().copied().collect()
                };
                for underlay in of(&on_link).symmetric_difference(&of(&before)) {
                    let direct = on_link.contains_key(underlay);
                    info!(%underlay, direct, "way to a peer");
                }
                self.observed.kernel.on_link = on_link;
            }
            Err(error) => {
                self.failures.add("netlink", &error);
                self.observed.kernel.on_link = before;
            }
        }
    }
}
