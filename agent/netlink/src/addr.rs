//! IPv4 addresses of links.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::Ipv4Network;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use twill_core::underlay_address::Candidate;

use super::error::Failure;
use super::link::unexpected;
use super::socket::{Request, Socket};

/// One address of a link.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Address {
    pub(super) ifindex: u32,
    pub(super) network: Ipv4Network,
    /// Name of the interface, or another word for an alias.
    label: Option<String>,
    flags: AddressFlags,
    host_scope: bool,
    /// Who added it, by its own word.
    protocol: u8,
}

impl Address {
    /// Reads a message; `None` where it has no usable IPv4 address.
    pub(super) fn read(message: &AddressMessage) -> Option<Self> {
        let mut local = None;
        let mut address = None;
        let mut label = None;
        let mut protocol = 0;
        let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(IpAddr::V4(ip)) => local = Some(*ip),
                AddressAttribute::Address(IpAddr::V4(ip)) => address = Some(*ip),
                // The header has only the low eight of them.
                AddressAttribute::Flags(all) => flags = *all,
                AddressAttribute::Label(text) => label = Some(text.clone()),
                AddressAttribute::Protocol(number) => protocol = (*number).into(),
                _ => {}
            }
        }
        // On a point-to-point link ADDRESS is the far end.
        let ip: Ipv4Addr = local.or(address)?;
        Some(Self {
            ifindex: message.header.index,
            network: Ipv4Network::new(ip, message.header.prefix_len).ok()?,
            label,
            flags,
            host_scope: message.header.scope == AddressScope::Host,
            protocol,
        })
    }

    /// As what may be the node's own, on the interface of that name.
    pub(super) fn candidate(&self, interface: &str) -> Candidate {
        Candidate {
            address: self.network.ip(),
            prefix: self.network.prefix(),
            permanent: self.flags.contains(AddressFlags::Permanent),
            deprecated: self.flags.contains(AddressFlags::Deprecated),
            secondary: self.flags.contains(AddressFlags::Secondary),
            alias: self
                .label
                .as_deref()
                .is_some_and(|label| label != interface),
            host_scope: self.host_scope,
            protocol: self.protocol,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As keepalived adds it, on kernels that keep who did.
    #[test]
    fn what_an_address_says_of_itself_is_read() {
        let network: Ipv4Network = "192.0.2.100/24".parse().unwrap();
        let mut vip = message(2, network);
        vip.header.scope = AddressScope::Host;
        vip.attributes.extend([
            AddressAttribute::Label("eth0:vip".to_owned()),
            AddressAttribute::Protocol(18.into()),
            AddressAttribute::Flags(AddressFlags::Secondary | AddressFlags::Deprecated),
        ]);
        let read = |message: &AddressMessage| Address::read(message).unwrap().candidate("eth0");
        let expected = Candidate {
            address: network.ip(),
            prefix: 24,
            permanent: false,
            deprecated: true,
            secondary: true,
            alias: true,
            host_scope: true,
            protocol: 18,
        };
        assert_eq!(read(&vip), expected);
        let mut own = message(2, network);
        own.attributes
            .push(AddressAttribute::Label("eth0".to_owned()));
        let expected = Candidate {
            permanent: true,
            deprecated: false,
            secondary: false,
            alias: false,
            host_scope: false,
            protocol: 0,
            ..expected
        };
        assert_eq!(read(&own), expected);
    }
}
