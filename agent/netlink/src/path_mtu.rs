//! MTUs that routes carry (`ip route add … mtu`), for the way to other nodes.
//!
//! The kernel's vxlan device keeps to them; `bpf_fib_lookup` does so only where they are locked
//! (`ip_mtu_from_fib_result()` in `net/ipv4/fib_frontend.c`, v6.18). MTUs that the kernel learned
//! it knows by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use netlink_packet_core::DefaultNla;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use twill_core::subnet::Subnet;

use super::Netlink;
use super::error::{Error, Failure};
use super::link::unexpected;
use super::message::{Message, attribute};
use super::route::Route;
use super::socket::Socket;

/// `struct rtmsg`, bytes (`include/uapi/linux/rtnetlink.h`).
const RTMSG_BYTES: usize = 12;
const RTA_METRICS: u16 = 8;
const RTAX_MTU: u16 = 2;
const RTA_IP_PROTO: u16 = 27;
const RTA_DPORT: u16 = 29;
/// `IPPROTO_UDP`.
const UDP: u8 = 17;

/// A route that carries an MTU.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteWithMtu {
    /// Where it leads.
    pub destination: Subnet,
    /// The interfaces that it may leave by; none where that is not said.
    pub interfaces: BTreeSet<u32>,
    /// The MTU, bytes.
    pub mtu: u32,
}

impl RouteWithMtu {
    fn read(message: &RouteMessage) -> Option<Self> {
        let mtu = mtu_of(message)?;
        let route = Route::read(message)?;
        Some(Self {
            destination: Subnet::containing(IpNetwork::V4(route.destination)),
            interfaces: route.interfaces().collect(),
            mtu,
        })
    }

    /// Whether it may leave by this interface.
    pub fn may_use(&self, ifindex: u32) -> bool {
        self.interfaces.is_empty() || self.interfaces.contains(&ifindex)
    }
}

impl Netlink {
    /// The IPv4 routes that carry an MTU, whatever their table: nearly nowhere one does.
    pub async fn routes_with_mtus(&self) -> Result<Vec<RouteWithMtu>, Error> {
        let socket = &mut *self.0.socket.lock().await;
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        let keep = |message: &Message<'_>| {
            if !carries_mtu(message.payload) {
                return Ok(None);
            }
            match message.decode()? {
                RouteNetlinkMessage::NewRoute(route) => Ok(RouteWithMtu::read(&route)),
                other => Err(unexpected(&other)),
            }
        };
        socket
            .dump_raw(RouteNetlinkMessage::GetRoute(request), keep)
            .await
            .map_err(|source| Error::RouteMtus { source })
    }

    /// The MTU of the route that the kernel's vxlan device takes to each of these addresses,
    /// bytes, where it carries one: from `source`, to this UDP port.
    pub async fn route_mtus(
        &self,
        (source, port): (Ipv4Addr, u16),
        destinations: impl IntoIterator<Item = Ipv4Addr>,
    ) -> Result<BTreeMap<IpAddr, u32>, Error> {
        let socket = &mut *self.0.socket.lock().await;
        let mut found = BTreeMap::new();
        for destination in destinations {
            let mtu = route_mtu(socket, (source, port), destination)
                .await
                .map_err(|source| Error::RouteMtus { source })?;
            found.extend(mtu.map(|mtu| (IpAddr::V4(destination), mtu)));
        }
        Ok(found)
    }
}

async fn route_mtu(
    socket: &mut Socket,
    (source, port): (Ipv4Addr, u16),
    destination: Ipv4Addr,
) -> Result<Option<u32>, Failure> {
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    request.header.destination_prefix_length = 32;
    request.header.source_prefix_length = 32;
    // The route itself, not what has been learned of the way since.
    request.header.flags = RouteFlags::FibMatch;
    request.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(destination)),
        RouteAttribute::Source(RouteAddress::Inet(source)),
        RouteAttribute::Other(DefaultNla::new(RTA_IP_PROTO, vec![UDP])),
        RouteAttribute::Other(DefaultNla::new(RTA_DPORT, port.to_be_bytes().to_vec())),
    ];
    match socket.get(RouteNetlinkMessage::GetRoute(request)).await {
        Ok(RouteNetlinkMessage::NewRoute(route)) => Ok(mtu_of(&route)),
        Ok(other) => Err(unexpected(&other)),
        // No way there: nothing to say of it.
        Err(failure) if failure.refusal().is_some() => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The MTU that a route carries, bytes.
pub(super) fn mtu_of(route: &RouteMessage) -> Option<u32> {
    let metrics = route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Metrics(metrics) = attribute {
            Some(metrics)
        } else {
            None
        }
    })?;
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(bytes) if *bytes > 0 => Some(*bytes),
        _ => None,
    })
}

/// Whether these bytes, a `struct rtmsg` and its attributes, say an MTU.
fn carries_mtu(payload: &[u8]) -> bool {
    let attributes = payload.get(RTMSG_BYTES..).unwrap_or_default();
    attribute(attributes, RTA_METRICS)
        .and_then(|metrics| attribute(metrics, RTAX_MTU))
        .is_some()
}
