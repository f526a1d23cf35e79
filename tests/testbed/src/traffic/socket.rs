//! Sockets with time limits, opened inside a namespace.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use crate::netns::Namespace;

/// How long one answer may take, however busy the machine: TCP repeats a segment after 12.8 s when
/// it has lost six.
pub(crate) const ANSWER: Duration = Duration::from_secs(15);
/// How often a server looks whether it shall stop.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// Room for what arrives while a busy machine lets nobody read, in bytes: what the socket itself
/// drops would look like a loss of the network.
const DATAGRAM_ROOM: usize = 8 << 20;

/// Listens on every address of the namespace; `accept` returns with `WouldBlock` each tick.
pub(crate) fn listen(namespace: &Namespace, port: u16) -> Result<TcpListener> {
    let listener = namespace
        .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?
        .with_context(|| format!("listen on TCP port {port} in {}", namespace.name()))?;
    // Linux keeps to SO_RCVTIMEO in accept(2) as well; see socket(7).
    let tick = TimeVal::new(0, i64::from(TICK.subsec_micros()));
    setsockopt(&listener, sockopt::ReceiveTimeout, &tick)?;
    Ok(listener)
}

/// A UDP socket on every address of the namespace; `recv` gives up after `timeout`.
pub(crate) fn bind_udp(namespace: &Namespace, port: u16, timeout: Duration) -> Result<UdpSocket> {
    let socket = namespace
        .enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))?
        .with_context(|| format!("bind UDP port {port} in {}", namespace.name()))?;
    socket.set_read_timeout(Some(timeout))?;
    setsockopt(&socket, sockopt::RcvBufForce, &DATAGRAM_ROOM)?;
    Ok(socket)
}

/// Connects from inside the namespace; `patience`: how long that, and each read and write later,
/// may take.
pub(crate) fn connect(
    namespace: &Namespace,
    to: SocketAddrV4,
    patience: Duration,
) -> Result<TcpStream> {
    let stream = namespace
        .enter(|| TcpStream::connect_timeout(&SocketAddr::V4(to), patience))?
        .with_context(|| format!("connect from {} to {to}", namespace.name()))?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

/// Calls again what a signal interrupted: with a time limit on the socket the kernel leaves that to
/// the caller, whatever the handler's flags say; see signal(7).
pub fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// Whether the error only says that the time limit of a read has passed.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_interruption_is_tried_again() {
        let mut left = vec![
            Ok(7),
            Err(ErrorKind::Interrupted),
            Err(ErrorKind::Interrupted),
        ];
        let mut call = || left.pop().unwrap().map_err(io::Error::from);
        assert_eq!(again(&mut call).unwrap(), 7);
        let mut calls = 0;
        let refused = again(|| -> io::Result<()> {
            calls += 1;
            Err(ErrorKind::WouldBlock.into())
        });
        assert!(is_timeout(&refused.unwrap_err()));
        assert_eq!(calls, 1);
    }
}
