//! Which subnet a node gets.

use std::net::Ipv4Addr;

use ipnetwork::{IpNetwork, Ipv4Network};
use thiserror::Error;

use crate::config::NetworkConfig;
use crate::lease::{Lease, LeaseAttrs};
use crate::subnet::Subnet;

/// Free subnets among which one is picked, so that nodes that start together seldom want
/// the same (flannel 0.28.9, `allocateSubnet` in `pkg/subnet/etcd/local_manager.go`).
const CANDIDATES: usize = 100;

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

impl Allocation {
    /// The subnet, however it was found.
    pub fn subnet(self) -> Subnet {
        match self {
            Self::Kept(subnet) | Self::Previous(subnet) | Self::New(subnet) => subnet,
        }
    }
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
        min: Ipv4Addr,
        /// Highest subnet.
        max: Ipv4Addr,
    },
}

/// Finds a subnet as flannel does (0.28.9, `pkg/subnet/etcd/local_manager.go`): the one
/// that this underlay address holds, the previous one, else one of the first 100 free
/// ones, chosen by `pick(count) -> index`, where `count` is at least 1.
///
/// Where several are held, a reservation goes before a lease and a low subnet before a
/// high one. One that does not fit the configuration is not kept, but stays taken: the
/// caller removes it.
pub fn allocate(
    config: &NetworkConfig,
    taken: &[Lease],
    attrs: &LeaseAttrs,
    previous: Option<Subnet>,
    pick: impl FnOnce(usize) -> usize,
) -> Result<Allocation, AllocateError> {
    if let Some(subnet) = held(config, taken, attrs.public_ip) {
        return Ok(Allocation::Kept(subnet));
    }
    let is_free = |subnet: &Subnet| !taken.iter().any(|lease| lease.subnet.overlaps(*subnet));
    if let Some(subnet) = previous
        .filter(|subnet| config.fits(*subnet))
        .filter(is_free)
    {
        return Ok(Allocation::Previous(subnet));
    }
    let free = candidates(config, taken);
    // Whatever `pick` answers names one of them, if there is one.
    pick_from(&free, pick)
        .map(Allocation::New)
        .ok_or(AllocateError::OutOfSubnets {
            len: config.subnet_len,
            min: config.subnet_min,
            max: config.subnet_max,
        })
}

fn held(config: &NetworkConfig, taken: &[Lease], holder: Ipv4Addr) -> Option<Subnet> {
    // A node without an IPv4 underlay publishes 0.0.0.0, which names nobody.
    taken
        .iter()
        .filter(|lease| lease.attrs.public_ip == holder && !holder.is_unspecified())
        .filter(|lease| config.fits(lease.subnet))
        .min_by_key(|lease| (lease.ttl_seconds.is_some(), lease.subnet))
        .map(|lease| lease.subnet)
}

fn pick_from(free: &[Subnet], pick: impl FnOnce(usize) -> usize) -> Option<Subnet> {
    if free.is_empty() {
        return None;
    }
    let index = pick(free.len()).checked_rem(free.len())?;
    free.get(index).copied()
}

/// The first free subnets, in order. One pass over the sorted leases: a taken range moves
/// the candidate past its end, so that cost does not depend on the size of the network.
fn candidates(config: &NetworkConfig, taken: &[Lease]) -> Vec<Subnet> {
    let mut ranges: Vec<(u64, u64)> = taken
        .iter()
        .filter_map(|lease| range(lease.subnet))
        .collect();
    ranges.sort_unstable();
    let mut ranges = ranges.into_iter().peekable();

    let size = 1_u64 << 32_u8.saturating_sub(config.subnet_len);
    let mut first = u64::from(u32::from(config.subnet_min));
    let highest = u64::from(u32::from(config.subnet_max));
    let mut free = Vec::new();
    while first <= highest && free.len() < CANDIDATES {
        while ranges.next_if(|(_, end)| *end < first).is_some() {}
        match ranges.peek() {
            Some((start, end)) if *start < first + size => {
                // The next boundary after the taken range: sizes are powers of two.
                first = (end | (size - 1)) + 1;
            }
            _ => {
                free.extend(subnet_at(first, config.subnet_len));
                first += size;
            }
        }
    }
    free
}

/// First and last address of an IPv4 subnet, as numbers that leave room for one more.
fn range(subnet: Subnet) -> Option<(u64, u64)> {
    let IpNetwork::V4(network) = subnet.as_ip_network() else {
        return None;
    };
    let number = |address| u64::from(u32::from(address));
    Some((number(network.network()), number(network.broadcast())))
}

fn subnet_at(first: u64, len: u8) -> Option<Subnet> {
    let address = Ipv4Addr::from(u32::try_from(first).ok()?);
    let network = Ipv4Network::new(address, len).ok()?;
    Some(Subnet::containing(IpNetwork::V4(network)))
}

#[cfg(test)]
mod tests;
