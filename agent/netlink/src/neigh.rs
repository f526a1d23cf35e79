//! Permanent neighbour entries, and the FDB of a vxlan device.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteType;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use twill_core::vtep::MacAddr;

use super::error::Failure;
use super::link::unexpected;
use super::socket::{Request, Socket};

/// `NUD_PERMANENT`, one bit of a neighbour's state.
const NUD_PERMANENT: u16 = 0x80;

/// An entry that has both a MAC address and an IP address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Entry {
    pub(super) ifindex: u32,
    pub(super) fdb: bool,
    pub(super) permanent: bool,
    pub(super) mac: MacAddr,
    pub(super) address: IpAddr,
    /// An FDB entry with a port, VNI or interface of its own: beside the device's, not ours.
    pub(super) special: bool,
}

impl Entry {
    /// Reads a message; `None` where it lacks an address or has one that is none.
    pub(super) fn read(message: &NeighbourMessage) -> Option<Self> {
        let fdb = message.header.family == AddressFamily::Bridge;
        if fdb && !message.header.flags.contains(NeighbourFlags::Own) {
            return None;
        }
        let mut mac = None;
        let mut special = false;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    mac = bytes.as_slice().try_into().ok().map(MacAddr);
                }
                NeighbourAttribute::Port(_)
                | NeighbourAttribute::Vni(_)
                | NeighbourAttribute::SourceVni(_)
                | NeighbourAttribute::IfIndex(_) => special = fdb,
                _ => {}
            }
        }
        Some(Self {
            ifindex: message.header.ifindex,
            fdb,
            permanent: u16::from(message.header.state) & NUD_PERMANENT != 0,
            mac: mac?,
            address: address(message)?,
            special,
        })
    }
}

/// The IP address of a neighbour, or the destination of an FDB entry.
pub(super) fn address(message: &NeighbourMessage) -> Option<IpAddr> {
    let destination = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(destination) => Some(destination),
            _ => None,
        })?;
    match destination {
        NeighbourAddress::Inet(address) => Some((*address).into()),
        NeighbourAddress::Inet6(address) => Some((*address).into()),
        // The family of an FDB entry is AF_BRIDGE: only the length tells.
        NeighbourAddress::Other(bytes) => <[u8; 4]>::try_from(bytes.as_slice())
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from))
            .ok(),
        _ => None,
    }
}

/// The permanent IPv4 neighbours on a link.
pub(super) async fn neighbors(socket: &mut Socket, ifindex: u32) -> Result<Vec<Entry>, Failure> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message
        .attributes
        .push(NeighbourAttribute::IfIndex(ifindex));
    list(socket, message, ifindex).await
}

/// The permanent FDB entries of a vxlan device itself (`NTF_SELF`).
pub(super) async fn fdb(socket: &mut Socket, ifindex: u32) -> Result<Vec<Entry>, Failure> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = ifindex;
    let mut entries = list(socket, message, ifindex).await?;
    entries.retain(|entry| entry.fdb && !entry.special);
    Ok(entries)
}

async fn list(
    socket: &mut Socket,
    request: NeighbourMessage,
    ifindex: u32,
) -> Result<Vec<Entry>, Failure> {
    let keep = |answer| match answer? {
        RouteNetlinkMessage::NewNeighbour(message) => {
            Ok(Entry::read(&message).filter(|entry| entry.ifindex == ifindex && entry.permanent))
        }
        other => Err(unexpected(&other)),
    };
    socket
        .dump(RouteNetlinkMessage::GetNeighbour(request), keep)
        .await
}

/// `<address> dev <ifindex> lladdr <mac> nud permanent`.
pub(super) fn set_neighbor(ifindex: u32, address: IpAddr, mac: MacAddr) -> Request {
    let mut message = neighbor(ifindex, address);
    message.header.state = NeighbourState::Permanent;
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    (
        RouteNetlinkMessage::NewNeighbour(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

/// Removes a neighbour.
pub(super) fn remove_neighbor(ifindex: u32, address: IpAddr) -> Request {
    (
        RouteNetlinkMessage::DelNeighbour(neighbor(ifindex, address)),
        0,
    )
}

fn neighbor(ifindex: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.ifindex = ifindex;
    message.header.kind = RouteType::Unicast;
    message
        .attributes
        .push(NeighbourAttribute::Destination(address.into()));
    message
}

/// `bridge fdb replace <mac> dev <ifindex> dst <underlay> self permanent`.
pub(super) fn set_fdb(ifindex: u32, mac: MacAddr, underlay: IpAddr) -> Request {
    let mut message = fdb_entry(ifindex, mac, underlay);
    message.header.state = NeighbourState::Permanent;
    (
        RouteNetlinkMessage::NewNeighbour(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

/// Removes one destination of a MAC address.
pub(super) fn remove_fdb(ifindex: u32, mac: MacAddr, underlay: IpAddr) -> Request {
    (
        RouteNetlinkMessage::DelNeighbour(fdb_entry(ifindex, mac, underlay)),
        0,
    )
}

fn fdb_entry(ifindex: u32, mac: MacAddr, underlay: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = ifindex;
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![
        NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
        NeighbourAttribute::Destination(underlay.into()),
    ];
    message
}
