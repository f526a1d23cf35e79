//! Links: found by name or index, read as vxlan devices, created, changed, removed.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use nix::errno::Errno;
use twill_core::backend::{LinkKind, LinkSpec, VxlanLink};
use twill_core::observed::ObservedDevice;
use twill_core::sysctl::NET_FOLDERS;
use twill_core::vtep::MacAddr;

use super::error::Failure;
use super::socket::{Request, Socket};

/// A vxlan device, ours or another's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VxlanDevice {
    /// Name.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
    /// VNI; 0 for a device that takes it from metadata.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// Source address of outer packets, if one is fixed.
    pub local: Option<IpAddr>,
    /// Interface index of the lower device, if there is one.
    pub uplink_ifindex: Option<u32>,
    /// Whether VNI and destination come from each packet's metadata (`external`).
    pub external: bool,
    /// Alias (`IFLA_IFALIAS`).
    pub alias: Option<String>,
}

/// A link, as far as we care for links.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Link {
    pub(super) name: String,
    /// `None` for what is no Ethernet, as a tun device.
    pub(super) mac: Option<MacAddr>,
    pub(super) loopback: bool,
    /// Whether it has a carrier.
    pub(super) carrier: bool,
    pub(super) external: bool,
    pub(super) alias: Option<String>,
    pub(super) device: ObservedDevice,
}

impl Link {
    pub(super) fn read(message: &LinkMessage) -> Self {
        let mut link = Self {
            name: String::new(),
            mac: None,
            loopback: message.header.flags.contains(LinkFlags::Loopback),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
            external: false,
            alias: None,
            device: ObservedDevice {
                ifindex: message.header.index,
                // As Go's netlink library calls what is backed by no driver of a kind.
                kind: "device".to_owned(),
                mtu: 0,
                mac: MacAddr([0; 6]),
                up: message.header.flags.contains(LinkFlags::Up),
                vni: None,
                port: None,
                local: None,
                uplink_ifindex: None,
                group: None,
                l2miss: false,
                gbp: false,
                learning: false,
            },
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.device.mtu = *mtu,
                LinkAttribute::Address(bytes) => {
                    link.mac = bytes.as_slice().try_into().ok().map(MacAddr);
                }
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| link.info(info)),
                _ => {}
            }
        }
        link.device.mac = link.mac.unwrap_or(MacAddr([0; 6]));
        link
    }

    /// Whether it is up, and something is at its other end.
    pub(super) fn carries(&self) -> bool {
        self.device.up && self.carrier
    }

    fn info(&mut self, info: &LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.device.kind = kind.to_string(),
            LinkInfo::Data(InfoData::Vxlan(attributes)) => {
                for attribute in attributes {
                    self.vxlan(attribute);
                }
            }
            _ => {}
        }
    }

    fn vxlan(&mut self, attribute: &InfoVxlan) {
        let device = &mut self.device;
        match attribute {
            InfoVxlan::Id(vni) => device.vni = Some(*vni),
            InfoVxlan::Port(port) => device.port = Some(*port),
            InfoVxlan::Local(address) => device.local = Some((*address).into()),
            InfoVxlan::Local6(address) => device.local = Some((*address).into()),
            InfoVxlan::Group(address) => device.group = Some((*address).into()),
            InfoVxlan::Group6(address) => device.group = Some((*address).into()),
            InfoVxlan::Link(ifindex) => device.uplink_ifindex = Some(*ifindex),
            InfoVxlan::L2Miss(on) => device.l2miss = *on,
            InfoVxlan::Learning(on) => device.learning = *on,
            InfoVxlan::Gbp => device.gbp = true,
            InfoVxlan::CollectMetadata(on) => self.external = *on,
            _ => {}
        }
    }

    fn into_vxlan(self) -> Option<VxlanDevice> {
        (self.device.kind == "vxlan").then_some(VxlanDevice {
            name: self.name,
            ifindex: self.device.ifindex,
            vni: self.device.vni.unwrap_or(0),
            port: self.device.port.unwrap_or(0),
            local: self.device.local,
            uplink_ifindex: self.device.uplink_ifindex,
            external: self.external,
            alias: self.alias,
        })
    }
}

/// The link of that very name. An alternative name is not enough: what merely is called so as
/// well is somebody else's, and must not be taken for our device.
pub(super) async fn by_name(socket: &mut Socket, name: &str) -> Result<Option<Link>, Failure> {
    let link = get(socket, 0, Some(name)).await?;
    Ok(link.filter(|link| link.name == name))
}

/// The link with that index.
pub(super) async fn by_index(socket: &mut Socket, ifindex: u32) -> Result<Option<Link>, Failure> {
    get(socket, ifindex, None).await
}

