//! Routing rules (`ip rule`), as far as BPF cannot follow them for what the kernel's vxlan device
//! sends.
//!
//! The programs ask the kernel's routing with the addresses, the protocol and the ports of an
//! outer packet, so most rules hold for them as for the kernel. They cannot ask with the mark, which
//! the outer packet has from the inner one, nor with each flow's own source port.

use std::fmt;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

/// UDP.
const UDP: u8 = 17;
/// What this host sends comes in by this interface, for rules.
const LOOPBACK: &str = "lo";

/// A routing rule, as far as it says which packets it is for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RoutingRule {
    /// Its place among the others.
    pub priority: u32,
    /// It is for every packet that it does not describe (`not`).
    pub inverted: bool,
    /// `from`.
    pub source: Option<Ipv4Network>,
    /// `iif`.
    pub interface: Option<String>,
    /// `ipproto`.
    pub protocol: Option<u8>,
    /// `fwmark`.
    pub mark: u32,
    /// The bits of the mark that count; 0: none.
    pub mask: u32,
    /// `sport`, first and last.
    pub source_ports: Option<(u16, u16)>,
    /// `dport`, first and last.
    pub destination_ports: Option<(u16, u16)>,
    /// It has a selector that nobody here knows.
    pub unknown: bool,
}

/// What all packets of the kernel's vxlan device have in common.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OuterPackets {
    /// Source address.
    pub source: Ipv4Addr,
    /// The lowest source port, and the first behind the last.
    pub source_ports: (u16, u16),
    /// Destination port.
    pub port: u16,
}

/// What the programs leave to the kernel because of rules.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KernelRouted {
    /// Bits of the packet mark: a packet with one of them is the kernel's.
    pub marks: u32,
    /// Every packet is, since a rule tells source ports apart.
    pub all: bool,
    /// The rules, in words.
    pub rules: Vec<String>,
}

impl KernelRouted {
    /// What these rules leave to the kernel; nobody's rules are known where there is [`None`].
    pub fn by(rules: Option<&[RoutingRule]>, outer: OuterPackets) -> Self {
        let Some(rules) = rules else {
            return Self {
                all: true,
                rules: vec!["the routing rules could not be read".to_owned()],
                ..Self::default()
            };
        };
        let mut routed = Self::default();
        for rule in rules.iter().filter(|rule| rule.may_match(outer)) {
            let by_port = rule.unknown || rule.tells_ports_apart(outer.source_ports);
            if by_port {
                routed.all = true;
                routed.rules.push(format!(
                    "{rule}: every packet to other nodes is the kernel's"
                ));
            } else if rule.mask != 0 {
                routed.marks |= rule.mask;
                let mask = rule.mask;
                routed.rules.push(format!(
                    "{rule}: packets with a bit of {mask:#x} in their mark are the kernel's"
                ));
            }
        }
        routed
    }
}

impl RoutingRule {
    /// Whether it may be for an outer packet, whatever its mark and source port.
    fn may_match(&self, outer: OuterPackets) -> bool {
        let within = |(first, last): (u16, u16)| (first..=last).contains(&outer.port);
        self.inverted
            || self.protocol.is_none_or(|protocol| protocol == UDP)
                && self.destination_ports.is_none_or(within)
                && self
                    .source
                    .is_none_or(|source| source.contains(outer.source))
                && self
                    .interface
                    .as_ref()
                    .is_none_or(|interface| interface == LOOPBACK)
    }

    /// Whether it is for some of these source ports only. Of all of them the programs ask with one.
    fn tells_ports_apart(&self, (lowest, end): (u16, u16)) -> bool {
        self.source_ports.is_some_and(|(first, last)| {
            let none = last < lowest || first >= end;
            let all = first <= lowest && end.saturating_sub(1) <= last;
            !none && !all
        })
    }
}

