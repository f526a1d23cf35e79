//! A connection, or a connected UDP socket, of which every question is answered or noticed.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use twill_testbed::netns::Namespace;
use twill_testbed::traffic::again;

use super::{ANSWER, connect_from};

/// What a server said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    /// The server's name.
    pub(crate) name: String,
    /// Whom the server saw.
    pub(crate) seen: SocketAddrV4,
}

/// A flow to a [`super::Server`].
#[derive(Debug)]
pub(crate) struct Flow {
    socket: Socket,
    asked: u64,
    /// Lengths of a question and of an answer, bytes; shorter ones are as long as they are.
    lengths: [usize; 2],
    patience: Duration,
    /// What came and is no whole line yet.
    pending: Vec<u8>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Flow {
    /// A TCP connection from this port; 0 is any.
    pub(crate) fn tcp(from: &Namespace, port: u16, to: SocketAddrV4) -> Result<Self> {
        Ok(Self::over(Socket::Tcp(connect_from(from, port, to)?)))
    }

    /// A connected UDP socket on this port; 0 is any.
    pub(crate) fn udp(from: &Namespace, port: u16, to: SocketAddrV4) -> Result<Self> {
        let socket = from.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))??;
        socket.connect(to)?;
        Ok(Self::over(Socket::Udp(socket)))
    }

    fn over(socket: Socket) -> Self {
        Self {
            socket,
            asked: 0,
            lengths: [0; 2],
            patience: ANSWER,
            pending: Vec::new(),
        }
    }

    /// Makes questions and answers this long, bytes.
    pub(crate) fn pad_to(&mut self, question: usize, answer: usize) {
        self.lengths = [question, answer];
    }

    /// How long an answer is waited for.
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// The UDP socket.
    pub(crate) fn datagrams(&self) -> Result<&UdpSocket> {
        match &self.socket {
            Socket::Udp(socket) => Ok(socket),
            Socket::Tcp(_) => bail!("a TCP flow has no datagrams"),
        }
    }

    /// The flow's own port.
    pub(crate) fn port(&self) -> Result<u16> {
        let address = match &self.socket {
            Socket::Tcp(stream) => stream.local_addr(),
            Socket::Udp(socket) => socket.local_addr(),
        };
        Ok(address?.port())
    }

    /// Asks and waits for the answer; answers to earlier questions are passed over.
    pub(crate) fn ask(&mut self) -> Result<Answer> {
        self.asked += 1;
        let [question, answer] = self.lengths;
        let question = padded(&format!("{} {answer}", self.asked), question);
        match &mut self.socket {
            Socket::Tcp(stream) => stream.write_all(&question),
            Socket::Udp(socket) => socket.send(&question).map(drop),
        }
        .context("ask")?;
        let end = Instant::now() + self.patience;
        loop {
            while let Some(line) = self.line() {
                if let Some(answer) = self.judge(&line)? {
                    return Ok(answer);
                }
            }
            self.receive(end)?;
        }
    }

    /// Asks so often; every question has to be answered.
    pub(crate) fn ask_times(&mut self, times: u64) -> Result<()> {
        (0..times).try_for_each(|time| {
            let asked = self.ask().map(drop);
            asked.with_context(|| format!("question {time} of {times}"))
        })
    }

    fn receive(&mut self, end: Instant) -> Result<()> {
        let left = end.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no answer");
        let mut buffer = vec![0; 65_536];
        let received = match &mut self.socket {
            Socket::Tcp(stream) => {
                stream.set_read_timeout(Some(left))?;
                stream.read(&mut buffer)
            }
            Socket::Udp(socket) => {
                socket.set_read_timeout(Some(left))?;
                socket.recv(&mut buffer)
            }
        };
        match received {
            Ok(0) => bail!("the server has closed the connection"),
            Ok(length) => self.pending.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("no answer"),
        }
        Ok(())
    }

    fn line(&mut self) -> Option<String> {
        let end = self.pending.iter().position(|byte| *byte == b'\n')?;
        let line = self.pending.drain(..=end).collect::<Vec<_>>();
        Some(String::from_utf8_lossy(&line).into_owned())
    }

    /// The answer, if it is that to the last question.
    fn judge(&self, line: &str) -> Result<Option<Answer>> {
        let words: Vec<_> = line.split_whitespace().collect();
        let [name, seen, number] = words[..] else {
            bail!("answered {line:?}");
        };
        let number: u64 = number.parse()?;
        ensure!(number <= self.asked, "asked {}, {line:?}", self.asked);
        let answer = Answer {
            name: name.to_owned(),
            seen: seen.parse()?,
        };
        Ok((number == self.asked).then_some(answer))
    }
}

/// Receives a datagram.
pub(crate) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Result<(usize, SocketAddr)> {
    again(|| socket.recv_from(buffer)).context("no answer")
}

/// A line that is this long with its end, in bytes, if it is not longer of itself.
pub(super) fn padded(text: &str, length: usize) -> Vec<u8> {
    let mut line = text.as_bytes().to_vec();
    line.resize(line.len().max(length.saturating_sub(1)), b' ');
    line.push(b'\n');
    line
}
