//! Qdiscs and filters, read from the bytes.
//!
//! The decoder of `netlink-packet-route` knows few kinds and fails on what it misunderstands of
//! them. Here a kind that nobody knows is still a kind.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcHandle, TcMessage};
use twill_core::pods::{Filter, Hook, Qdisc};

use super::error::Failure;
use super::message::{Message, attribute};
use super::socket::Socket;

// `include/uapi/linux/rtnetlink.h`: messages of RTNLGRP_TC and what they carry.
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTCLASS: u16 = 40;
const RTM_DELTCLASS: u16 = 41;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_NEWACTION: u16 = 48;
const RTM_DELACTION: u16 = 49;
const RTM_NEWCHAIN: u16 = 100;
const RTM_DELCHAIN: u16 = 101;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
/// `include/uapi/linux/pkt_cls.h`.
const TCA_BPF_NAME: u16 = 7;
/// `struct tcmsg`, bytes.
const TCMSG_BYTES: usize = 20;
/// `include/uapi/linux/pkt_sched.h`: parents of what hangs on a link itself.
const TC_H_ROOT: u32 = 0xffff_ffff;
const TC_H_INGRESS: u32 = 0xffff_fff1;
/// `TCM_IFINDEX_MAGIC_BLOCK`: the filter is in a block that several links share.
const SHARED_BLOCK: u32 = 0xffff_ffff;

/// Somebody changed a qdisc or a filter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Change {
    /// Of this link.
    Of(u32),
    /// Of several links, or it cannot be read of which.
    OfAny,
    /// Something else of traffic control: a class, an action, a chain.
    Other,
}

/// What a notification says about traffic control; `None` where it is about something else.
pub(super) fn change(message: &Message<'_>) -> Option<Change> {
    match message.header.message_type {
        RTM_NEWQDISC | RTM_DELQDISC | RTM_NEWTFILTER | RTM_DELTFILTER => {
            let entry = Entry::read(message.payload);
            let ifindex = entry.map_or(SHARED_BLOCK, |entry| entry.ifindex);
            Some(if ifindex == SHARED_BLOCK {
                Change::OfAny
            } else {
                Change::Of(ifindex)
            })
        }
        RTM_NEWTCLASS | RTM_DELTCLASS | RTM_NEWACTION | RTM_DELACTION | RTM_NEWCHAIN
        | RTM_DELCHAIN => Some(Change::Other),
        _ => None,
    }
}

/// Every qdisc that hangs on a link itself, with the interface index of that link.
pub(super) async fn qdiscs(socket: &mut Socket) -> Result<Vec<(u32, Qdisc)>, Failure> {
    let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    let keep = |message: &Message<'_>| {
        let entry = expect(message, RTM_NEWQDISC)?;
        let qdisc = match entry.parent {
            TC_H_ROOT => Qdisc::Root(entry.kind()),
            TC_H_INGRESS => Qdisc::Ingress(entry.kind()),
            // Inside another.
            _ => return Ok(None),
        };
        Ok(Some((entry.ifindex, qdisc)))
    };
    socket.dump_raw(request, keep).await
}

/// The filters at one hook of a link's clsact qdisc, those of a shared block included. Without
/// the link or the qdisc there are none.
pub(super) async fn filters(
    socket: &mut Socket,
    ifindex: u32,
    hook: Hook,
) -> Result<Vec<Filter>, Failure> {
    let mut message = TcMessage::default();
    message.header.index = i32::from_ne_bytes(ifindex.to_ne_bytes());
    message.header.parent = TcHandle {
        major: TcHandle::CLSACT.major,
        minor: match hook {
            Hook::Ingress => TcHandle::MIN_INGRESS,
            Hook::Egress => TcHandle::MIN_EGRESS,
        },
    };
    let keep = |message: &Message<'_>| {
        let entry = expect(message, RTM_NEWTFILTER)?;
        Ok(Some(entry.filter(hook)))
    };
    socket
        .dump_raw(RouteNetlinkMessage::GetTrafficFilter(message), keep)
        .await
}

