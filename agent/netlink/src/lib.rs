//! The kernel's network configuration over rtnetlink: observed, changed, watched.
//!
//! [`Netlink::observe`] reads what hangs on our device, [`Netlink::apply`] carries out a plan's
//! steps, [`Netlink::uplink`] finds the underlay interface, [`Netlink::host_links`] reads what pods
//! hang on, [`monitor`] tells when something changed that may matter. Nothing here decides what
//! should be, and nothing is changed that no step names.

#![forbid(unsafe_code)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "rtnetlink's messages and attributes are open enums of dozens, of which we use few"
)]

mod addr;
mod apply;
mod error;
mod link;
mod message;
pub mod monitor;
mod neigh;
#[cfg(any(test, feature = "fuzzing"))]
pub mod noise;
mod outbox;
mod path_mtu;
mod pods;
mod route;
mod rules;
mod said;
mod socket;
mod tc;
mod uplink;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use tokio::sync::Mutex;
use twill_core::backend::LinkName;
use twill_core::observed::{ObservedDevice, ObservedKernel, ObservedLink, UnderlayRoute};
use twill_core::plan::KernelOp;
use twill_core::subnet::Subnet;
use twill_core::uplink::Uplink;

pub use self::error::{Error, Failure};
pub use self::link::VxlanDevice;
pub use self::path_mtu::RouteWithMtu;
use self::said::Said;
use self::socket::Socket;
pub use self::uplink::{Overlay, UplinkChoice, UplinkError, UplinkTerms};

/// A connection to the kernel; clones share it, and take turns.
#[derive(Clone)]
pub struct Netlink(Arc<Shared>);

struct Shared {
    socket: Mutex<Socket>,
    /// Port number of `socket`.
    port: Arc<AtomicU32>,
    said: Said,
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread. Needs a tokio runtime with
    /// I/O and time.
    pub fn connect() -> Result<Self, Error> {
        let port = Arc::new(AtomicU32::new(0));
        let socket = Socket::connect(Arc::clone(&port)).map_err(|source| Error::Open { source })?;
        Ok(Self(Arc::new(Shared {
            socket: Mutex::new(socket),
            port,
            said: Said::default(),
        })))
    }

    /// Reads the links of these names, whatever their kind, and what hangs on them: addresses,
    /// main table routes inside `network`, permanent neighbours and FDB entries. Foreign entries
    /// are reported like ours. A link that is not there is left out.
    ///
    /// A route with a metric or a type of service stands beside ours and is not reported.
    pub async fn observe(
        &self,
        links: impl IntoIterator<Item = LinkName>,
        network: Subnet,
    ) -> Result<ObservedKernel, Error> {
        let socket = &mut *self.0.socket.lock().await;
        let mut observed = ObservedKernel::default();
        for name in links {
            if let Some(link) = observe_link(socket, &name, network).await? {
                observed.links.insert(name, link);
            }
        }
        Ok(observed)
    }

    /// Whether the packets of a link have Ethernet headers; `None` if there is no such link.
    pub async fn has_ethernet_headers(&self, name: &str) -> Result<Option<bool>, Error> {
        Ok(self.find(name).await?.map(|link| link.mac.is_some()))
    }

    /// Reads a link by its exact name; `None` if there is none.
    pub async fn device(&self, name: &str) -> Result<Option<ObservedDevice>, Error> {
        Ok(self.find(name).await?.map(|link| link.device))
    }

    async fn find(&self, name: &str) -> Result<Option<link::Link>, Error> {
        let socket = &mut *self.0.socket.lock().await;
        let found = link::by_name(socket, name).await;
        found.map_err(|source| Error::FindDevice {
            device: name.to_owned(),
            source,
        })
    }

    /// Finds the underlay interface and its address.
    pub async fn uplink(
        &self,
        choice: &UplinkChoice,
        terms: &UplinkTerms,
    ) -> Result<Uplink, Error> {
        let socket = &mut *self.0.socket.lock().await;
        Ok(uplink::find(socket, choice, terms).await?)
    }

    /// The present uplink, if `choice` may mean it and it can still carry what nodes send to
    /// each other, whatever the host would choose today.
    pub async fn present_uplink(
        &self,
        choice: &UplinkChoice,
        terms: &UplinkTerms,
    ) -> Result<Option<Uplink>, Error> {
        let socket = &mut *self.0.socket.lock().await;
        Ok(uplink::keep(socket, choice, terms).await?)
    }

    /// The interfaces by which the host sends from `source` to these nodes.
    pub async fn ways(
        &self,
        source: Ipv4Addr,
        nodes: &[Ipv4Addr],
    ) -> Result<BTreeSet<String>, Error> {
        let socket = &mut *self.0.socket.lock().await;
        let mut found = BTreeSet::new();
        for &underlay in nodes {
            let way = route::way(socket, source, underlay).await;
            found.extend(way.map_err(|source| Error::WayTo { underlay, source })?);
        }
        let mut names = BTreeSet::new();
        for ifindex in found {
            let link = link::by_index(socket, ifindex).await;
            names.extend(link.map_err(UplinkError::from)?.map(|link| link.name));
        }
        Ok(names)
    }

    /// The interface that has this address.
    pub async fn holder(&self, address: Ipv4Addr) -> Result<Option<u32>, Error> {
        let socket = &mut *self.0.socket.lock().await;
        let holder = uplink::holder(socket, address).await;
        Ok(holder.map_err(UplinkError::from)?)
    }

    /// Whether the interface is there, and only down or without a carrier.
    pub async fn is_down(&self, ifindex: u32) -> Result<bool, Error> {
        let socket = &mut *self.0.socket.lock().await;
        let link = link::by_index(socket, ifindex).await;
        let link = link.map_err(UplinkError::from)?;
        Ok(link.is_some_and(|link| !link.carries()))
    }

