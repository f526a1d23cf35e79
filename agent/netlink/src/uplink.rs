//! The underlay interface and its address, chosen as flannel chooses
//! (`pkg/ipmatch/match.go` and `pkg/ip/iface.go`, v0.28).

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use regex::Regex;
use thiserror::Error;
use twill_core::underlay_address::{Candidate, own_address};
use twill_core::uplink::Uplink;
use twill_core::vtep::MacAddr;

use super::addr::Address;
use super::error::Failure;
use super::link::Link;
use super::route::Route;
use super::socket::Socket;
use super::{addr, link, route};

/// How the uplink is chosen.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum UplinkChoice {
    /// The interface of the default route.
    DefaultRoute,
    /// The interface of that name (`--iface`).
    Name(String),
    /// The interface that has that address (`--iface`, or `--public-ip` alone).
    Address(IpAddr),
    /// The first interface with an address that matches, else the first with a name that does
    /// (`--iface-regex`).
    Matching(Regex),
    /// The interface and source address by which the kernel would send there
    /// (`--iface-can-reach`).
    CanReach(Ipv4Addr),
}

/// What is asked of the uplink, wherever it is looked for.
#[derive(Clone, Debug, Default)]
pub struct UplinkTerms {
    /// The address that peers send to, where it is not the interface's (`--public-ip`).
    pub public_ip: Option<Ipv4Addr>,
    /// What it is to carry.
    pub overlay: Option<Overlay>,
    /// The interface that is the uplink already. While it is there an expression finds no other
    /// one, which only matches because this one has lost its address for a moment.
    pub present: Option<u32>,
    /// The address that the node was at last: it is not left for one that came after it.
    pub last: Option<Ipv4Addr>,
    /// The underlay addresses that other nodes publish.
    pub elsewhere: BTreeSet<Ipv4Addr>,
    /// Some of the other nodes: one of them, at least, a route by the present uplink leads to.
    /// Where none is named it has a default route.
    pub nodes: Vec<Ipv4Addr>,
}

/// What no uplink is part of.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// The name of its device, if it has one.
    pub device: Option<String>,
    /// The addresses that are its pods', and their bridges'.
    pub pods: RangeInclusive<Ipv4Addr>,
}

/// As it stands on the command line.
impl fmt::Display for UplinkChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DefaultRoute => f.write_str("the default route"),
            Self::Name(name) => write!(f, "the name {name}"),
            Self::Address(address) => write!(f, "the address {address}"),
            Self::Matching(pattern) => write!(f, "--iface-regex {pattern}"),
            Self::CanReach(address) => write!(f, "--iface-can-reach {address}"),
        }
    }
}

/// Why no uplink was found.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[expect(
    missing_docs,
    reason = "the texts say what the variants and their fields are"
)]
pub enum UplinkError {
    #[error("look for the uplink")]
    Ask { source: Failure },
    #[error(
        "unable to find default route in the main table; add one, or name the uplink with \
         --iface (interfaces here: {interfaces})"
    )]
    NoDefaultRoute { interfaces: String },
    #[error(
        "found default route but could not determine interface: it has several next hops, by \
         {interfaces}; name the one that is to carry the overlay with --iface"
    )]
    MultipathDefaultRoute { interfaces: String },
    #[error(
        "found default route but could not determine interface: it names none; name the uplink \
         with --iface"
    )]
    DefaultRouteWithoutInterface,
    #[error("no interface {name:?}; interfaces here: {interfaces}")]
    NoSuchInterface { name: String, interfaces: String },
    #[error("no interface has the address {address}; addresses here: {addresses}")]
    NoSuchAddress { address: IpAddr, addresses: String },
    #[error(
        "could not match pattern {pattern} to any of the available network interfaces \
         ({interfaces}; addresses here: {addresses})"
    )]
    NoMatch {
        pattern: String,
        interfaces: String,
        addresses: String,
    },
    #[error("no route to {destination}; give an address that this node can reach")]
    Unreachable {
        destination: Ipv4Addr,
        source: Failure,
    },
    #[error(
        "the kernel's route to {destination} names no interface or source address; give an \
         address of another node"
    )]
    NoWay { destination: Ipv4Addr },
    #[error("interface index {ifindex} is gone; the uplink is looked for again")]
    Gone { ifindex: u32 },
    #[error("interface {interface} is the loopback; name one that other nodes can reach")]
    Loopback { interface: String },
    #[error("interface {interface} is the overlay's own; name the one that is to carry it")]
    OverlayDevice { interface: String },
    #[error(
        "failed to find IPv4 address for interface {interface} (found: {found}); give it a global \
         or link-local one, or name another interface with --iface"
    )]
    NoAddress { interface: String, found: String },
    #[error(
        "failed to determine MTU for {interface} interface: it is 0; set one with \
         ip link set {interface} mtu"
    )]
    NoMtu { interface: String },
    #[error(
        "MTU {mtu} of interface {interface} leaves no room for the overlay: VXLAN takes 50 of it"
    )]
    SmallMtu { interface: String, mtu: u32 },
}

