//! Routing rules of IPv4, read from the bytes: what a rule is for, nobody may misunderstand, and
//! a selector that nobody knows is still one.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use netlink_packet_core::NlasIterator;
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use twill_core::routing_rules::RoutingRule;

use super::Netlink;
use super::error::{Error, Failure};
use super::message::Message;

// `include/uapi/linux/rtnetlink.h`, and `fib_rules.h` beside it.
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_FWMASK: u16 = 16;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const FRA_DPORT_RANGE: u16 = 24;
const FRA_SPORT_MASK: u16 = 28;
/// `FRA_DSCP_MASK`, the last that is known; our outer packets have neither DSCP nor flow label.
const FRA_LAST: u16 = 30;
/// `FIB_RULE_INVERT`.
const INVERT: u32 = 2;
/// `struct fib_rule_hdr`, bytes, and where in it the length of `from` and the flags are.
const HEADER_BYTES: usize = 12;
const SOURCE_LENGTH: usize = 2;
const FLAGS: usize = 8;

impl Netlink {
    /// The routing rules of IPv4; none where the kernel knows none.
    pub async fn routing_rules(&self) -> Result<Vec<RoutingRule>, Error> {
        let socket = &mut *self.0.socket.lock().await;
        let mut request = RuleMessage::default();
        request.header.family = AddressFamily::Inet;
        let keep = |message: &Message<'_>| {
            Ok((message.header.message_type == RTM_NEWRULE).then(|| read(message.payload)))
        };
        match socket
            .dump_raw(RouteNetlinkMessage::GetRule(request), keep)
            .await
        {
            Ok(rules) => Ok(rules),
            Err(Failure::Refused {
                errno: Errno::EOPNOTSUPP,
                ..
            }) => Ok(Vec::new()),
            Err(source) => Err(Error::RoutingRules { source }),
        }
    }
}

/// Whether a notification is about a routing rule.
pub(super) fn is_change(message: &Message<'_>) -> bool {
    matches!(message.header.message_type, RTM_NEWRULE | RTM_DELRULE)
}

/// What a rule is for; one that cannot be read has an unknown selector.
pub(super) fn read(payload: &[u8]) -> RoutingRule {
    whole(payload).unwrap_or(RoutingRule {
        unknown: true,
        ..RoutingRule::default()
    })
}

fn whole(payload: &[u8]) -> Option<RoutingRule> {
    let header = payload.get(..HEADER_BYTES)?;
    let flags = header.get(FLAGS..)?.first_chunk()?;
    let mut rule = RoutingRule {
        inverted: u32::from_ne_bytes(*flags) & INVERT != 0,
        ..RoutingRule::default()
    };
    for attribute in NlasIterator::new(payload.get(HEADER_BYTES..)?) {
        let attribute = attribute.ok()?;
        let value = attribute.value();
        match attribute.kind() {
            FRA_SRC => {
                let address = Ipv4Addr::from(*value.first_chunk::<4>()?);
                let length = *header.get(SOURCE_LENGTH)?;
                rule.source = Some(Ipv4Network::new(address, length).ok()?);
            }
            FRA_IIFNAME => {
                let name = value.split(|byte| *byte == 0).next()?;
                rule.interface = Some(String::from_utf8_lossy(name).into_owned());
            }
            FRA_PRIORITY => rule.priority = word(value)?,
            FRA_FWMARK => rule.mark = word(value)?,
            FRA_FWMASK => rule.mask = word(value)?,
            FRA_IP_PROTO => rule.protocol = Some(*value.first()?),
            FRA_SPORT_RANGE => rule.source_ports = Some(range(value)?),
            FRA_DPORT_RANGE => rule.destination_ports = Some(range(value)?),
            FRA_SPORT_MASK => {
                // The kernel says it of every range; all ones mean the range alone.
                rule.unknown |= value.first_chunk() != Some(&[0xff, 0xff]);
            }
            kind => rule.unknown |= kind > FRA_LAST,
        }
    }
    Some(rule)
}

fn word(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*value.first_chunk()?))
}

/// `struct fib_rule_port_range`.
fn range(value: &[u8]) -> Option<(u16, u16)> {
    let [a, b, c, d] = *value.first_chunk()?;
    Some((u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn rule(source_length: u8, flags: u32, attributes: &[Vec<u8>]) -> RoutingRule {
        let mut payload = vec![2, 0, source_length, 0, 254, 0, 0, 1];
        payload.extend(flags.to_ne_bytes());
        payload.extend(attributes.concat());
        read(&payload)
    }

    #[test]
    fn every_selector_arrives() {
        let ports = |first: u16, last: u16| [first.to_ne_bytes(), last.to_ne_bytes()].concat();
        let found = rule(
            24,
            INVERT,
            &[
                attribute(FRA_PRIORITY, &100_u32.to_ne_bytes()),
                attribute(FRA_SRC, &[192, 0, 2, 0]),
                attribute(FRA_IIFNAME, b"lo\0"),
                attribute(FRA_FWMARK, &7_u32.to_ne_bytes()),
                attribute(FRA_FWMASK, &255_u32.to_ne_bytes()),
                attribute(FRA_IP_PROTO, &[17]),
                attribute(FRA_SPORT_RANGE, &ports(1, 2)),
                attribute(FRA_SPORT_MASK, &[0xff, 0xff]),
                attribute(FRA_DPORT_RANGE, &ports(3, 4)),
            ],
        );
        let wanted = RoutingRule {
            priority: 100,
            inverted: true,
            source: Some("192.0.2.0/24".parse().unwrap()),
            interface: Some("lo".to_owned()),
            protocol: Some(17),
            mark: 7,
            mask: 255,
            source_ports: Some((1, 2)),
            destination_ports: Some((3, 4)),
            unknown: false,
        };
        assert_eq!(found, wanted);
    }

    #[test]
    fn what_cannot_be_understood_is_an_unknown_selector() {
        for attributes in [
            vec![attribute(FRA_LAST + 1, &[1])],
            vec![attribute(FRA_SPORT_MASK, &[0, 1])],
            vec![attribute(FRA_FWMARK, &[1])],
            vec![attribute(FRA_SRC, &[1])],
            vec![vec![3, 0, 0, 0]],
        ] {
            assert!(rule(24, 0, &attributes).unknown, "{attributes:?}");
        }
        assert!(read(&[2; 11]).unknown);
        assert_eq!(rule(0, 0, &[]), RoutingRule::default());
    }
}
