//! Which subnet a node gets.

use thiserror::Error;

use crate::config::NetworkConfig;
use crate::lease::{Lease, LeaseAttrs};
use crate::subnet::Subnet;

/// How a subnet was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Allocation {
    /// The node (by its underlay address) holds it already, or it is reserved for it.
    Kept(Subnet),
    /// The node had it before and nobody took it since.
    Previous(Subnet),
    /// A free one.
    New(Subnet),
}

/// Why there is none.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum AllocateError {
    /// Every subnet is taken.
    #[error("out of subnets: every /{len} from {min} to {max} is leased or reserved")]
    OutOfSubnets {
        /// Prefix length.
        len: u8,
        /// Lowest subnet.
        min: std::net::Ipv4Addr,
        /// Highest subnet.
        max: std::net::Ipv4Addr,
    },
}

/// Finds a subnet as flannel does (`flannel-compat` 5.2): the one this address holds, the
/// previous one, else one of the first 100 free ones, chosen by `pick(count) -> index`.
pub fn allocate(
    config: &NetworkConfig,
    taken: &[Lease],
    attrs: &LeaseAttrs,
    previous: Option<Subnet>,
    pick: impl FnOnce(usize) -> usize,
) -> Result<Allocation, AllocateError> {
    let (_, _, _, _, _) = (config, taken, attrs, previous, pick(1));
    unimplemented!("the core work fills this in")
}
