//! Requests and answers over connections or flows that stay, one under way in each.
//!
//! A request is eight bytes, its number: an answer that comes after it was given up for
//! lost is no answer to the next one.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, SockaddrIn, recvfrom, sendto};

use super::Ends;
use super::crew::{Crew, Role, Side, Tally, Watch, threads_for};
use super::sockets::{bind, connect, listen};
use crate::case::Unit;

const REQUEST: usize = 8;
/// A request that is not answered by then is lost. No network namespace is that slow.
const PATIENCE: Duration = Duration::from_millis(200);
const PATIENCE_MS: u16 = 200;

/// A flow's socket, TCP or UDP.
trait Channel: AsFd + Send + 'static {
    fn send(&self, bytes: &[u8]) -> io::Result<usize>;
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize>;
    fn make_nonblocking(&self) -> io::Result<()>;
}

impl Channel for TcpStream {
    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }

    fn make_nonblocking(&self) -> io::Result<()> {
        self.set_nonblocking(true)
    }
}

impl Channel for UdpSocket {
    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        Self::send(self, bytes)
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.recv(buffer)
    }

    fn make_nonblocking(&self) -> io::Result<()> {
        self.set_nonblocking(true)
    }
}

pub(super) fn start_tcp(crew: &mut Crew, ends: Ends<'_>, flows: usize) -> Result<()> {
    crew.counts(Unit::Transactions);
    let (listener, port) = listen(ends.server)?;
    let (mut clients, mut servers) = (Vec::new(), Vec::new());
    for _ in 0..flows {
        clients.push(connect(ends.client, SocketAddrV4::new(ends.to, port))?);
        let (stream, _) = listener.accept().context("accept a connection")?;
        stream.set_nodelay(true)?;
        servers.push(stream);
    }
    for share in shares(servers) {
        for stream in &share {
            crew.keep(Side::Server, stream)?;
        }
        crew.start(Side::Server, Role::Beside, move |watch| {
            answer_streams(&share, watch)
        });
    }
    start_clients(crew, clients)
}

pub(super) fn start_udp(crew: &mut Crew, ends: Ends<'_>, flows: usize) -> Result<()> {
    crew.counts(Unit::Transactions);
    let mut ports = Vec::new();
    for _ in 0..threads_for(flows) {
        let (socket, port) = bind(ends.server)?;
        crew.keep(Side::Server, &socket)?;
        crew.start(Side::Server, Role::Beside, move |watch| {
            answer_datagrams(&socket, watch)
        });
        ports.push(port);
    }
    let mut clients = Vec::new();
    for &port in ports.iter().cycle().take(flows) {
        let (socket, _) = bind(ends.client)?;
        socket.connect(SocketAddrV4::new(ends.to, port))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        clients.push(socket);
    }
    start_clients(crew, clients)
}

fn start_clients<C: Channel>(crew: &mut Crew, clients: Vec<C>) -> Result<()> {
    for mut share in shares(clients) {
        for channel in &share {
            crew.keep(Side::Client, channel)?;
        }
        crew.start(Side::Client, Role::Measured, move |watch| {
            match (share.pop(), share.is_empty()) {
                (Some(channel), true) => ask_one(&channel, watch),
                (last, _) => {
                    share.extend(last);
                    ask_many(&share, watch)
                }
            }
        });
    }
    Ok(())
}

/// The flows of each thread.
fn shares<C>(flows: Vec<C>) -> Vec<Vec<C>> {
    let threads = threads_for(flows.len());
    let mut shares: Vec<Vec<C>> = (0..threads).map(|_| Vec::new()).collect();
    for (index, flow) in flows.into_iter().enumerate() {
        if let Some(share) = shares.get_mut(index % threads) {
            share.push(flow);
        }
    }
    shares
}

/// One flow: the thread waits in the socket itself.
fn ask_one(channel: &impl Channel, watch: &Watch) -> Result<Tally> {
    let mut tally = Tally::default();
    while !watch.is_stopping() {
        let began = Instant::now();
        let number = tally.sent;
        tally.sent += 1;
        channel
            .send(&number.to_ne_bytes())
            .context("send a request")?;
        match await_answer(channel, number)? {
            Answer::Came => {
                watch.count(1);
                if watch.is_measuring() {
                    tally.times.add(began.elapsed());
                }
            }
            Answer::Lost => tally.lost += 1,
        }
    }
    Ok(tally)
}

enum Answer {
    Came,
    Lost,
}

fn await_answer(channel: &impl Channel, number: u64) -> Result<Answer> {
    loop {
        let mut buffer = [0; REQUEST];
        match channel.receive(&mut buffer) {
            Ok(REQUEST) if u64::from_ne_bytes(buffer) == number => return Ok(Answer::Came),
            // To an earlier request, given up for lost.
            Ok(REQUEST) => {}
            Ok(0) => bail!("no answer any more"),
            Ok(length) => bail!("an answer of {length} bytes"),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Answer::Lost),
            Err(error) => return Err(error).context("receive an answer"),
        }
    }
}

/// A request that is under way in one of many flows.
struct Pending {
    number: u64,
    since: Instant,
}

