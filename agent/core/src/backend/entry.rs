//! Entries of the kernel's tables, as backends speak of them.

use std::fmt;
use std::net::IpAddr;

use super::link::LinkName;
use crate::subnet::Subnet;
use crate::vtep::MacAddr;

/// One entry of one of the kernel's tables.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Entry {
    /// A permanent neighbour entry; replaces.
    Neighbor {
        /// The link that it is on.
        link: LinkName,
        /// First address of the peer's subnet.
        address: IpAddr,
        /// MAC address of the peer's device.
        mac: MacAddr,
    },
    /// A permanent FDB entry; replaces.
    Fdb {
        /// The link that it is on.
        link: LinkName,
        /// MAC address of the peer's device.
        mac: MacAddr,
        /// The peer's underlay address.
        underlay: IpAddr,
    },
    /// A route; replaces.
    Route(Route),
}

/// A route to a peer's subnet, in the main table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// The peer's subnet.
    pub subnet: Subnet,
    /// Next hop.
    pub via: IpAddr,
    /// Where it leaves.
    pub out: Out,
}

/// Where a route leaves the node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Out {
    /// By the overlay's own link: the next hop is taken to be on it (`onlink`).
    Overlay(LinkName),
    /// By an interface of the underlay, to a node on the same link. The route carries Twill's
    /// protocol number, for nothing else says whose it is.
    Underlay {
        /// Interface index.
        ifindex: u32,
    },
}

impl Entry {
    /// The overlay's link that it hangs on, if it does.
    pub fn link(&self) -> Option<&LinkName> {
        match self {
            Self::Neighbor { link, .. }
            | Self::Fdb { link, .. }
            | Self::Route(Route {
                out: Out::Overlay(link),
                ..
            }) => Some(link),
            Self::Route(Route {
                out: Out::Underlay { .. },
                ..
            }) => None,
        }
    }
}

/// As `ip` and `bridge` write it.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Neighbor { link, address, mac } => {
                write!(f, "neighbour {address} lladdr {mac} on {link}")
            }
            Self::Fdb {
                link,
                mac,
                underlay,
            } => write!(f, "FDB entry {mac} dst {underlay} on {link}"),
            Self::Route(Route { subnet, via, out }) => match out {
                Out::Overlay(link) => write!(f, "route {subnet} via {via} dev {link}"),
                Out::Underlay { ifindex } => write!(
                    f,
                    "direct route {subnet} via {via} by the interface with index {ifindex}"
                ),
            },
        }
    }
}
