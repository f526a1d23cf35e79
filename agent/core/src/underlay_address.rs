//! Which of an interface's addresses is the node's own, and which ones only visit.
//!
//! An address that fails over (keepalived, kube-vip) is on this node today and on another one
//! tomorrow. A node that published it would be cut off by the fail-over, and two nodes would
//! publish the same address.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// The protocol number that keepalived gives to the addresses that it adds (`IFA_PROTO`, Linux
/// 5.18): that of its routes in iproute2's `rt_protos`.
pub const KEEPALIVED: u8 = 18;

/// Prefix length of a single host.
const HOST: u8 = 32;

/// An address of the uplink, as the kernel has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the kernel's own flags, independent of each other"
)]
pub struct Candidate {
    /// The address.
    pub address: Ipv4Addr,
    /// Its prefix length.
    pub prefix: u8,
    /// Does not expire (`IFA_F_PERMANENT`).
    pub permanent: bool,
    /// Expired for new connections (`IFA_F_DEPRECATED`).
    pub deprecated: bool,
    /// Came into the subnet of another address of the interface (`IFA_F_SECONDARY`).
    pub secondary: bool,
    /// Has another label than the interface's name, as `eth0:1`.
    pub alias: bool,
    /// Is for this host alone, by its scope.
    pub host_scope: bool,
    /// Who added it, by its own word; 0 for nobody's.
    pub protocol: u8,
}

impl Candidate {
    /// Whether other nodes could send to it.
    pub fn is_usable(&self) -> bool {
        !self.deprecated && is_usable(self.address)
    }

    /// Whether it says of itself that it fails over, or that it is not for other hosts.
    fn is_marked(&self) -> bool {
        self.protocol == KEEPALIVED || self.host_scope
    }
}

/// Whether an address can be one host's.
pub fn is_usable(ip: Ipv4Addr) -> bool {
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast())
}

