//! A flow to an echo server, of which every answer is compared.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use twill_testbed::netns::Namespace;
use twill_testbed::traffic::again;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(20);
/// Bytes of a question: less than a packet, whatever carries it.
const LENGTH: usize = 900;

/// A flow.
pub(crate) struct Talk {
    socket: Kind,
    asked: u8,
}

enum Kind {
    Stream(Socket),
    Datagrams(UdpSocket),
}

impl Talk {
    /// A TCP connection.
    pub(crate) fn tcp(from: &Namespace, to: SocketAddrV4) -> Result<Self> {
        Self::tcp_from(from, 0, to)
    }

    /// A TCP connection from this port; 0 is any.
    pub(crate) fn tcp_from(from: &Namespace, port: u16, to: SocketAddrV4) -> Result<Self> {
        let socket = from.enter(|| Socket::new(Domain::IPV4, Type::STREAM, None))??;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
        let connected = socket.connect_timeout(&SocketAddr::from(to).into(), ANSWER);
        connected.with_context(|| format!("connect to {to}"))?;
        Self::over(socket)
    }

    /// A connected UDP socket.
    pub(crate) fn udp(from: &Namespace, to: SocketAddrV4) -> Result<Self> {
        Self::udp_from(from, 0, to)
    }

    /// A connected UDP socket on this port; 0 is any.
    pub(crate) fn udp_from(from: &Namespace, port: u16, to: SocketAddrV4) -> Result<Self> {
        let socket = from.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))??;
        socket.connect(to)?;
        socket.set_read_timeout(Some(ANSWER))?;
        Ok(Self {
            socket: Kind::Datagrams(socket),
            asked: 0,
        })
    }

    /// An SCTP association in TCP's style.
    pub(crate) fn sctp(from: &Namespace, to: SocketAddrV4) -> Result<Self> {
        let socket = from.enter(sctp_socket)??;
        let connected = socket.connect_timeout(&SocketAddr::from(to).into(), ANSWER);
        connected.with_context(|| format!("connect to {to} by SCTP"))?;
        Self::over(socket)
    }

    fn over(socket: Socket) -> Result<Self> {
        socket.set_read_timeout(Some(ANSWER))?;
        socket.set_write_timeout(Some(ANSWER))?;
        Ok(Self {
            socket: Kind::Stream(socket),
            asked: 0,
        })
    }

    /// How long an answer is waited for.
    pub(crate) fn set_patience(&self, patience: Duration) -> Result<()> {
        match &self.socket {
            Kind::Stream(stream) => stream.set_read_timeout(Some(patience)),
            Kind::Datagrams(socket) => socket.set_read_timeout(Some(patience)),
        }
        .context("set a time limit")
    }

    /// Sends bytes that no question before had, and expects them back.
    pub(crate) fn ask(&mut self) -> Result<()> {
        self.asked = self.asked.wrapping_add(1);
        let question: Vec<u8> = (self.asked..=u8::MAX).cycle().take(LENGTH).collect();
        let mut answer = vec![0; LENGTH];
        match &mut self.socket {
            Kind::Stream(stream) => {
                stream.write_all(&question).context("ask")?;
                stream.read_exact(&mut answer).context("no answer")?;
            }
            Kind::Datagrams(socket) => {
                again(|| socket.send(&question)).context("ask")?;
                let length = again(|| socket.recv(&mut answer)).context("no answer")?;
                ensure!(length == LENGTH, "{length} bytes came back");
            }
        }
        ensure!(answer == question, "the answer is not the question");
        Ok(())
    }
}

/// A one-to-one SCTP socket.
pub(crate) fn sctp_socket() -> std::io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::SCTP))
}