impl From<Failure> for UplinkError {
    fn from(source: Failure) -> Self {
        Self::Ask { source }
    }
}

/// Finds the uplink.
pub(super) async fn find(
    socket: &mut Socket,
    choice: &UplinkChoice,
    terms: &UplinkTerms,
) -> Result<Uplink, UplinkError> {
    let (link, address) = match choice {
        UplinkChoice::DefaultRoute => {
            let ifindex = default_route(socket).await?;
            (interface(socket, ifindex).await?, None)
        }
        UplinkChoice::Name(name) => {
            let Some(link) = link::by_name(socket, name).await? else {
                let (name, interfaces) = (name.clone(), interfaces(socket).await?);
                return Err(UplinkError::NoSuchInterface { name, interfaces });
            };
            (link, None)
        }
        UplinkChoice::Address(wanted) => {
            let all = addr::list(socket, None).await?;
            let found = all
                .iter()
                .find(|address| IpAddr::V4(address.network.ip()) == *wanted);
            let Some(found) = found else {
                let addresses = list_addresses(&all);
                return Err(UplinkError::NoSuchAddress {
                    address: *wanted,
                    addresses,
                });
            };
            (
                interface(socket, found.ifindex).await?,
                Some(found.network.ip()),
            )
        }
        UplinkChoice::Matching(pattern) => matching(socket, pattern, terms).await?,
        UplinkChoice::CanReach(destination) => reaching(socket, *destination).await?,
    };
    complete(socket, link, address, terms).await
}

/// The present uplink, if `choice` may mean it and it can still carry what nodes send to each
/// other; `None` where another one is to be found.
pub(super) async fn keep(
    socket: &mut Socket,
    choice: &UplinkChoice,
    terms: &UplinkTerms,
) -> Result<Option<Uplink>, UplinkError> {
    let Some(present) = terms.present else {
        return Ok(None);
    };
    let Some(link) = link::by_index(socket, present).await? else {
        return Ok(None);
    };
    let of_present = |found: Result<_, UplinkError>| match found {
        Ok((link, address)) => Ok(Some((link, address))),
        Err(UplinkError::Ask { source }) => Err(UplinkError::Ask { source }),
        Err(_) => Ok(None),
    };
    let found = match choice {
        UplinkChoice::DefaultRoute => {
            let carries = carries(socket, &link, terms).await?;
            carries.then_some((link, None))
        }
        UplinkChoice::Name(name) => (link.name == *name).then_some((link, None)),
        UplinkChoice::Address(wanted) => {
            let all = addr::list(socket, Some(present)).await?;
            let mut all = all.iter().map(|address| address.network.ip());
            let found = all.find(|ip| IpAddr::V4(*ip) == *wanted);
            found.map(|address| (link, Some(address)))
        }
        UplinkChoice::Matching(pattern) => of_present(matching(socket, pattern, terms).await)?,
        UplinkChoice::CanReach(destination) => match terms.last {
            Some(last)
                if link.carries()
                    && is_here(socket, last).await?
                    && route::leads_to(socket, present, *destination).await? =>
            {
                Some((link, Some(last)))
            }
            _ => None,
        },
    };
    let Some((link, address)) = found else {
        return Ok(None);
    };
    match complete(socket, link, address, terms).await {
        Ok(uplink) => Ok(Some(uplink)),
        Err(UplinkError::Ask { source }) => Err(UplinkError::Ask { source }),
        Err(_) => Ok(None),
    }
}

