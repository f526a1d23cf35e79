//! Links that backends need, and how one that is there is compared with one that should be.

use std::borrow::Borrow;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnetwork::Ipv4Network;

use super::vxlan;
use crate::observed::ObservedDevice;
use crate::vtep::{MacAddr, Vni};

/// Name of an interface. Copies share their text.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LinkName(Arc<str>);

impl LinkName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for LinkName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for LinkName {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl Borrow<str> for LinkName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A link as it should be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LinkSpec {
    /// Name.
    pub name: LinkName,
    /// MTU in bytes: of a new link, and as far as `former_mtu` says so of an existing one.
    pub mtu: u32,
    /// The MTU that the link was to have before, bytes, where that has changed while we ran: an
    /// existing link that still has it follows. Any other is its owner's and stays, as flanneld
    /// leaves it, unless it is larger than `mtu`.
    pub former_mtu: Option<u32>,
    /// MAC address for a new link; an existing compatible one keeps its own.
    pub mac: MacAddr,
    /// The address that it carries; `None` until there is a lease.
    pub address: Option<Ipv4Network>,
    /// What it is.
    pub kind: LinkKind,
}

/// What a link is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LinkKind {
    /// A vxlan device.
    Vxlan(VxlanLink),
}

/// A vxlan device as flannel makes it (flannel 0.28.9, `pkg/backend/vxlan/device.go`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VxlanLink {
    /// VNI.
    pub vni: Vni,
    /// UDP destination port; `None` leaves the kernel its default, 8472.
    pub port: Option<u16>,
    /// Source address of outer packets.
    pub local: Ipv4Addr,
    /// Interface index of the uplink.
    pub uplink_ifindex: u32,
    /// Group Based Policy extension.
    pub gbp: bool,
    /// FDB learning.
    pub learning: bool,
}

impl LinkKind {
    /// The kernel's name of the kind.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vxlan(_) => "vxlan",
        }
    }
}

impl LinkSpec {
    /// Whether an existing link is to be given another MTU.
    pub(crate) fn wants_mtu(&self, device: &ObservedDevice) -> bool {
        let follows = |former| device.mtu == former || device.mtu > self.mtu;
        device.mtu != self.mtu && self.former_mtu.is_some_and(follows)
    }

    /// Whether an existing link is used as it is. MTU, MAC address and addresses do not count:
    /// they can be set.
    pub(crate) fn is_compatible(&self, device: &ObservedDevice) -> bool {
        let LinkKind::Vxlan(wanted) = &self.kind;
        vxlan::is_compatible(device, wanted)
    }

    /// Whether an existing link that is not compatible may be replaced.
    pub(crate) fn may_replace(&self, device: &ObservedDevice) -> bool {
        let LinkKind::Vxlan(wanted) = &self.kind;
        device.kind == self.kind.name() || self.name == vxlan::name_for(wanted.vni)
    }
}
