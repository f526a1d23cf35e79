//! The node's underlay interface.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::vtep::MacAddr;

/// Nodes of a [`sample`], at most.
const SAMPLE: usize = 16;

/// The underlay interface, as read from the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Uplink {
    /// Interface index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// MAC address.
    pub mac: MacAddr,
    /// The address that the interface carries.
    pub address: Ipv4Addr,
    /// The address that peers send to (`--public-ip`, else `address`).
    pub public_ip: Ipv4Addr,
    /// The address that outer packets are from: `public_ip` where this host has it, else
    /// `address`, as no answer would come back to one that is translated on the way.
    pub local: Ipv4Addr,
}

/// Some of the other nodes, from all over: to ask the kernel after thousands takes too long, and
/// what is so for all of these is so.
pub fn sample(nodes: &BTreeSet<Ipv4Addr>) -> Vec<Ipv4Addr> {
    let step = nodes.len().div_ceil(SAMPLE).max(1);
    nodes.iter().copied().step_by(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_from_all_over_and_no_more_than_so_many() {
        let nodes = |count: u32| (0..count).map(Ipv4Addr::from).collect::<BTreeSet<_>>();
        for count in [0, 1, 15, 16] {
            assert!(
                sample(&nodes(count)).into_iter().eq(nodes(count)),
                "{count}"
            );
        }
        for count in [17, 31, 33, 5000] {
            let some = sample(&nodes(count));
            assert!((9..=SAMPLE).contains(&some.len()), "{count}: {some:?}");
            assert!(some.last() >= Some(&Ipv4Addr::from(count * 8 / 10)));
        }
    }
}
