//! IPv4 routes of the main table.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::{IpNetwork, Ipv4Network};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use twill_core::observed::{ObservedRoute, UnderlayRoute};
use twill_core::subnet::Subnet;

use super::error::Failure;
use super::link::unexpected;
use super::message::{Message, attribute};
use super::socket::{Request, Socket};

/// Routes past the device carry this, so that we know them again: `ip route` shows it as
/// `proto 84`. No other program has it in iproute2's `rt_protos`.
const PROTOCOL: u8 = 84;
/// `struct rtmsg`, bytes (`include/uapi/linux/rtnetlink.h`).
const RTMSG_BYTES: usize = 12;
/// The attribute with the destination.
const RTA_DST: u16 = 1;

/// A route of the main table, as far as we care for routes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Route {
    pub(super) destination: Ipv4Network,
    pub(super) gateway: Option<IpAddr>,
    pub(super) onlink: bool,
    pub(super) unicast: bool,
    /// Interface of a route with one next hop.
    pub(super) interface: Option<u32>,
    /// Interfaces of a route with several.
    pub(super) legs: Vec<u32>,
    pub(super) metric: u32,
    pub(super) tos: u8,
    pub(super) table: u32,
    pub(super) protocol: u8,
}

impl Route {
    /// Reads a message; `None` where its destination is no IPv4 prefix.
    pub(super) fn read(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let mut destination = Ipv4Addr::UNSPECIFIED;
        let mut route = Self {
            destination: Ipv4Network::new(destination, 0).ok()?,
            gateway: None,
            onlink: header.flags.contains(RouteFlags::Onlink),
            unicast: header.kind == RouteType::Unicast,
            interface: None,
            legs: Vec::new(),
            metric: 0,
            tos: header.tos,
            table: header.table.into(),
            protocol: header.protocol.into(),
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
                RouteAttribute::Gateway(RouteAddress::Inet(address))
                | RouteAttribute::Via(RouteVia::Inet(address)) => {
                    route.gateway = Some((*address).into());
                }
                RouteAttribute::Via(RouteVia::Inet6(address)) => {
                    route.gateway = Some((*address).into());
                }
                RouteAttribute::Oif(ifindex) => route.interface = Some(*ifindex),
                RouteAttribute::MultiPath(hops) => {
                    route.legs = hops.iter().map(|hop| hop.interface_index).collect();
                }
                RouteAttribute::Priority(metric) => route.metric = *metric,
                // The header has room for 8 bits only.
                RouteAttribute::Table(table) => route.table = *table,
                _ => {}
            }
        }
        route.destination = Ipv4Network::new(destination, header.destination_prefix_length).ok()?;
        Some(route)
    }

    pub(super) fn in_main_table(&self) -> bool {
        self.table == u32::from(RouteHeader::RT_TABLE_MAIN)
    }

    /// Whether it may leave by this interface.
    pub(super) fn uses(&self, ifindex: u32) -> bool {
        self.interface == Some(ifindex) || self.legs.contains(&ifindex)
    }

    /// The interfaces that it may leave by.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = u32> {
        self.interface.into_iter().chain(self.legs.iter().copied())
    }

    /// Whether it is in the place where our own would be: one more with another metric or type
    /// of service stands beside it, untouched by what we set and remove.
    pub(super) fn in_our_place(&self) -> bool {
        self.metric == 0 && self.tos == 0 && self.unicast && self.in_main_table()
    }

    /// A route that we made past any tunnel, as the plan sees it.
    pub(super) fn underlay(&self) -> Option<UnderlayRoute> {
        let ours = self.protocol == PROTOCOL && self.in_our_place() && !self.onlink;
        let (via, ifindex) = (self.gateway?, self.interface?);
        ours.then_some(UnderlayRoute { via, ifindex })
    }

    /// As the plan sees it.
    pub(super) fn observed(&self) -> (Subnet, ObservedRoute) {
        let route = ObservedRoute {
            gateway: self.gateway,
            onlink: self.onlink,
        };
        (Subnet::containing(IpNetwork::V4(self.destination)), route)
    }
}

/// Routes of the main table in the kernel's order: by prefix, then by metric. Only those that
/// may leave by `ifindex`, if one is given; the kernel sorts the others out where it can.
pub(super) async fn list(socket: &mut Socket, ifindex: Option<u32>) -> Result<Vec<Route>, Failure> {
    let mut message = main_table();
    message.attributes.extend(ifindex.map(RouteAttribute::Oif));
    let keep = |route: &Route| ifindex.is_none_or(|ifindex| route.uses(ifindex));
    listed(socket, message, keep).await
}

