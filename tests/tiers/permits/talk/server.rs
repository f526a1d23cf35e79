//! Servers that say who they are and whom they see.

use std::io::{BufRead, BufReader, ErrorKind, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use twill_testbed::netns::Namespace;
use twill_testbed::pod::Pod;
use twill_testbed::wait::wait_for;

use super::flow::padded;
use crate::rules::ECHO;

const TICK: Duration = Duration::from_millis(50);
/// How long a port may be held beyond its server's end.
const HELD: Duration = Duration::from_secs(3);

/// Answers every line of TCP and every datagram with its name and the sender's address and the
/// question's number, as long as was asked for; until dropped.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// A backend in a pod: on the port that Services forward to.
    pub(crate) fn backend(pod: &Pod, name: &str) -> Result<Self> {
        Self::start(pod.namespace(), name, ECHO)
    }

    /// The address of a backend.
    pub(crate) fn address(pod: &Pod) -> SocketAddrV4 {
        SocketAddrV4::new(pod.address(), ECHO)
    }

    /// The answer to a question, which is a number and the length of the answer that is wanted.
    pub(crate) fn answer(name: &str, from: SocketAddr, question: &[u8]) -> Vec<u8> {
        let question = String::from_utf8_lossy(question);
        let mut words = question.split_whitespace();
        let number = words.next().unwrap_or_default();
        let wanted = words.next().and_then(|word| word.parse().ok());
        padded(&format!("{name} {from} {number}"), wanted.unwrap_or(0))
    }

    /// A server on this port, TCP and UDP.
    pub(crate) fn start(namespace: &Namespace, name: &str, port: u16) -> Result<Self> {
        let listener = listen(namespace, port)?;
        setsockopt(&listener, sockopt::ReceiveTimeout, &TimeVal::new(0, 50_000))?;
        let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port));
        let datagrams = wait_for("the UDP port is free", HELD, || {
            Ok(Some(namespace.enter(bind)??))
        })?;
        datagrams.set_read_timeout(Some(TICK))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (tcp, udp) = (Arc::clone(&stop), Arc::clone(&stop));
        let (tcp_name, udp_name) = (name.to_owned(), name.to_owned());
        Ok(Self {
            stop,
            threads: vec![
                thread::spawn(move || serve_tcp(&listener, &tcp_name, &tcp)),
                thread::spawn(move || serve_udp(&datagrams, &udp_name, &udp)),
            ],
        })
    }
}

/// Listens on a port of the namespace. A program that starts at this moment may hold the socket
/// of an earlier server for a little beyond its end.
pub(super) fn listen(namespace: &Namespace, port: u16) -> Result<TcpListener> {
    let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
    wait_for("the TCP port is free", HELD, || {
        Ok(Some(namespace.enter(bind)??))
    })
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has told so itself; clients saw no answer.
            drop(thread.join());
        }
    }
}

fn serve_tcp(listener: &TcpListener, name: &str, stop: &AtomicBool) {
    thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            if let Ok((stream, _)) = listener.accept() {
                scope.spawn(move || answer_lines(stream, name, stop));
            }
        }
    });
}

/// Ends on any error: the client sees a closed connection.
fn answer_lines(mut stream: TcpStream, name: &str, stop: &AtomicBool) {
    let Ok(peer) = stream.peer_addr() else {
        return;
    };
    let ready = stream
        .set_nodelay(true)
        .and_then(|()| stream.set_read_timeout(Some(TICK)))
        .and_then(|()| stream.try_clone());
    let Ok(reading) = ready else {
        return;
    };
    let mut reader = BufReader::new(reading);
    let mut line = String::new();
    while !stop.load(Ordering::Relaxed) {
        match reader.read_line(&mut line) {
            Ok(0) => return,
            Ok(_) => {
                let answer = Server::answer(name, peer, line.as_bytes());
                if stream.write_all(&answer).is_err() {
                    return;
                }
                line.clear();
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

fn serve_udp(socket: &UdpSocket, name: &str, stop: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let answer = Server::answer(name, from, &buffer[..length]);
            // What cannot be sent is an answer that the client misses.
            drop(socket.send_to(&answer, from));
        }
    }
}
