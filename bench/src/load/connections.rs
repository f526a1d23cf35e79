//! A TCP connection for each request: connect, a request and its answer, close.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use twill_testbed::traffic::again;

use super::Ends;
use super::crew::{Crew, Role, Side, Tally, Watch};
use super::place::Door;
use super::sockets::listen;
use crate::case::Unit;

/// How long each step of a connection may take before it counts as lost. A SYN that was lost
/// is sent again after a second, and then counts with its time.
const PATIENCE_MS: i64 = 1200;

pub(super) fn start(crew: &mut Crew, ends: Ends<'_>) -> Result<()> {
    crew.counts(Unit::Connections);
    let (listener, port) = listen(ends.server)?;
    crew.keep(Side::Server, &listener)?;
    crew.start(Side::Server, Role::Beside, move |watch| {
        serve(&listener, watch)
    });
    let to = SocketAddrV4::new(ends.to, port);
    let door = ends.client.door()?;
    crew.start(Side::Client, Role::Measured, move |watch| {
        ask(&door, to, watch)
    });
    Ok(())
}

fn ask(door: &Door, to: SocketAddrV4, watch: &Watch) -> Result<Tally> {
    door.enter()?;
    let mut tally = Tally::default();
    let mut failure = None;
    while !watch.is_stopping() {
        let began = Instant::now();
        tally.sent += 1;
        match once(to) {
            Ok(()) => {
                watch.count(1);
                if watch.is_measuring() {
                    tally.times.add(began.elapsed());
                }
            }
            Err(error) => {
                tally.lost += 1;
                failure = Some(error);
            }
        }
    }
    match failure {
        Some(error) if tally.lost == tally.sent => {
            Err(error).with_context(|| format!("connect to {to}"))
        }
        _ => Ok(tally),
    }
}

fn once(to: SocketAddrV4) -> Result<()> {
    let patience = TimeVal::milliseconds(PATIENCE_MS);
    let socket = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // The first holds for connect(2) too; see socket(7).
    setsockopt(&socket, sockopt::SendTimeout, &patience)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
    // One that was interrupted goes on, and the next call waits for it.
    let to = SockaddrIn::from(to);
    again(|| Ok(connect(socket.as_raw_fd(), &to)?))?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(&[1])?;
    stream.read_exact(&mut [0])?;
    Ok(())
}

fn serve(listener: &TcpListener, watch: &Watch) -> Result<Tally> {
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                // What goes wrong here the client notices.
                let mut byte = [0];
                let answered = stream
                    .set_read_timeout(Some(Duration::from_millis(PATIENCE_MS.cast_unsigned())))
                    .and_then(|()| stream.read_exact(&mut byte))
                    .and_then(|()| stream.write_all(&byte));
                if answered.is_ok() {
                    // The client closes first, so that TIME_WAIT stays on its side.
                    drop(stream.read(&mut byte));
                }
            }
            Err(_) if watch.is_stopping() => return Ok(Tally::default()),
            Err(error) => return Err(error).context("accept a connection"),
        }
    }
}