/// Routes of the main table that carry our protocol number; the kernel sorts the others out where
/// it can.
pub(super) async fn direct(socket: &mut Socket) -> Result<Vec<Route>, Failure> {
    let mut message = main_table();
    message.header.protocol = PROTOCOL.into();
    listed(socket, message, |route| route.protocol == PROTOCOL).await
}

fn main_table() -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message
}

async fn listed(
    socket: &mut Socket,
    message: RouteMessage,
    keep: impl Fn(&Route) -> bool,
) -> Result<Vec<Route>, Failure> {
    let keep = |answer| match answer? {
        RouteNetlinkMessage::NewRoute(message) => {
            Ok(Route::read(&message).filter(|route| route.in_main_table() && keep(route)))
        }
        other => Err(unexpected(&other)),
    };
    socket
        .dump(RouteNetlinkMessage::GetRoute(message), keep)
        .await
}

/// Unicast routes of the main table to destinations inside `subnet`. The kernel knows no such
/// filter: it lists them all, and those elsewhere are not even decoded.
pub(super) async fn within(socket: &mut Socket, subnet: Subnet) -> Result<Vec<Route>, Failure> {
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    request.header.table = RouteHeader::RT_TABLE_MAIN;
    request.header.kind = RouteType::Unicast;
    let keep = |message: &Message<'_>| {
        if !may_lie_within(message.payload, subnet) {
            return Ok(None);
        }
        match message.decode() {
            Ok(RouteNetlinkMessage::NewRoute(message)) => {
                Ok(Route::read(&message).filter(|route| {
                    route.in_main_table()
                        && route.unicast
                        && subnet.covers(Subnet::containing(IpNetwork::V4(route.destination)))
                }))
            }
            Ok(other) => Err(unexpected(&other)),
            Err(error) => {
                tracing::warn!(%error, "a route is left out");
                Ok(None)
            }
        }
    };
    socket
        .dump_raw(RouteNetlinkMessage::GetRoute(request), keep)
        .await
}

/// Whether the destination in these bytes, a `struct rtmsg` and its attributes, lies within
/// `subnet`. Doubt is a yes: decoding will tell.
fn may_lie_within(payload: &[u8], subnet: Subnet) -> bool {
    let Some((header, attributes)) = payload.split_first_chunk::<RTMSG_BYTES>() else {
        return true;
    };
    let [_family, prefix, ..] = *header;
    if prefix < subnet.prefix() {
        return false;
    }
    let destination = attribute(attributes, RTA_DST);
    let address = destination.and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    address.is_none_or(|address| subnet.contains(Ipv4Addr::from(address).into()))
}

/// The way the kernel would send to `destination`: interface and source address.
pub(super) async fn lookup(
    socket: &mut Socket,
    destination: Ipv4Addr,
) -> Result<(Option<u32>, Option<Ipv4Addr>), Failure> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = 32;
    message
        .attributes
        .push(RouteAttribute::Destination(RouteAddress::Inet(destination)));
    match socket.get(RouteNetlinkMessage::GetRoute(message)).await? {
        RouteNetlinkMessage::NewRoute(message) => {
            let source = message.attributes.iter().find_map(|attribute| {
                if let RouteAttribute::PrefSource(RouteAddress::Inet(source)) = attribute {
                    Some(*source)
                } else {
                    None
                }
            });
            Ok((
                Route::read(&message).and_then(|route| route.interface),
                source,
            ))
        }
        other => Err(unexpected(&other)),
    }
}

