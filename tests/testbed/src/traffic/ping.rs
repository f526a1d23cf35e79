//! ICMP echo by the kernel's ping sockets (icmp(7)): it keeps identifier and checksum.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::pattern;
use super::socket::again;
use crate::netns::Namespace;

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(2);
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
/// Type, code, checksum, identifier, sequence number.
const HEADER: usize = 8;

/// Sends one echo request with `payload` bytes to `to` and gives the time until the answer;
/// an answer with other contents, or none, is an error.
pub fn ping(from: &Namespace, to: Ipv4Addr, payload: usize) -> Result<Duration> {
    // Who may open such sockets is a range of groups, by default nobody.
    from.set_sysctl("net.ipv4.ping_group_range", "0 2147483647")?;
    let echo = || -> Result<Duration> {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::Icmp,
        )?;
        let socket = UdpSocket::from(socket);
        socket.connect(SocketAddrV4::new(to, 0))?;
        socket.set_read_timeout(Some(ANSWER))?;
        exchange(&socket, payload)
    };
    from.enter(echo)?
        .with_context(|| format!("ping {to} from {}", from.name()))
}

fn exchange(socket: &UdpSocket, payload: usize) -> Result<Duration> {
    let mut request = vec![ECHO_REQUEST, 0, 0, 0, 0, 0, 0, 1];
    request.extend(pattern::bytes(0, payload));
    let start = Instant::now();
    socket.send(&request).context("send the request")?;
    let mut buffer = vec![0; request.len() + 1];
    let length = again(|| socket.recv(&mut buffer)).context("no answer")?;
    let took = start.elapsed();
    let answer = buffer.get(..length).unwrap_or_default();
    match answer.split_at_checked(HEADER) {
        Some((&[ECHO_REPLY, 0, ..], contents)) if contents.len() == payload => {
            pattern::check(0, contents)?;
            Ok(took)
        }
        _ => bail!("answered with {length} bytes of something else"),
    }
}
