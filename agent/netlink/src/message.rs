//! One message of a datagram: where it ends, what it says, what went wrong.

use netlink_packet_core::{
    NLM_F_ACK_TLVS, NLM_F_CAPPED, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkDeserializable,
    NetlinkHeader, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;

use super::error::Failure;

/// `struct nlmsghdr`, bytes.
const HEADER_BYTES: usize = 16;
/// `NLMSGERR_ATTR_MSG`, `include/uapi/linux/netlink.h`: the kernel's own words.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A message whose header has been read and whose payload has not.
pub(super) struct Message<'a> {
    pub(super) header: NetlinkHeader,
    /// What follows the header.
    pub(super) payload: &'a [u8],
}

/// The messages of a datagram; ends after the first that is cut off.
pub(super) fn split(datagram: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Failure>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let buffer = match NetlinkBuffer::new_checked(rest) {
            Ok(buffer) => buffer,
            Err(error) => {
                rest = &[];
                return Some(Err(Failure::Undecodable {
                    why: error.to_string(),
                }));
            }
        };
        let mut header = NetlinkHeader::default();
        header.length = buffer.length();
        header.message_type = buffer.message_type();
        header.flags = buffer.flags();
        header.sequence_number = buffer.sequence_number();
        header.port_number = buffer.port_number();
        // `new_checked` has compared the length with the header's and the datagram's.
        let length = header.length as usize;
        let payload = rest.get(HEADER_BYTES..length).unwrap_or_default();
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Message { header, payload }))
    })
}

/// The value of the first attribute of that type, among as many as are whole.
pub(super) fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let attribute = NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == kind)?;
    // The length has been compared with what there is; it counts type and length too.
    let length = usize::from(attribute.length());
    attribute.into_inner().get(4..length)
}

impl Message<'_> {
    /// The typed message.
    pub(super) fn decode(&self) -> Result<RouteNetlinkMessage, Failure> {
        RouteNetlinkMessage::deserialize(&self.header, self.payload).map_err(|error| {
            Failure::Undecodable {
                why: error.to_string(),
            }
        })
    }

    /// What an acknowledgement, an error or the end of a dump says; `Ok` for anything else.
    pub(super) fn end(&self) -> Result<(), Failure> {
        if !matches!(self.header.message_type, NLMSG_ERROR | NLMSG_DONE) {
            return Ok(());
        }
        // An end of a dump without a code is a good one.
        let code = self
            .payload
            .first_chunk()
            .map_or(0, |code| i32::from_ne_bytes(*code));
        if code == 0 {
            return Ok(());
        }
        Err(Failure::Refused {
            errno: Errno::from_raw(code.wrapping_neg()),
            detail: self.detail().unwrap_or_default(),
        })
    }

    /// The kernel's own words on an error, if it sent any.
    fn detail(&self) -> Option<String> {
        if self.header.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let after_code = self.payload.get(4..)?;
        let attributes = if self.header.message_type == NLMSG_DONE {
            after_code
        } else if self.header.flags & NLM_F_CAPPED != 0 {
            after_code.get(HEADER_BYTES..)?
        } else {
            // The whole request is quoted; its length comes first.
            let length = u32::from_ne_bytes(*after_code.first_chunk()?) as usize;
            after_code.get(length.next_multiple_of(4)..)?
        };
        let text = NlasIterator::new(attributes)
            .filter_map(Result::ok)
            .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)?;
        let text = text.value().strip_suffix(&[0]).unwrap_or(text.value());
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One message: header, then payload.
    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_BYTES + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([7, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn an_error_carries_the_kernels_words() {
        let mut payload = (-17i32).to_ne_bytes().to_vec();
        payload.extend(message(16, 0, &[]));
        payload.extend([9, 0, 1, 0]);
        payload.extend(b"none\0\0\0\0");
        let datagram = message(NLMSG_ERROR, NLM_F_ACK_TLVS | NLM_F_CAPPED, &payload);
        let messages: Vec<_> = split(&datagram).collect::<Result<_, _>>().unwrap();
        let [only] = &messages[..] else {
            panic!("one message")
        };
        assert_eq!(
            only.end(),
            Err(Failure::Refused {
                errno: Errno::EEXIST,
                detail: "none".to_owned()
            })
        );
    }

    #[test]
    fn every_prefix_of_a_datagram_is_whole_messages_or_an_error() {
        let one = message(NLMSG_ERROR, 0, &[0; 20]);
        let two = [one.clone(), one.clone()].concat();
        for end in 0..=two.len() {
            let split: Vec<_> = split(&two[..end]).collect();
            let whole = split.iter().filter(|message| message.is_ok()).count();
            assert_eq!(whole, end / one.len(), "prefix of {end} bytes");
            assert_eq!(
                split.len() - whole,
                usize::from(end % one.len() != 0),
                "{end} bytes"
            );
        }
    }

    #[test]
    fn a_dump_that_ends_with_an_error_is_an_error() {
        let datagram = message(NLMSG_DONE, 0, &(-12i32).to_ne_bytes());
        let message = split(&datagram).next().unwrap().unwrap();
        assert_eq!(
            message.end(),
            Err(Failure::Refused {
                errno: Errno::ENOMEM,
                detail: String::new()
            })
        );
    }
}
