//! `DirectRouting`: which peers are on a link of this host, and the routes past the device.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use tracing::info;
use twill_core::subnet::Subnet;

use super::agent::Agent;

impl Agent {
    /// Reads the routes that we made past the device.
    pub(super) async fn look_for_direct_routes(&mut self, before: BTreeMap<Subnet, IpAddr>) {
        let network = self.state.config().network;
        let found = self.netlink.direct_routes(network).await;
        self.observed.kernel.direct_routes = found.unwrap_or_else(|error| {
            self.failures.add("netlink", &error);
            before
        });
    }

    /// Asks for each peer whether it is on a link of this host. What is not known stays as it
    /// was.
    pub(super) async fn look_for_links(&mut self, before: BTreeSet<IpAddr>) {
        let overlay = self.observed.kernel.device.as_ref();
        let overlay = overlay.map_or(0, |device| device.ifindex);
        let peers = self.state.peers().iter();
        let underlays: BTreeSet<Ipv4Addr> = peers
            .filter_map(|(_, vtep)| match vtep.underlay {
                IpAddr::V4(underlay) => Some(underlay),
                IpAddr::V6(_) => None,
            })
            .collect();
        match self.netlink.on_link(underlays, overlay).await {
            Ok(on_link) => {
                for underlay in on_link.symmetric_difference(&before) {
                    let direct = on_link.contains(underlay);
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
