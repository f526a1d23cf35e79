//! Opening sockets in a place.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};

use super::place::Place;

/// How long a first connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// Room for what a reader that is off its CPU for a moment has not read yet, bytes.
const RECEIVE_BYTES: usize = 32 << 20;

/// A listener on every address and a free port: a new one each time, so that connections
/// that linger in `TIME_WAIT` are never in the way.
pub(super) fn listen(place: Place<'_>) -> Result<(TcpListener, u16)> {
    let listener = place
        .within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))?
        .context("listen on TCP")?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// A connection that sends small writes at once.
pub(super) fn connect(place: Place<'_>, to: SocketAddrV4) -> Result<TcpStream> {
    let stream = place
        .within(|| TcpStream::connect_timeout(&SocketAddr::V4(to), CONNECT))?
        .with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A UDP socket on every address and a free port, with room to receive.
pub(super) fn bind(place: Place<'_>) -> Result<(UdpSocket, u16)> {
    let socket = place
        .within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?
        .context("bind a UDP port")?;
    // Past the machine's limit for anybody; without the right to, up to that limit.
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BYTES).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BYTES)?;
    }
    let port = socket.local_addr()?.port();
    Ok((socket, port))
}
