//! GSO packets beyond 64 KiB, which `ip` of Debian 12 cannot ask for over IPv4.

use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send,
    socket,
};

use crate::netns::Namespace;

/// `RTM_NEWLINK`, `NLM_F_REQUEST | NLM_F_ACK`, `NLMSG_ERROR`, `IFLA_GSO_IPV4_MAX_SIZE`
/// (`include/uapi/linux/{netlink,rtnetlink,if_link}.h`).
const NEW_LINK: u16 = 16;
const REQUEST_ACK: u16 = 1 | 4;
const ERROR: u16 = 2;
const GSO_IPV4_MAX_SIZE: u16 = 63;

/// Sets how long an IPv4 GSO packet of a link may be, in bytes (Linux 6.3, "BIG TCP").
pub fn set_gso_ipv4_max_size(namespace: &Namespace, link: &str, size: u32) -> Result<()> {
    let index = namespace.link_json(link)?["ifindex"].as_i64();
    let index = i32::try_from(index.with_context(|| format!("{link} has no index"))?)?;
    let message = [
        &40_u32.to_ne_bytes()[..],
        &NEW_LINK.to_ne_bytes(),
        &REQUEST_ACK.to_ne_bytes(),
        // Sequence number and port, then of the link: family, type.
        &[0; 12],
        &index.to_ne_bytes(),
        // Flags and which of them change: none. Then the attribute.
        &[0; 8],
        &8_u16.to_ne_bytes(),
        &GSO_IPV4_MAX_SIZE.to_ne_bytes(),
        &size.to_ne_bytes(),
    ]
    .concat();
    let ask = || -> Result<Vec<u8>> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut answer = vec![0; 256];
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        answer.truncate(length);
        Ok(answer)
    };
    let answer = namespace.enter(ask)??;
    // An "error" of 0 is the acknowledgement.
    let acknowledged =
        answer.get(4..6) == Some(&ERROR.to_ne_bytes()) && answer.get(16..20) == Some(&[0; 4]);
    ensure!(
        acknowledged,
        "the kernel refuses {size} on {link}: {answer:?}"
    );
    Ok(())
}