/// Whether the interface can carry what nodes send to each other, whether or not it is the one by
/// which the host sends all else.
async fn carries(
    socket: &mut Socket,
    link: &Link,
    terms: &UplinkTerms,
) -> Result<bool, UplinkError> {
    let ifindex = link.device.ifindex;
    if !link.carries() {
        return Ok(false);
    }
    if terms.nodes.is_empty() {
        let routes = route::list(socket, Some(ifindex)).await?;
        return Ok(routes.iter().any(is_default));
    }
    for node in &terms.nodes {
        if route::leads_to(socket, ifindex, *node).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The interface with its address, where that is not the one that was asked for its own best.
async fn complete(
    socket: &mut Socket,
    link: Link,
    address: Option<Ipv4Addr>,
    terms: &UplinkTerms,
) -> Result<Uplink, UplinkError> {
    if let Some(overlay) = &terms.overlay
        && overlay.device.as_ref() == Some(&link.name)
    {
        return Err(UplinkError::OverlayDevice {
            interface: link.name,
        });
    }
    let address = if let Some(address) = address {
        address
    } else {
        let all = addr::list(socket, Some(link.device.ifindex)).await?;
        let candidates: Vec<_> = all.iter().map(|it| it.candidate(&link.name)).collect();
        match own_address(&candidates, terms.last, &terms.elsewhere) {
            Some(address) => address,
            None if link.loopback => {
                return Err(UplinkError::Loopback {
                    interface: link.name,
                });
            }
            None => {
                return Err(UplinkError::NoAddress {
                    interface: link.name,
                    found: list_addresses(&all),
                });
            }
        }
    };
    if address.is_loopback() {
        return Err(UplinkError::Loopback {
            interface: link.name,
        });
    }
    let public_ip = terms.public_ip.unwrap_or(address);
    let local = if public_ip == address || is_here(socket, public_ip).await? {
        public_ip
    } else {
        address
    };
    match link.device.mtu {
        0 => Err(UplinkError::NoMtu {
            interface: link.name,
        }),
        // 68 is the least that IPv4 works with (RFC 791), inside 50 bytes of encap overhead.
        mtu if mtu < 68 + 50 => Err(UplinkError::SmallMtu {
            interface: link.name,
            mtu,
        }),
        mtu => Ok(Uplink {
            ifindex: link.device.ifindex,
            name: link.name,
            mtu,
            mac: link.mac.unwrap_or(MacAddr([0; 6])),
            address,
            public_ip,
            local,
        }),
    }
}

/// The interface and the source address by which the kernel would send to `destination`. An
/// address of this host is on the interface that has it: the way there is the loopback's.
async fn reaching(
    socket: &mut Socket,
    destination: Ipv4Addr,
) -> Result<(Link, Option<Ipv4Addr>), UplinkError> {
    let found = route::lookup(socket, destination).await;
    let (ifindex, source) = found.map_err(|source| match source {
        Failure::Refused { .. } => UplinkError::Unreachable {
            destination,
            source,
        },
        source => UplinkError::Ask { source },
    })?;
    let (Some(ifindex), Some(source)) = (ifindex, source) else {
        return Err(UplinkError::NoWay { destination });
    };
    let link = interface(socket, ifindex).await?;
    if link.loopback
        && let Some(holder) = holder(socket, source).await?
    {
        return Ok((interface(socket, holder).await?, Some(source)));
    }
    Ok((link, Some(source)))
}

/// The interface that has this address.
pub(super) async fn holder(socket: &mut Socket, ip: Ipv4Addr) -> Result<Option<u32>, Failure> {
    let all = addr::list(socket, None).await?;
    let holder = all.iter().find(|address| address.network.ip() == ip);
    Ok(holder.map(|address| address.ifindex))
}

/// Whether some interface has this address.
async fn is_here(socket: &mut Socket, ip: Ipv4Addr) -> Result<bool, Failure> {
    Ok(holder(socket, ip).await?.is_some())
}

/// The interface that the pattern finds, with its address if that is what matches. What belongs
/// to the overlay is left out; the loopback is the last to be asked for its addresses, and is
/// never meant by its name.
async fn matching(
    socket: &mut Socket,
    pattern: &Regex,
    terms: &UplinkTerms,
) -> Result<(Link, Option<Ipv4Addr>), UplinkError> {
    let mut links = link::all(socket).await?;
    let all = addr::list(socket, None).await?;
    let of_overlay = |link: &Link, overlay: &Overlay| {
        let mut addresses = all.iter();
        overlay.device.as_ref() == Some(&link.name)
            || addresses.any(|address| {
                address.ifindex == link.device.ifindex
                    && overlay.pods.contains(&address.network.ip())
            })
    };
    links.retain(|link| {
        let overlay = terms.overlay.as_ref();
        !overlay.is_some_and(|overlay| of_overlay(link, overlay))
    });
    let is_present = |link: &Link| terms.present == Some(link.device.ifindex);
    if links.iter().any(is_present) {
        links.retain(is_present);
    }
    links.sort_by_key(|link| link.loopback);
    for link in &links {
        let of_link = all.iter().filter(|it| it.ifindex == link.device.ifindex);
        let matches = of_link.filter(|it| pattern.is_match(&it.network.ip().to_string()));
        // flannel takes the first that matches, whether or not it expires.
        let candidates: Vec<_> = matches
            .map(|it| Candidate {
                permanent: true,
                ..it.candidate(&link.name)
            })
            .collect();
        if let Some(address) = own_address(&candidates, terms.last, &terms.elsewhere) {
            return Ok((link.clone(), Some(address)));
        }
    }
    links.retain(|link| !link.loopback);
    let named = links.iter().find(|link| pattern.is_match(&link.name));
    named
        .map(|link| (link.clone(), None))
        .ok_or_else(|| UplinkError::NoMatch {
            pattern: pattern.to_string(),
            interfaces: join(links.iter().map(|link| &link.name)),
            addresses: list_addresses(&all),
        })
}

async fn default_route(socket: &mut Socket) -> Result<u32, UplinkError> {
    let routes = route::list(socket, None).await?;
    // The kernel's order is by metric: the first is the one that is used.
    match routes.iter().find(|route| is_default(route)) {
        None => Err(UplinkError::NoDefaultRoute {
            interfaces: interfaces(socket).await?,
        }),
        Some(Route {
            interface: Some(ifindex),
            ..
        }) => Ok(*ifindex),
        Some(Route { legs, .. }) if legs.is_empty() => {
            Err(UplinkError::DefaultRouteWithoutInterface)
        }
        Some(Route { legs, .. }) => {
            let links = link::all(socket).await?;
            let names = links
                .iter()
                .filter(|link| legs.contains(&link.device.ifindex));
            Err(UplinkError::MultipathDefaultRoute {
                interfaces: join(names.map(|l| &l.name)),
            })
        }
    }
}

fn is_default(route: &Route) -> bool {
    route.destination.prefix() == 0 && route.unicast
}

async fn interface(socket: &mut Socket, ifindex: u32) -> Result<Link, UplinkError> {
    link::by_index(socket, ifindex)
        .await?
        .ok_or(UplinkError::Gone { ifindex })
}

async fn interfaces(socket: &mut Socket) -> Result<String, Failure> {
    let links = link::all(socket).await?;
    Ok(join(
        links
            .iter()
            .filter(|link| !link.loopback)
            .map(|link| &link.name),
    ))
}

fn list_addresses(all: &[Address]) -> String {
    join(all.iter().map(|address| address.network.ip()))
}

fn join(items: impl Iterator<Item = impl ToString>) -> String {
    let all: Vec<String> = items.map(|item| item.to_string()).collect();
    if all.is_empty() {
        "none".to_owned()
    } else {
        all.join(", ")
    }
}