/// Many flows: the thread waits for whichever is answered next.
fn ask_many<C: Channel>(channels: &[C], watch: &Watch) -> Result<Tally> {
    let epoll = watch_all(channels)?;
    let mut tally = Tally::default();
    let mut pending = Vec::new();
    for channel in channels {
        pending.push(ask(channel, &mut tally)?);
    }
    let mut events = vec![EpollEvent::empty(); channels.len()];
    let mut looked = Instant::now();
    while !watch.is_stopping() {
        for channel in ready(&epoll, &mut events)? {
            let (Some(socket), Some(waiting)) = (channels.get(channel), pending.get_mut(channel))
            else {
                bail!("epoll tells of a flow {channel} that is not there");
            };
            if !take_answer(socket, waiting.number)? {
                continue;
            }
            watch.count(1);
            if watch.is_measuring() {
                tally.times.add(waiting.since.elapsed());
            }
            *waiting = ask(socket, &mut tally)?;
        }
        if looked.elapsed() >= PATIENCE {
            looked = Instant::now();
            for (socket, waiting) in channels.iter().zip(&mut pending) {
                if waiting.since.elapsed() >= PATIENCE {
                    tally.lost += 1;
                    *waiting = ask(socket, &mut tally)?;
                }
            }
        }
    }
    Ok(tally)
}

fn watch_all(channels: &[impl Channel]) -> Result<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("make an epoll")?;
    for (index, channel) in channels.iter().enumerate() {
        channel.make_nonblocking()?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
        epoll.add(channel, event).context("watch a socket")?;
    }
    Ok(epoll)
}

/// Flows that have something to read, after a wait of at most [`PATIENCE`].
fn ready<'a>(
    epoll: &Epoll,
    events: &'a mut [EpollEvent],
) -> Result<impl Iterator<Item = usize> + use<'a>> {
    let count = match epoll.wait(events, EpollTimeout::from(PATIENCE_MS)) {
        Ok(count) => count,
        Err(Errno::EINTR) => 0,
        Err(error) => return Err(error).context("wait for answers"),
    };
    let events = events.iter().take(count);
    Ok(events.map(|event| usize::try_from(event.data()).unwrap_or(usize::MAX)))
}

fn ask(channel: &impl Channel, tally: &mut Tally) -> Result<Pending> {
    let (number, since) = (tally.sent, Instant::now());
    tally.sent += 1;
    channel
        .send(&number.to_ne_bytes())
        .context("send a request")?;
    Ok(Pending { number, since })
}

/// Whether the answer to this request came; an earlier one's is thrown away.
fn take_answer(channel: &impl Channel, number: u64) -> Result<bool> {
    let mut buffer = [0; REQUEST];
    match channel.receive(&mut buffer) {
        Ok(REQUEST) => Ok(u64::from_ne_bytes(buffer) == number),
        Ok(0) => bail!("no answer any more"),
        Ok(length) => bail!("an answer of {length} bytes"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error).context("receive an answer"),
    }
}

fn answer_streams(streams: &[TcpStream], watch: &Watch) -> Result<Tally> {
    if let [stream] = streams {
        while echo(stream, watch)? {}
        return Ok(Tally::default());
    }
    let epoll = watch_all(streams)?;
    let mut events = vec![EpollEvent::empty(); streams.len()];
    while !watch.is_stopping() {
        for index in ready(&epoll, &mut events)? {
            if let Some(stream) = streams.get(index) {
                echo(stream, watch)?;
            }
        }
    }
    Ok(Tally::default())
}

/// Sends back what came; says whether there may be more.
fn echo(stream: &TcpStream, watch: &Watch) -> Result<bool> {
    let mut buffer = [0; REQUEST];
    match stream.receive(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(length) => {
            let (sent, _) = buffer.split_at(length);
            match Channel::send(stream, sent) {
                Err(error) if !watch.is_stopping() => Err(error).context("answer"),
                Ok(_) | Err(_) => Ok(true),
            }
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(true)
        }
        Err(_) if watch.is_stopping() => Ok(false),
        Err(error) => Err(error).context("read a request"),
    }
}

fn answer_datagrams(socket: &UdpSocket, watch: &Watch) -> Result<Tally> {
    let fd = socket.as_raw_fd();
    let mut buffer = [0; REQUEST];
    loop {
        // Not by the standard library, which panics where a socket that was shut down tells
        // of no sender.
        match recvfrom::<SockaddrIn>(fd, &mut buffer) {
            Ok((length, Some(from))) => {
                let (sent, _) = buffer.split_at(length.min(REQUEST));
                match sendto(fd, sent, &from, MsgFlags::empty()) {
                    // An answer that cannot be sent is lost, and the client counts it.
                    Ok(_) | Err(_) => {}
                }
            }
            // Woken for the end.
            Ok((_, None)) => return Ok(Tally::default()),
            Err(Errno::EINTR) => {}
            Err(_) if watch.is_stopping() => return Ok(Tally::default()),
            Err(error) => return Err(error).context("receive a request"),
        }
    }
}
