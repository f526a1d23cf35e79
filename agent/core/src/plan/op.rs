//! The single steps that a plan is made of.

use std::fmt;

use ipnetwork::Ipv4Network;

use crate::backend::{Entry, LinkName, LinkSpec};
use crate::datapath::MapOp;

/// One netlink request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KernelOp {
    /// Create a link.
    Create(LinkSpec),
    /// Remove an incompatible link of the same name.
    Remove {
        /// Its name.
        link: LinkName,
        /// Its interface index.
        ifindex: u32,
    },
    /// Set a link's MTU.
    SetMtu {
        /// The link.
        link: LinkName,
        /// Bytes.
        mtu: u32,
    },
    /// Set a link up.
    SetUp(LinkName),
    /// Add an address to a link.
    AddAddress {
        /// The link.
        link: LinkName,
        /// The address.
        address: Ipv4Network,
    },
    /// Remove an address from a link.
    RemoveAddress {
        /// The link.
        link: LinkName,
        /// The address.
        address: Ipv4Network,
    },
    /// Write an entry; replaces.
    Set(Entry),
    /// Remove an entry.
    Unset(Entry),
}

impl KernelOp {
    /// Whether it takes something away.
    pub fn is_removal(&self) -> bool {
        match self {
            Self::Remove { .. } | Self::RemoveAddress { .. } | Self::Unset(_) => true,
            Self::Create(_)
            | Self::SetMtu { .. }
            | Self::SetUp(_)
            | Self::AddAddress { .. }
            | Self::Set(_) => false,
        }
    }

    /// The overlay's link that it is about, if it is about one.
    pub fn link(&self) -> Option<&LinkName> {
        match self {
            Self::Create(spec) => Some(&spec.name),
            Self::Remove { link, .. }
            | Self::SetMtu { link, .. }
            | Self::SetUp(link)
            | Self::AddAddress { link, .. }
            | Self::RemoveAddress { link, .. } => Some(link),
            Self::Set(entry) | Self::Unset(entry) => entry.link(),
        }
    }
}

/// As an infinitive, for logs.
impl fmt::Display for KernelOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(spec) => write!(f, "create {} device {}", spec.kind.name(), spec.name),
            Self::Remove { link, ifindex } => write!(
                f,
                "remove the device with interface index {ifindex}, in the way of {link}"
            ),
            Self::SetMtu { link, mtu } => write!(f, "set the MTU of {link} to {mtu}"),
            Self::SetUp(link) => write!(f, "set {link} up"),
            Self::AddAddress { link, address } => write!(f, "add address {address} to {link}"),
            Self::RemoveAddress { link, address } => {
                write!(f, "remove address {address} from {link}")
            }
            Self::Set(entry) => write!(f, "set {entry}"),
            Self::Unset(entry) => write!(f, "remove {entry}"),
        }
    }
}

/// One step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Op {
    /// In the kernel.
    Kernel(KernelOp),
    /// In a map.
    Map(MapOp),
}