/// The node's own address among those of its uplink, in the kernel's order. `last` is the one
/// that this node was at last, `elsewhere` are those that other nodes publish.
///
/// Out is what is deprecated, or what no peer could send to. Of the others, in this order, so
/// that each rule only decides between what the rules before it leave equal:
///
/// 1. global before link-local, as flannel has it;
/// 2. unmarked before marked: keepalived's protocol number, the scope `host` of kube-vip's on `lo`;
/// 3. what no other node publishes before what another one does;
/// 4. the one that the node was at last: what came after it is not taken while it is there;
/// 5. with a longer prefix beside it, no /32: keepalived's default, and all that kube-vip adds;
/// 6. the first of a subnet, under the interface's own label, before secondary ones and aliases;
/// 7. permanent before expiring, as flannel has it;
/// 8. the kernel's order.
pub fn own_address(
    candidates: &[Candidate],
    last: Option<Ipv4Addr>,
    elsewhere: &BTreeSet<Ipv4Addr>,
) -> Option<Ipv4Addr> {
    let usable = || candidates.iter().filter(|it| it.is_usable());
    let is_subnet = |it: &Candidate| it.prefix < HOST && !it.address.is_link_local();
    let subnets = usable().any(is_subnet);
    usable()
        .min_by_key(|it| {
            (
                it.address.is_link_local(),
                it.is_marked(),
                elsewhere.contains(&it.address),
                last != Some(it.address),
                subnets && it.prefix == HOST,
                it.secondary || it.alias,
                !it.permanent,
            )
        })
        .map(|it| it.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address as a person or an installer adds it.
    fn at(text: &str) -> Candidate {
        let (address, prefix) = text.split_once('/').unwrap();
        Candidate {
            address: address.parse().unwrap(),
            prefix: prefix.parse().unwrap(),
            permanent: true,
            deprecated: false,
            secondary: false,
            alias: false,
            host_scope: false,
            protocol: 0,
        }
    }

    /// As a DHCP client adds it.
    fn dhcp(text: &str) -> Candidate {
        Candidate {
            permanent: false,
            ..at(text)
        }
    }

    fn deprecated(text: &str) -> Candidate {
        Candidate {
            deprecated: true,
            ..at(text)
        }
    }

    fn secondary(text: &str) -> Candidate {
        Candidate {
            secondary: true,
            ..at(text)
        }
    }

    fn alias(text: &str) -> Candidate {
        Candidate {
            alias: true,
            ..at(text)
        }
    }

    fn keepalived(text: &str) -> Candidate {
        Candidate {
            protocol: KEEPALIVED,
            ..at(text)
        }
    }

    fn host_scope(text: &str) -> Candidate {
        Candidate {
            host_scope: true,
            ..at(text)
        }
    }

    fn check(candidates: &[Candidate], last: &str, elsewhere: &[&str], expected: &str) {
        let elsewhere = elsewhere.iter().map(|ip| ip.parse().unwrap()).collect();
        let own = own_address(candidates, last.parse().ok(), &elsewhere);
        let own = own.map_or_else(|| "none".to_owned(), |ip| ip.to_string());
        assert_eq!(own, expected, "{candidates:?}, last {last}, {elsewhere:?}");
    }

    #[test]
    fn without_floating_addresses_it_is_the_one_that_flannel_takes() {
        let table: [(&[Candidate], &str); 8] = [
            (&[], "none"),
            (&[at("127.0.0.1/8"), at("224.0.0.1/32")], "none"),
            (&[at("169.254.1.1/16")], "169.254.1.1"),
            (&[at("169.254.1.1/16"), dhcp("192.0.2.1/24")], "192.0.2.1"),
            (
                &[dhcp("192.0.2.1/24"), at("198.51.100.2/24")],
                "198.51.100.2",
            ),
            (&[at("192.0.2.1/24"), at("198.51.100.2/24")], "192.0.2.1"),
            (
                &[deprecated("192.0.2.1/24"), dhcp("169.254.1.1/16")],
                "169.254.1.1",
            ),
            (&[deprecated("192.0.2.1/24")], "none"),
        ];
        for (candidates, expected) in table {
            check(candidates, "", &[], expected);
        }
    }

    #[test]
    fn a_floating_address_is_not_taken_beside_the_host_s_own() {
        let table: [(&[Candidate], &str); 9] = [
            // kube-vip, and keepalived by default.
            (&[dhcp("192.0.2.1/24"), at("192.0.2.100/32")], "192.0.2.1"),
            (&[at("192.0.2.100/32"), dhcp("192.0.2.1/24")], "192.0.2.1"),
            // keepalived with a prefix length: a secondary, or marked.
            (
                &[dhcp("192.0.2.1/24"), secondary("192.0.2.100/24")],
                "192.0.2.1",
            ),
            (
                &[dhcp("192.0.2.1/24"), keepalived("198.51.100.9/24")],
                "192.0.2.1",
            ),
            // The VIP was there first, and the host's own is the secondary one.
            (
                &[
                    keepalived("192.0.2.100/24"),
                    Candidate {
                        secondary: true,
                        ..dhcp("192.0.2.1/24")
                    },
                ],
                "192.0.2.1",
            ),
            (
                &[dhcp("192.0.2.1/24"), alias("198.51.100.9/24")],
                "192.0.2.1",
            ),
            // A cloud that gives hosts a /32: nothing tells it from a VIP but who was first.
            (&[at("192.0.2.1/32"), at("192.0.2.100/32")], "192.0.2.1"),
            // BGP to the host, and kube-vip's VIP on the loopback.
            (
                &[host_scope("192.0.2.100/32"), at("203.0.113.1/32")],
                "203.0.113.1",
            ),
            // Nothing else is there.
            (&[keepalived("192.0.2.100/32")], "192.0.2.100"),
        ];
        for (candidates, expected) in table {
            check(candidates, "", &[], expected);
        }
    }

    #[test]
    fn the_last_one_is_kept_while_it_is_there() {
        let own = dhcp("192.0.2.1/24");
        // Whatever came meanwhile.
        for other in [
            at("198.51.100.2/24"),
            at("192.0.2.100/32"),
            at("10.0.0.1/8"),
        ] {
            check(&[own, other], "192.0.2.1", &[], "192.0.2.1");
            check(&[other, own], "192.0.2.1", &[], "192.0.2.1");
        }
        let two = [at("192.0.2.1/24"), at("198.51.100.2/24")];
        check(&two, "198.51.100.2", &[], "198.51.100.2");
        // A node that was set up with a /32 stays at it.
        let host = [at("203.0.113.1/32"), at("192.0.2.1/24")];
        check(&host, "203.0.113.1", &[], "203.0.113.1");
        // It is gone, or no good any more.
        check(&two, "203.0.113.7", &[], "192.0.2.1");
        let old = [deprecated("198.51.100.2/24"), own];
        check(&old, "198.51.100.2", &[], "192.0.2.1");
        // It fails over, and only was the only one.
        let vip = [keepalived("192.0.2.100/32"), own];
        check(&vip, "192.0.2.100", &[], "192.0.2.1");
    }

    #[test]
    fn what_another_node_publishes_is_not_ours_while_there_is_another() {
        let two = [at("192.0.2.100/24"), at("192.0.2.1/24")];
        check(&two, "", &["192.0.2.100"], "192.0.2.1");
        check(&two, "192.0.2.100", &["192.0.2.100"], "192.0.2.1");
        check(&two[..1], "192.0.2.100", &["192.0.2.100"], "192.0.2.100");
        // An address that fails over is no way out, and neither is one of the link.
        let worse = [at("192.0.2.1/24"), keepalived("192.0.2.100/24")];
        check(&worse, "192.0.2.1", &["192.0.2.1"], "192.0.2.1");
        let worse = [at("192.0.2.1/24"), at("169.254.1.1/16")];
        check(&worse, "192.0.2.1", &["192.0.2.1"], "192.0.2.1");
    }
}