async fn get(
    socket: &mut Socket,
    ifindex: u32,
    name: Option<&str>,
) -> Result<Option<Link>, Failure> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message
        .attributes
        .extend(name.map(|name| LinkAttribute::IfName(name.to_owned())));
    message.attributes.push(without_statistics());
    match socket.get(RouteNetlinkMessage::GetLink(message)).await {
        Ok(RouteNetlinkMessage::NewLink(message)) => Ok(Some(Link::read(&message))),
        Ok(other) => Err(unexpected(&other)),
        // ERANGE and EINVAL: a name that is too long for any interface.
        Err(failure) if failure.refusal().is_some_and(says_missing) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn says_missing(errno: Errno) -> bool {
    matches!(errno, Errno::ENODEV | Errno::ERANGE)
}

/// Every link. One that cannot be decoded is somebody else's oddity, and is left out.
pub(super) async fn all(socket: &mut Socket) -> Result<Vec<Link>, Failure> {
    dump(socket, Vec::new(), Link::read).await
}

/// Every vxlan device.
pub(super) async fn vxlan_devices(socket: &mut Socket) -> Result<Vec<VxlanDevice>, Failure> {
    let links = of_kind(socket, InfoKind::Vxlan, Link::read).await?;
    Ok(links.into_iter().filter_map(Link::into_vxlan).collect())
}

/// What `read` makes of each link of that kind, and perhaps of others: the kernel filters by
/// kinds that it knows.
pub(super) async fn of_kind<T>(
    socket: &mut Socket,
    kind: InfoKind,
    read: impl Fn(&LinkMessage) -> T,
) -> Result<Vec<T>, Failure> {
    let filter = vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])];
    dump(socket, filter, read).await
}

async fn dump<T>(
    socket: &mut Socket,
    filter: Vec<LinkAttribute>,
    read: impl Fn(&LinkMessage) -> T,
) -> Result<Vec<T>, Failure> {
    let mut message = LinkMessage::default();
    message.attributes = filter;
    message.attributes.push(without_statistics());
    let keep = |answer| match answer {
        Ok(RouteNetlinkMessage::NewLink(message)) => Ok(Some(read(&message))),
        Ok(other) => Err(unexpected(&other)),
        Err(error) => {
            tracing::warn!(%error, "a link is left out");
            Ok(None)
        }
    };
    socket
        .dump(RouteNetlinkMessage::GetLink(message), keep)
        .await
}

fn without_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

/// An answer to another question than ours.
pub(super) fn unexpected(message: &RouteNetlinkMessage) -> Failure {
    Failure::Undecodable {
        why: format!("not what was asked for: {message:?}"),
    }
}

/// Creates the link with the attributes that flannel sends
/// (`pkg/backend/vxlan/device.go`, v0.28), so that flannel finds it compatible.
pub(super) fn create(spec: &LinkSpec) -> Request {
    let LinkSpec {
        name,
        mtu,
        former_mtu: _,
        mac,
        address: _,
        kind: LinkKind::Vxlan(vxlan),
    } = spec;
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_string()));
    if *mtu > 0 {
        message.attributes.push(LinkAttribute::Mtu(*mtu));
    }
    message.attributes.extend([
        LinkAttribute::TxQueueLen(0),
        LinkAttribute::Address(mac.0.to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(attributes(vxlan))),
        ]),
    ]);
    (
        RouteNetlinkMessage::NewLink(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

fn attributes(vxlan: &VxlanLink) -> Vec<InfoVxlan> {
    let VxlanLink {
        vni,
        port,
        local,
        uplink_ifindex,
        gbp,
        learning,
    } = vxlan;
    let mut attributes = vec![
        InfoVxlan::Id(vni.get()),
        InfoVxlan::Link(*uplink_ifindex),
        InfoVxlan::Local(*local),
        InfoVxlan::Ttl(0),
        InfoVxlan::Tos(0),
        InfoVxlan::Learning(*learning),
        InfoVxlan::Proxy(false),
        InfoVxlan::Rsc(false),
        InfoVxlan::L2Miss(false),
        InfoVxlan::L3Miss(false),
        InfoVxlan::UDPZeroCsumTX(false),
        InfoVxlan::UDPZeroCsumRX(false),
    ];
    if *gbp {
        attributes.push(InfoVxlan::Gbp);
    }
    attributes.extend(port.map(InfoVxlan::Port));
    attributes
}

/// Removes a link.
pub(super) fn remove(ifindex: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    (RouteNetlinkMessage::DelLink(message), 0)
}

/// Sets the alias (`IFLA_IFALIAS`).
pub(super) fn set_alias(ifindex: u32, alias: &str) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message
        .attributes
        .push(LinkAttribute::IfAlias(alias.to_owned()));
    (RouteNetlinkMessage::SetLink(message), 0)
}

/// Sets the MTU, bytes.
pub(super) fn set_mtu(ifindex: u32, mtu: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.attributes.push(LinkAttribute::Mtu(mtu));
    (RouteNetlinkMessage::SetLink(message), 0)
}

/// Sets the link up.
pub(super) fn set_up(ifindex: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    (RouteNetlinkMessage::SetLink(message), 0)
}

/// Makes the device deaf to IPv6 router advertisements, as flannel does. Best effort: a kernel
/// without IPv6 has no such switch, and nothing else depends on it.
pub(super) fn refuse_router_advertisements(name: &str) {
    for folder in NET_FOLDERS {
        let path = format!("{folder}/ipv6/conf/{name}/accept_ra");
        match std::fs::write(&path, "0") {
            Ok(()) => return,
            Err(error) => tracing::debug!(%path, %error, "accept_ra stays as it is"),
        }
    }
}