impl fmt::Display for RoutingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ip rule {}", self.priority)?;
        if self.inverted {
            f.write_str(" not")?;
        }
        if let Some(source) = self.source {
            write!(f, " from {source}")?;
        }
        if self.mask != 0 {
            write!(f, " fwmark {:#x}/{:#x}", self.mark, self.mask)?;
        }
        if let Some(interface) = &self.interface {
            write!(f, " iif {interface}")?;
        }
        for (name, ports) in [
            ("sport", self.source_ports),
            ("dport", self.destination_ports),
        ] {
            if let Some((first, last)) = ports {
                write!(f, " {name} {first}-{last}")?;
            }
        }
        if self.unknown {
            f.write_str(" with a selector that this version does not know")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTER: OuterPackets = OuterPackets {
        source: Ipv4Addr::new(192, 0, 2, 1),
        source_ports: (32_768, 60_999),
        port: 8472,
    };

    fn routed(rule: RoutingRule) -> KernelRouted {
        let main = RoutingRule {
            priority: 32_766,
            ..RoutingRule::default()
        };
        KernelRouted::by(Some(&[rule, main]), OUTER)
    }

    #[test]
    fn what_the_programs_ask_with_themselves_leaves_nothing_to_the_kernel() {
        let rules = [
            RoutingRule::default(),
            RoutingRule {
                protocol: Some(UDP),
                destination_ports: Some((8472, 8472)),
                ..RoutingRule::default()
            },
            RoutingRule {
                source: Some("192.0.2.0/24".parse().unwrap()),
                ..RoutingRule::default()
            },
            RoutingRule {
                source_ports: Some((1, 65_535)),
                ..RoutingRule::default()
            },
            RoutingRule {
                source_ports: Some((53, 53)),
                ..RoutingRule::default()
            },
            RoutingRule {
                source_ports: Some((60_999, 65_535)),
                ..RoutingRule::default()
            },
        ];
        for rule in rules {
            assert_eq!(routed(rule.clone()), KernelRouted::default(), "{rule}");
        }
    }

    #[test]
    fn marks_leave_packets_with_their_bits_to_the_kernel() {
        let rule = RoutingRule {
            priority: 100,
            mark: 7,
            mask: 0xff,
            ..RoutingRule::default()
        };
        let found = routed(rule.clone());
        assert_eq!((found.marks, found.all), (0xff, false));
        assert!(found.rules[0].contains("ip rule 100 fwmark 0x7/0xff"));
        // No mark, where the rule asks for none of them.
        let none = RoutingRule {
            mark: 0,
            mask: 0x100,
            ..rule.clone()
        };
        let found = KernelRouted::by(Some(&[rule, none]), OUTER);
        assert_eq!((found.marks, found.rules.len()), (0x1ff, 2));
    }

    #[test]
    fn source_ports_that_are_told_apart_leave_everything_to_the_kernel() {
        for ports in [
            (40_000, 50_000),
            (1, 40_000),
            (60_998, 65_535),
            (32_768, 32_768),
        ] {
            let found = routed(RoutingRule {
                source_ports: Some(ports),
                ..RoutingRule::default()
            });
            assert!(found.all, "{ports:?}");
            assert_eq!(found.rules.len(), 1);
        }
        let unknown = RoutingRule {
            unknown: true,
            ..RoutingRule::default()
        };
        assert!(routed(unknown).all);
        assert!(KernelRouted::by(None, OUTER).all);
    }

    #[test]
    fn rules_for_other_packets_do_not_matter_unless_they_are_inverted() {
        let marked = RoutingRule {
            mark: 1,
            mask: 1,
            ..RoutingRule::default()
        };
        let others = [
            RoutingRule {
                protocol: Some(6),
                ..marked.clone()
            },
            RoutingRule {
                destination_ports: Some((1, 8471)),
                ..marked.clone()
            },
            RoutingRule {
                source: Some("10.244.0.0/16".parse().unwrap()),
                ..marked.clone()
            },
            RoutingRule {
                interface: Some("cni0".to_owned()),
                ..marked
            },
        ];
        for rule in others {
            assert_eq!(routed(rule.clone()), KernelRouted::default(), "{rule}");
            let inverted = RoutingRule {
                inverted: true,
                ..rule
            };
            assert_eq!(routed(inverted.clone()).marks, 1, "{inverted}");
        }
    }
}
