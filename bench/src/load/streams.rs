//! TCP streams from client to server; what the server has read counts.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};

use anyhow::{Context, Result};

use super::Ends;
use super::crew::{Crew, Role, Side, Tally, Watch, close};
use super::sockets::{connect, listen};
use crate::case::Unit;

/// Bytes of one write and of one read: iperf3's default.
const CHUNK: usize = 128 << 10;

pub(super) fn start(crew: &mut Crew, ends: Ends<'_>, flows: usize, role: Role) -> Result<()> {
    if role == Role::Measured {
        crew.counts(Unit::Bits);
    }
    let (listener, port) = listen(ends.server)?;
    for _ in 0..flows {
        let writer = connect(ends.client, SocketAddrV4::new(ends.to, port))?;
        let (reader, _) = listener.accept().context("accept a stream")?;
        crew.keep(Side::Client, &writer)?;
        crew.keep(Side::Server, &reader)?;
        crew.start(Side::Server, role, move |watch| read(reader, watch));
        crew.start(Side::Client, Role::Beside, move |watch| {
            write(writer, watch)
        });
    }
    Ok(())
}

fn write(mut stream: TcpStream, watch: &Watch) -> Result<Tally> {
    let chunk = vec![0x5a; CHUNK];
    let mut tally = Tally::default();
    while !watch.is_stopping() {
        match stream.write_all(&chunk) {
            Ok(()) => tally.sent += 1,
            // It waited for a slow reader when it was told to stop, and was hung up.
            Err(_) if watch.is_stopping() => break,
            Err(error) => return Err(error).context("write to a stream"),
        }
    }
    close(&stream);
    // A background stream's writes are no requests; those of a measured one tell that it ran.
    Ok(tally)
}

fn read(mut stream: TcpStream, watch: &Watch) -> Result<Tally> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(Tally::default()),
            Ok(length) => watch.count(length as u64),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // What the writer had sent when it was told to stop.
            Err(_) if watch.is_stopping() => return Ok(Tally::default()),
            Err(error) => return Err(error).context("read from a stream"),
        }
    }
}