fn expect<'a>(message: &Message<'a>, kind: u16) -> Result<Entry<'a>, Failure> {
    Entry::read(message.payload)
        .filter(|_| message.header.message_type == kind)
        .ok_or_else(|| Failure::Undecodable {
            why: format!(
                "message type {} of {} bytes in a dump of type {kind}",
                message.header.message_type,
                message.payload.len()
            ),
        })
}

/// `struct tcmsg` and what follows.
struct Entry<'a> {
    ifindex: u32,
    handle: u32,
    parent: u32,
    info: u32,
    attributes: &'a [u8],
}

impl<'a> Entry<'a> {
    fn read(payload: &'a [u8]) -> Option<Self> {
        let (header, attributes) = payload.split_first_chunk::<TCMSG_BYTES>()?;
        let word = |place: usize| {
            let bytes = header.get(place..)?.first_chunk()?;
            Some(u32::from_ne_bytes(*bytes))
        };
        Some(Self {
            ifindex: word(4)?,
            handle: word(8)?,
            parent: word(12)?,
            info: word(16)?,
            attributes,
        })
    }

    /// Empty where it cannot be read: no kind that anybody trusts.
    fn kind(&self) -> String {
        attribute(self.attributes, TCA_KIND)
            .map(text)
            .unwrap_or_default()
    }

    fn filter(&self, hook: Hook) -> Filter {
        let kind = self.kind();
        let name = || attribute(attribute(self.attributes, TCA_OPTIONS)?, TCA_BPF_NAME);
        let program = if kind == "bpf" {
            name().map(text)
        } else {
            None
        };
        Filter {
            hook,
            // The lower half is the protocol.
            priority: u16::try_from(self.info >> 16).unwrap_or(u16::MAX),
            handle: self.handle,
            kind,
            program,
        }
    }
}

/// A string that ends with a NUL.
fn text(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// A filter of interface 7, at priority 50 with handle 1, for all protocols.
    fn filter(attributes: &[Vec<u8>]) -> Vec<u8> {
        let words = [0, 7, 1, 0xffff_fff2, 50 << 16 | 0x0300_u32];
        let mut bytes = words.map(u32::to_ne_bytes).concat();
        bytes.extend(attributes.concat());
        bytes
    }

    fn read(payload: &[u8]) -> Option<(u32, Filter)> {
        Entry::read(payload).map(|entry| (entry.ifindex, entry.filter(Hook::Ingress)))
    }

    #[test]
    fn what_is_cut_off_is_of_no_trusted_kind() {
        let kind = attribute(TCA_KIND, b"bpf\0");
        let name = attribute(TCA_BPF_NAME, b"from_pod\0");
        let whole = filter(&[kind.clone(), attribute(TCA_OPTIONS, &name)]);
        let expected = |kind: &str, program: Option<&str>| {
            let filter = Filter {
                hook: Hook::Ingress,
                priority: 50,
                handle: 1,
                kind: kind.to_owned(),
                program: program.map(str::to_owned),
            };
            Some((7, filter))
        };
        for end in 0..=whole.len() {
            let expected = match end {
                0..TCMSG_BYTES => None,
                _ if end < TCMSG_BYTES + kind.len() => expected("", None),
                _ if end < whole.len() => expected("bpf", None),
                _ => expected("bpf", Some("from_pod")),
            };
            assert_eq!(read(&whole[..end]), expected, "{end} bytes");
        }
        // Options of another kind mean something else.
        let other = filter(&[attribute(TCA_KIND, b"u32\0"), attribute(TCA_OPTIONS, &name)]);
        assert_eq!(read(&other), expected("u32", None));
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let read = read(&bytes);
            prop_assert_eq!(read.is_some(), bytes.len() >= TCMSG_BYTES);
        }
    }
}
