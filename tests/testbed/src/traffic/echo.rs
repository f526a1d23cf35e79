//! A server that sends back what it gets, over TCP and UDP, and clients that check it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};

use super::pattern;
use super::socket::{ANSWER, TICK, again, bind_udp, connect, is_timeout, listen};
use crate::netns::Namespace;

/// The port that echo servers of the tests listen on.
pub const ECHO_PORT: u16 = 7007;
/// Largest payload of a UDP datagram over IPv4.
const LARGEST_DATAGRAM: usize = 65_535 - 20 - 8;

/// An echo server in a namespace, for TCP and UDP on the same port, until dropped.
#[derive(Debug)]
pub struct EchoServer {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl EchoServer {
    /// Starts one on [`ECHO_PORT`].
    pub fn start(namespace: &Namespace) -> Result<Self> {
        Self::start_on(namespace, ECHO_PORT)
    }

    /// Starts one on this port.
    pub fn start_on(namespace: &Namespace, port: u16) -> Result<Self> {
        let listener = listen(namespace, port)?;
        let datagrams = bind_udp(namespace, port, TICK)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (tcp, udp) = (Arc::clone(&stop), Arc::clone(&stop));
        Ok(Self {
            stop,
            threads: vec![
                thread::spawn(move || serve_tcp(&listener, &tcp)),
                thread::spawn(move || serve_udp(&datagrams, &udp)),
            ],
        })
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A server thread that panicked has told so itself; clients saw no answer.
            drop(thread.join());
        }
    }
}

/// Sends `length` bytes over a new connection, closes that direction, and checks that
/// the same bytes, and no others, come back.
pub fn tcp_echo(from: &Namespace, to: Ipv4Addr, length: usize) -> Result<()> {
    tcp_echo_on(from, SocketAddrV4::new(to, ECHO_PORT), length)
}

/// [`tcp_echo`] to another port.
pub fn tcp_echo_on(from: &Namespace, to: SocketAddrV4, length: usize) -> Result<()> {
    exchange(connect(from, to, ANSWER)?, length)
        .with_context(|| format!("TCP echo of {length} bytes from {} to {to}", from.name()))
}

/// Sends `length` bytes, closes that direction, and checks what comes back.
pub(super) fn exchange(mut stream: TcpStream, length: usize) -> Result<()> {
    let mut writer = stream.try_clone()?;
    thread::scope(|scope| {
        let writing = scope.spawn(move || {
            writer.write_all(&pattern::bytes(0, length))?;
            writer.shutdown(Shutdown::Write)
        });
        let mut received = Vec::with_capacity(length);
        stream.read_to_end(&mut received).context("read the echo")?;
        match writing.join() {
            Ok(written) => written.context("write")?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        if received.len() != length {
            bail!("sent {length} bytes, {} came back", received.len());
        }
        pattern::check(0, &received)
    })
}

/// Sends one datagram of `length` bytes and checks that it comes back unchanged.
pub fn udp_echo(from: &Namespace, to: Ipv4Addr, length: usize) -> Result<()> {
    let exchange = || -> Result<()> {
        let socket = bind_udp(from, 0, ANSWER)?;
        socket.connect(SocketAddrV4::new(to, ECHO_PORT))?;
        socket.send(&pattern::bytes(0, length))?;
        let mut buffer = vec![0; LARGEST_DATAGRAM];
        let received = again(|| socket.recv(&mut buffer)).context("no answer")?;
        if received != length {
            bail!("sent {length} bytes, {received} came back");
        }
        pattern::check(0, &buffer[..received])
    };
    exchange().with_context(|| format!("UDP echo of {length} bytes from {} to {to}", from.name()))
}

fn serve_tcp(listener: &TcpListener, stop: &AtomicBool) {
    thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            // An error that is no timeout is a connection that died in the queue: its
            // client notices. The next one is served.
            if let Ok((stream, _)) = listener.accept() {
                scope.spawn(move || echo_stream(stream, stop));
            }
        }
    });
}

/// Ends on any error: the client sees a closed connection, and that is its finding.
fn echo_stream(mut stream: TcpStream, stop: &AtomicBool) {
    let limits = stream
        .set_read_timeout(Some(TICK))
        .and_then(|()| stream.set_write_timeout(Some(ANSWER)))
        .and_then(|()| stream.set_nodelay(true));
    let mut buffer = vec![0; 64 * 1024];
    while limits.is_ok() && !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                if stream.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
            Err(error) if is_timeout(&error) || error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn serve_udp(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // What cannot be sent back is a lost datagram, which the client counts.
            drop(socket.send_to(&buffer[..length], from));
        }
    }
}