/// The interface by which the kernel would send from `source` to `destination`, if it would.
pub(super) async fn way(
    socket: &mut Socket,
    source: Ipv4Addr,
    destination: Ipv4Addr,
) -> Result<Option<u32>, Failure> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = 32;
    message.header.source_prefix_length = 32;
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(destination)),
        RouteAttribute::Source(RouteAddress::Inet(source)),
    ];
    match socket.get(RouteNetlinkMessage::GetRoute(message)).await {
        Ok(RouteNetlinkMessage::NewRoute(message)) => {
            let route = Route::read(&message).filter(|route| route.unicast);
            Ok(route.and_then(|route| route.interface))
        }
        Ok(other) => Err(unexpected(&other)),
        Err(Failure::Refused { .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Whether some route by this interface leads to `destination`, whatever other and better ones
/// there are.
pub(super) async fn leads_to(
    socket: &mut Socket,
    ifindex: u32,
    destination: Ipv4Addr,
) -> Result<bool, Failure> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = 32;
    // Without it every destination is taken to be on the link that is named.
    message.header.flags = RouteFlags::FibMatch;
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(destination)),
        RouteAttribute::Oif(ifindex),
    ];
    match socket.get(RouteNetlinkMessage::GetRoute(message)).await {
        Ok(RouteNetlinkMessage::NewRoute(message)) => {
            Ok(Route::read(&message).is_some_and(|route| route.unicast && route.uses(ifindex)))
        }
        Ok(other) => Err(unexpected(&other)),
        Err(Failure::Refused { .. }) => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// The interface by which the kernel would send to `destination` without a gateway.
pub(super) async fn on_link(
    socket: &mut Socket,
    destination: Ipv4Addr,
) -> Result<Option<u32>, Failure> {
    let mut message = to(Subnet::containing(IpNetwork::from(IpAddr::V4(destination))));
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    match socket.get(RouteNetlinkMessage::GetRoute(message)).await {
        Ok(RouteNetlinkMessage::NewRoute(message)) => {
            let route = Route::read(&message);
            let direct = route.filter(|route| route.unicast && route.gateway.is_none());
            Ok(direct.and_then(|route| route.interface))
        }
        Ok(other) => Err(unexpected(&other)),
        // No way at all.
        Err(Failure::Refused { .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// `<subnet> via <gateway> dev <ifindex>`, past any tunnel, as flannel with host-gw or
/// `DirectRouting`.
pub(super) fn set_direct(ifindex: u32, subnet: Subnet, gateway: IpAddr) -> Request {
    let mut message = message(ifindex, subnet, gateway);
    message.header.protocol = PROTOCOL.into();
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    (
        RouteNetlinkMessage::NewRoute(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

/// Removes the route that [`set_direct`] makes, and no other one to the same subnet.
pub(super) fn remove_direct(ifindex: u32, subnet: Subnet, gateway: IpAddr) -> Request {
    let mut message = message(ifindex, subnet, gateway);
    message.header.protocol = PROTOCOL.into();
    message.header.scope = RouteScope::NoWhere;
    message.header.kind = RouteType::Unicast;
    (RouteNetlinkMessage::DelRoute(message), 0)
}

/// `<subnet> via <gateway> dev <ifindex> onlink`, proto boot, as flannel's `RouteReplace`.
pub(super) fn set(ifindex: u32, subnet: Subnet, gateway: IpAddr) -> Request {
    let mut message = message(ifindex, subnet, gateway);
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.header.flags = RouteFlags::Onlink;
    (
        RouteNetlinkMessage::NewRoute(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

/// `blackhole <subnet>`, after every other route to it: flannel's has no metric, and so hides
/// the route of a bridge that a CNI plugin makes later.
pub(super) fn blackhole(subnet: Subnet) -> Request {
    let mut message = to(subnet);
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::BlackHole;
    message.attributes.push(RouteAttribute::Priority(u32::MAX));
    (
        RouteNetlinkMessage::NewRoute(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// Removes the route that [`set`] makes, and no other one to the same subnet.
pub(super) fn remove(ifindex: u32, subnet: Subnet) -> Request {
    let mut message = message(ifindex, subnet, subnet.network());
    message.header.kind = RouteType::Unicast;
    message.header.flags = RouteFlags::Onlink;
    // Any: the scope of a route is no part of what it is known by.
    message.header.scope = RouteScope::NoWhere;
    (RouteNetlinkMessage::DelRoute(message), 0)
}

fn message(ifindex: u32, subnet: Subnet, gateway: IpAddr) -> RouteMessage {
    let mut message = to(subnet);
    message.attributes.extend([
        RouteAttribute::Gateway(gateway.into()),
        RouteAttribute::Oif(ifindex),
    ]);
    message
}

fn to(subnet: Subnet) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = match subnet.network() {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = subnet.prefix();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.attributes = vec![RouteAttribute::Destination(subnet.network().into())];
    message
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The quick look at the bytes says what the decoded route says.
        #[test]
        fn a_quick_look_does_not_err(bits: u32, prefix in 0_u8..=32, own in 0_u8..=32) {
            let own = IpNetwork::new(Ipv4Addr::new(10, 244, 1, 0).into(), own).unwrap();
            let own = Subnet::containing(own);
            // Half of them near the subnet.
            let near = u32::from(Ipv4Addr::new(10, 244, 0, 0)) | (bits & 0x03ff);
            for bits in [bits, near] {
                let destination = IpNetwork::new(Ipv4Addr::from(bits).into(), prefix).unwrap();
                let destination = Subnet::containing(destination);
                let mut message = message(7, destination, destination.network());
                if prefix == 0 {
                    // As the kernel writes a default route.
                    message.attributes.clear();
                }
                let mut bytes = vec![0; message.buffer_len()];
                message.emit(&mut bytes);
                prop_assert_eq!(may_lie_within(&bytes, own), own.covers(destination));
            }
        }

        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let own = Subnet::containing("10.244.1.0/24".parse().unwrap());
            let read = may_lie_within(&bytes, own);
            prop_assert!(read || bytes.len() >= RTMSG_BYTES);
        }
    }
}
