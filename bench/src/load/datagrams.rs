//! Datagrams one way, as many as go; those that arrive count, the others are lost.

use std::io::ErrorKind;
use std::net::{SocketAddrV4, UdpSocket};
use std::thread;

use anyhow::{Context, Result};

use super::Ends;
use super::crew::{Crew, Role, Side, Tally, Watch};
use super::sockets::bind;
use crate::case::Unit;

/// Room for the largest datagram of these cases.
const BUFFER: usize = 2048;

pub(super) fn start(crew: &mut Crew, ends: Ends<'_>, bytes: usize) -> Result<()> {
    crew.counts(Unit::Packets);
    crew.is_one_way();
    let (receiver, port) = bind(ends.server)?;
    let (sender, _) = bind(ends.client)?;
    sender.connect(SocketAddrV4::new(ends.to, port))?;
    crew.keep(Side::Server, &receiver)?;
    crew.start(Side::Server, Role::Measured, move |watch| {
        receive(&receiver, watch)
    });
    crew.start(Side::Client, Role::Beside, move |watch| {
        send(&sender, &vec![0x5a; bytes], watch)
    });
    Ok(())
}

fn send(socket: &UdpSocket, datagram: &[u8], watch: &Watch) -> Result<Tally> {
    let mut tally = Tally::default();
    while !watch.is_stopping() {
        match socket.send(datagram) {
            Ok(_) => tally.sent += 1,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("send a datagram"),
        }
    }
    Ok(tally)
}

fn receive(socket: &UdpSocket, watch: &Watch) -> Result<Tally> {
    let mut buffer = [0; BUFFER];
    socket.set_nonblocking(true)?;
    loop {
        match socket.recv(&mut buffer) {
            // Woken for the end; no datagram here is empty.
            Ok(0) => return Ok(Tally::default()),
            Ok(_) => watch.count(1),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && !watch.is_stopping() => {
                // A receiver that sleeps costs the sender a wake-up for each datagram, the more the
                // faster the way is; one that only spins costs others their CPU.
                thread::yield_now();
            }
            Err(_) if watch.is_stopping() => return Ok(Tally::default()),
            Err(error) => return Err(error).context("receive a datagram"),
        }
    }
}
