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

/// Which ways packets to other nodes take.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Ways {
    /// No way to another node is known.
    #[default]
    Unknown,
    /// By the uplink, some of them at least.
    ByUplink,
    /// None by the uplink, and why that is said: the node's address is on the loopback or on a
    /// dummy device, for one, and a routing protocol leads to it.
    Astray(String),
}

impl Ways {
    /// What it is where packets to a sample of the other nodes leave by these interfaces.
    pub fn of(uplink: &str, interfaces: &BTreeSet<String>) -> Self {
        if interfaces.is_empty() {
            return Self::Unknown;
        }
        if interfaces.contains(uplink) {
            return Self::ByUplink;
        }
        let interfaces: Vec<&str> = interfaces.iter().map(String::as_str).collect();
        let interfaces = interfaces.join(", ");
        Self::Astray(format!(
            "packets to other nodes leave by {interfaces}, and not by the uplink {uplink}"
        ))
    }

    /// Why no packet passes the uplink, if none does.
    pub fn astray(&self) -> Option<&str> {
        match self {
            Self::Unknown | Self::ByUplink => None,
            Self::Astray(reason) => Some(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_go_astray_where_none_passes_the_uplink() {
        let ways = |interfaces: &[&str]| {
            let interfaces = interfaces.iter().map(|&name| name.to_owned()).collect();
            Ways::of("lo", &interfaces)
        };
        assert_eq!(ways(&[]), Ways::Unknown);
        assert_eq!(ways(&["eth0", "lo"]), Ways::ByUplink);
        assert_eq!(
            ways(&["eth1", "eth0"]).astray(),
            Some("packets to other nodes leave by eth0, eth1, and not by the uplink lo")
        );
    }

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