    /// The routes into `network` that we made to nodes on a link of this one.
    pub async fn underlay_routes(
        &self,
        network: Subnet,
    ) -> Result<BTreeMap<Subnet, UnderlayRoute>, Error> {
        let socket = &mut *self.0.socket.lock().await;
        let routes = route::direct(socket)
            .await
            .map_err(|source| Error::Routes {
                subnet: network,
                source,
            })?;
        let routes = routes
            .iter()
            .filter_map(|route| Some((route.observed().0, route.underlay()?)));
        Ok(routes
            .filter(|(subnet, _)| network.covers(*subnet))
            .collect())
    }

    /// Those of the underlay addresses that the host reaches without a gateway, and the index of
    /// the interface by which.
    pub async fn on_link(
        &self,
        underlays: impl IntoIterator<Item = Ipv4Addr>,
    ) -> Result<BTreeMap<IpAddr, u32>, Error> {
        let socket = &mut *self.0.socket.lock().await;
        let mut on_link = BTreeMap::new();
        for underlay in underlays {
            let found = route::on_link(socket, underlay).await;
            let found = found.map_err(|source| Error::WayTo { underlay, source })?;
            on_link.extend(found.map(|ifindex| (underlay.into(), ifindex)));
        }
        Ok(on_link)
    }

    /// The gateway of a route of the main table to exactly this subnet.
    pub async fn gateway_to(&self, subnet: Subnet) -> Result<Option<IpAddr>, Error> {
        let socket = &mut *self.0.socket.lock().await;
        let routes = route::within(socket, subnet)
            .await
            .map_err(|source| Error::Routes { subnet, source })?;
        let mut exact = routes.iter().filter(|route| route.observed().0 == subnet);
        Ok(exact.find_map(|route| route.gateway))
    }

    /// Makes sure that packets to this subnet that no other route takes are dropped
    /// (`--ip-blackhole-route`); whether that took a new route.
    pub async fn set_blackhole(&self, subnet: Subnet) -> Result<bool, Error> {
        let socket = &mut *self.0.socket.lock().await;
        let mut outcomes = socket.batch(&[route::blackhole(subnet)]).await;
        match outcomes.pop() {
            None | Some(Ok(())) => Ok(true),
            Some(Err(failure)) if failure.refusal() == Some(Errno::EEXIST) => Ok(false),
            Some(Err(source)) => Err(Error::Blackhole { subnet, source }),
        }
    }

    /// Carries out the steps in order and gives those that failed, each with its error. One that
    /// fails does not stop the rest. What is to be removed and is not there is success, and so
    /// is an address that is there already.
    pub async fn apply(&self, ops: &[KernelOp]) -> Vec<(KernelOp, Error)> {
        let socket = &mut *self.0.socket.lock().await;
        apply::apply(socket, &self.0.said, ops).await
    }

    /// Every vxlan device, ours included.
    pub async fn vxlan_devices(&self) -> Result<Vec<VxlanDevice>, Error> {
        let socket = &mut *self.0.socket.lock().await;
        link::vxlan_devices(socket)
            .await
            .map_err(|source| Error::VxlanDevices { source })
    }

    /// Sets the alias (`IFLA_IFALIAS`) of a device.
    pub async fn set_alias(&self, device: &str, ifindex: u32, alias: &str) -> Result<(), Error> {
        let socket = &mut *self.0.socket.lock().await;
        let outcome = socket.batch(&[link::set_alias(ifindex, alias)]).await.pop();
        outcome.unwrap_or(Ok(())).map_err(|source| Error::SetAlias {
            device: device.to_owned(),
            alias: alias.to_owned(),
            source,
        })
    }

    /// Removes a device.
    pub async fn remove_device(&self, device: &str, ifindex: u32) -> Result<(), Error> {
        let link = device.into();
        let mut errors = self.apply(&[KernelOp::Remove { link, ifindex }]).await;
        errors.pop().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// The port number by which notifications name us.
    fn port(&self) -> u32 {
        self.0.port.load(Ordering::Relaxed)
    }

    fn said(&self) -> &Said {
        &self.0.said
    }
}

/// A link and what hangs on it, if it is there.
async fn observe_link(
    socket: &mut Socket,
    name: &LinkName,
    network: Subnet,
) -> Result<Option<ObservedLink>, Error> {
    let error = |what| {
        let device = name.to_string();
        move |source| Error::Observe {
            what,
            device,
            source,
        }
    };
    let Some(link) = link::by_name(socket, name.as_str())
        .await
        .map_err(error("properties"))?
    else {
        return Ok(None);
    };
    let ifindex = link.device.ifindex;

    let addresses = addr::list(socket, Some(ifindex))
        .await
        .map_err(error("addresses"))?;
    let routes = route::list(socket, Some(ifindex))
        .await
        .map_err(error("routes"))?;
    let neighbors = neigh::neighbors(socket, ifindex)
        .await
        .map_err(error("neighbours"))?;
    // Only a vxlan device has an FDB of its own.
    let fdb = if link.device.vni.is_some() {
        neigh::fdb(socket, ifindex).await.map_err(error("FDB"))?
    } else {
        Vec::new()
    };
    Ok(Some(ObservedLink {
        device: link.device,
        addresses: addresses.iter().map(|address| address.network).collect(),
        routes: routes
            .iter()
            .filter(|route| route.in_our_place())
            .map(route::Route::observed)
            .filter(|(subnet, _)| network.covers(*subnet))
            .collect(),
        neighbors: neighbors
            .iter()
            .map(|entry| (entry.address, entry.mac))
            .collect(),
        fdb: fdb.iter().map(|entry| (entry.mac, entry.address)).collect(),
    }))
}
