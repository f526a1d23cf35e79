//! What pods hang on: veths and bridges, with all that decides whether a pod may be fast.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use twill_core::pods::{Hook, HostLink, HostLinks, Qdisc};
use twill_core::subnet::Subnet;

use super::error::{Error, Failure};
use super::socket::Socket;
use super::{Netlink, addr, link, route, tc};

impl Netlink {
    /// Reads veths and bridges and what hangs on them, as far as it matters for pods of
    /// `own_subnet`: addresses of the bridges with ports, routes into the own subnet, qdiscs,
    /// filters. Where every veth is a port of the own subnet's bridge, no routes are read: then
    /// the time that it takes does not depend on the number of peers.
    pub async fn host_links(&self, own_subnet: Subnet) -> Result<HostLinks, Error> {
        let error = |what| move |source| Error::HostLinks { what, source };
        let socket = &mut *self.0.socket.lock().await;
        let mut host = HostLinks::default();
        for (kind, what) in [(InfoKind::Veth, "veths"), (InfoKind::Bridge, "bridges")] {
            let name = kind.to_string();
            let links = link::of_kind(socket, kind, read)
                .await
                .map_err(error(what))?;
            let of_kind = |(_, link): &(u32, HostLink)| link.kind == name;
            host.links.extend(links.into_iter().filter(of_kind));
        }
        let veths = of_interest(&host);
        if veths.is_empty() {
            return Ok(host);
        }
        read_addresses(socket, &mut host, &veths)
            .await
            .map_err(error("addresses of bridges"))?;
        read_routes(socket, &mut host, &veths, own_subnet)
            .await
            .map_err(error("routes into the own subnet"))?;
        let qdiscs = tc::qdiscs(socket).await.map_err(error("qdiscs"))?;
        for (ifindex, qdisc) in qdiscs {
            if let Some(link) = host.links.get_mut(&ifindex) {
                link.qdiscs.insert(qdisc);
            }
        }
        read_filters(socket, &mut host, &veths)
            .await
            .map_err(error("filters"))?;
        Ok(host)
    }
}

impl Netlink {
    /// Reads the qdiscs and filters of one link.
    pub async fn traffic_control(&self, name: &str, ifindex: u32) -> Result<HostLink, Error> {
        let error = |what| move |source| Error::HostLinks { what, source };
        let socket = &mut *self.0.socket.lock().await;
        let qdiscs = tc::qdiscs(socket).await.map_err(error("qdiscs"))?;
        let of_link = qdiscs.into_iter().filter(|(index, _)| *index == ifindex);
        let mut link = HostLink {
            name: name.to_owned(),
            qdiscs: of_link.map(|(_, qdisc)| qdisc).collect(),
            ..HostLink::default()
        };
        add_filters(socket, ifindex, &mut link)
            .await
            .map_err(error("filters"))?;
        Ok(link)
    }
}

fn read(message: &LinkMessage) -> (u32, HostLink) {
    let mut link = HostLink {
        up: message.header.flags.contains(LinkFlags::LowerUp),
        ..HostLink::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Controller(master) => link.master = Some(*master),
            LinkAttribute::MaxMtu(bytes) => link.max_mtu = Some(*bytes),
            // Of a veth the kernel always says where its other end is, unless it is here.
            LinkAttribute::LinkNetNsId(_) => link.peer_elsewhere = true,
            LinkAttribute::LinkInfo(_) => {
                link.kind = kind(message).map(ToString::to_string).unwrap_or_default();
            }
            _ => {}
        }
    }
    (message.header.index, link)
}

/// The kind of a link, where it has one.
pub(super) fn kind(message: &LinkMessage) -> Option<&InfoKind> {
    let infos = message.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::LinkInfo(infos) = attribute {
            Some(infos)
        } else {
            None
        }
    })?;
    infos.iter().find_map(|info| {
        if let LinkInfo::Kind(kind) = info {
            Some(kind)
        } else {
            None
        }
    })
}

/// Veths that may be pods', each with its master.
type Veths = BTreeMap<u32, Option<u32>>;

fn of_interest(host: &HostLinks) -> Veths {
    let veths = host.links.iter().filter(|(_, link)| link.peer_elsewhere);
    veths
        .map(|(&ifindex, link)| (ifindex, link.master))
        .collect()
}

fn masters(veths: &Veths) -> BTreeSet<u32> {
    veths.values().copied().flatten().collect()
}

async fn read_addresses(
    socket: &mut Socket,
    host: &mut HostLinks,
    veths: &Veths,
) -> Result<(), Failure> {
    for ifindex in masters(veths) {
        // Masters of another kind than bridge are not here.
        if let Some(bridge) = host.links.get_mut(&ifindex) {
            let addresses = addr::list(socket, Some(ifindex)).await?;
            bridge.addresses = addresses.iter().map(|address| address.network).collect();
        }
    }
    Ok(())
}

async fn read_routes(
    socket: &mut Socket,
    host: &mut HostLinks,
    veths: &Veths,
    own_subnet: Subnet,
) -> Result<(), Failure> {
    let is_port = |ifindex: &u32| {
        let link = host.links.get(ifindex);
        link.is_some_and(|link| host.bridge_of(link, own_subnet).is_some())
    };
    if veths.keys().all(is_port) {
        return Ok(());
    }
    for route in route::within(socket, own_subnet).await? {
        let destination = Subnet::containing(IpNetwork::V4(route.destination));
        for ifindex in route.interfaces() {
            if let Some(link) = host.links.get_mut(&ifindex) {
                link.routes.insert(destination);
            }
        }
    }
    Ok(())
}

async fn read_filters(
    socket: &mut Socket,
    host: &mut HostLinks,
    veths: &Veths,
) -> Result<(), Failure> {
    let mut indexes = masters(veths);
    indexes.extend(veths.keys());
    for ifindex in indexes {
        if let Some(link) = host.links.get_mut(&ifindex) {
            add_filters(socket, ifindex, link).await?;
        }
    }
    Ok(())
}

/// Filters hang on a clsact qdisc, which is known.
async fn add_filters(
    socket: &mut Socket,
    ifindex: u32,
    link: &mut HostLink,
) -> Result<(), Failure> {
    if link.qdiscs.contains(&Qdisc::Ingress("clsact".to_owned())) {
        for hook in [Hook::Ingress, Hook::Egress] {
            link.filters
                .extend(tc::filters(socket, ifindex, hook).await?);
        }
    }
    Ok(())
}
