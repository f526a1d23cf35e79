//! Servers that say who they are and whom they see, and clients that ask them.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use twill_testbed::netns::Namespace;

const TICK: Duration = Duration::from_millis(50);
/// How long an answer may take.
pub(crate) const ANSWER: Duration = Duration::from_secs(3);

/// What a server said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    /// The server's name.
    pub(crate) name: String,
    /// Whom the server saw.
    pub(crate) seen: SocketAddrV4,
}

/// Answers every line of TCP and every datagram with its name and the sender's address, and what
/// it was asked; until dropped.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(namespace: &Namespace, name: &str, port: u16) -> Result<Self> {
        let listener = namespace.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))??;
        setsockopt(&listener, sockopt::ReceiveTimeout, &TimeVal::new(0, 50_000))?;
        let datagrams = namespace.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))??;
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

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
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
                if write!(stream, "{name} {peer} {line}").is_err() {
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
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let asked = String::from_utf8_lossy(&buffer[..length]);
            let answer = format!("{name} {from} {}", asked.trim_end());
            drop(socket.send_to(answer.as_bytes(), from));
        }
    }
}

fn parse(text: &str, asked: u64) -> Result<Answer> {
    let words: Vec<_> = text.split_whitespace().collect();
    let [name, seen, number] = words[..] else {
        anyhow::bail!("answered {text:?}");
    };
    ensure!(
        number == asked.to_string(),
        "asked {asked}, answered {text:?}"
    );
    Ok(Answer {
        name: name.to_owned(),
        seen: seen.parse()?,
    })
}

/// A TCP connection to a [`Server`].
pub(crate) struct Tcp {
    reader: BufReader<TcpStream>,
    asked: u64,
}

impl Tcp {
    /// Connects from this port; 0 is any.
    pub(crate) fn connect(namespace: &Namespace, port: u16, to: SocketAddrV4) -> Result<Self> {
        let stream = connect_from(namespace, port, to)?;
        Ok(Self {
            reader: BufReader::new(stream),
            asked: 0,
        })
    }

    pub(crate) fn ask(&mut self) -> Result<Answer> {
        self.asked += 1;
        let mut stream = self.reader.get_ref();
        stream
            .write_all(format!("{}\n", self.asked).as_bytes())
            .context("ask")?;
        let mut line = String::new();
        self.reader.read_line(&mut line).context("no answer")?;
        parse(&line, self.asked)
    }
}

/// A TCP stream from this port of the namespace, without delay, with time limits.
pub(crate) fn connect_from(
    namespace: &Namespace,
    port: u16,
    to: SocketAddrV4,
) -> Result<TcpStream> {
    let open = || -> Result<TcpStream> {
        let kind = SockType::Stream;
        let fd = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        let limit = TimeVal::new(5, 0);
        // Linux keeps to SO_SNDTIMEO in connect(2) as well; see socket(7).
        setsockopt(&fd, sockopt::SendTimeout, &limit)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &limit)?;
        bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port))?;
        connect(fd.as_raw_fd(), &SockaddrIn::from(to))?;
        let stream = TcpStream::from(fd);
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    namespace
        .enter(open)?
        .with_context(|| format!("connect from {}:{port} to {to}", namespace.name()))
}

/// A UDP socket that asks a [`Server`].
pub(crate) struct Udp {
    pub(crate) socket: UdpSocket,
    asked: u64,
}

impl Udp {
    /// A socket on this port, connected.
    pub(crate) fn connect(namespace: &Namespace, port: u16, to: SocketAddrV4) -> Result<Self> {
        let socket = namespace.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))??;
        socket.set_read_timeout(Some(ANSWER))?;
        socket.connect(to)?;
        Ok(Self { socket, asked: 0 })
    }

    /// Asks once; what answers an earlier question is passed over.
    pub(crate) fn ask(&mut self) -> Result<Answer> {
        self.ask_long(0)
    }

    /// Asks with a datagram of this many bytes; the answer is short.
    pub(crate) fn ask_long(&mut self, size: usize) -> Result<Answer> {
        self.asked += 1;
        let mut question = format!("{}\n", self.asked).into_bytes();
        question.resize(question.len().max(size), b' ');
        self.socket.send(&question)?;
        let mut buffer = [0; 2048];
        loop {
            let length = match self.socket.recv(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                received => received.context("no answer")?,
            };
            let text = String::from_utf8_lossy(&buffer[..length]);
            match parse(&text, self.asked) {
                Ok(answer) => return Ok(answer),
                Err(_) if self.is_late(&text) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn is_late(&self, text: &str) -> bool {
        let number = text.split_whitespace().nth(2);
        number.is_some_and(|n| n.parse::<u64>().is_ok_and(|n| n < self.asked))
    }
}
