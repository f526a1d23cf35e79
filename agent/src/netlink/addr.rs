//! IPv4 addresses of links.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::Ipv4Network;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::Failure;
use super::link::unexpected;
use super::socket::{Request, Socket};

/// One address of a link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Address {
    pub(super) ifindex: u32,
    pub(super) network: Ipv4Network,
    /// Does not expire.
    pub(super) permanent: bool,
    /// Expired for new connections.
    pub(super) deprecated: bool,
}

impl Address {
    /// Reads a message; `None` where it has no usable IPv4 address.
    pub(super) fn read(message: &AddressMessage) -> Option<Self> {
        let mut local = None;
        let mut address = None;
        let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(IpAddr::V4(ip)) => local = Some(*ip),
                AddressAttribute::Address(IpAddr::V4(ip)) => address = Some(*ip),
                // The header has only the low eight of them.
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        // On a point-to-point link ADDRESS is the far end.
        let ip: Ipv4Addr = local.or(address)?;
        Some(Self {
            ifindex: message.header.index,
            network: Ipv4Network::new(ip, message.header.prefix_len).ok()?,
            permanent: flags.contains(AddressFlags::Permanent),
            deprecated: flags.contains(AddressFlags::Deprecated),
        })
    }
}

/// The IPv4 addresses of one link, in the kernel's order; of all links with `None`.
pub(super) async fn list(
    socket: &mut Socket,
    ifindex: Option<u32>,
) -> Result<Vec<Address>, Failure> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.index = ifindex.unwrap_or(0);
    let keep = |answer| match answer? {
        RouteNetlinkMessage::NewAddress(message) => Ok(Address::read(&message)
            .filter(|address| ifindex.is_none_or(|wanted| address.ifindex == wanted))),
        other => Err(unexpected(&other)),
    };
    socket
        .dump(RouteNetlinkMessage::GetAddress(message), keep)
        .await
}

/// Adds an address of universal scope.
pub(super) fn add(ifindex: u32, network: Ipv4Network) -> Request {
    let message = RouteNetlinkMessage::NewAddress(message(ifindex, network));
    (message, NLM_F_CREATE | NLM_F_EXCL)
}

/// Removes an address.
pub(super) fn remove(ifindex: u32, network: Ipv4Network) -> Request {
    (
        RouteNetlinkMessage::DelAddress(message(ifindex, network)),
        0,
    )
}

fn message(ifindex: u32, network: Ipv4Network) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = network.prefix();
    message.header.flags = AddressHeaderFlags::Permanent;
    message.header.index = ifindex;
    message.attributes = vec![
        AddressAttribute::Local(network.ip().into()),
        AddressAttribute::Address(network.ip().into()),
    ];
    message
}
