//! Single writes to the maps.

use std::net::IpAddr;

use crate::subnet::Subnet;
use crate::vtep::RemoteVtep;

/// One map write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MapOp {
    /// Write an entry of `vteps`, with a new generation.
    SetVtep {
        /// Index.
        index: u32,
        /// Where it is.
        vtep: RemoteVtep,
        /// A subnet behind it.
        subnet: Subnet,
    },
    /// Clear an entry of `vteps`.
    ClearVtep {
        /// Index.
        index: u32,
    },
    /// Say how large an outer packet may be on the way to a VTEP.
    SetPathMtu {
        /// Index.
        index: u32,
        /// Bytes; `None`: nothing is said.
        bytes: Option<u32>,
    },
    /// Say how large an outer packet may be for what the routes to a VTEP's subnets take.
    SetSubnetMtu {
        /// Index.
        index: u32,
        /// Bytes; `None`: nothing is said.
        bytes: Option<u32>,
    },
    /// Map an outer source to its VTEP.
    SetSource {
        /// Underlay address.
        underlay: IpAddr,
        /// Index of `vteps`.
        index: u32,
    },
    /// Forget an outer source.
    RemoveSource {
        /// Underlay address.
        underlay: IpAddr,
    },
    /// Map a subnet to its VTEP.
    SetRoute {
        /// The peer's subnet.
        subnet: Subnet,
        /// Index of `vteps`.
        index: u32,
    },
    /// Forget a subnet.
    RemoveRoute {
        /// The peer's subnet.
        subnet: Subnet,
    },
}
