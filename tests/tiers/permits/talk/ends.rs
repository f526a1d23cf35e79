//! Both ends of one connection in one hand.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use nix::libc::linger;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use twill_testbed::netns::Namespace;
use twill_testbed::pod::Pod;
use twill_testbed::traffic::again;

use super::ANSWER;
use crate::rules::ECHO;

/// Both ends of a connection, with time limits and without delay.
pub(crate) struct Ends {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
}

impl Ends {
    /// Listens where Services forward to.
    pub(crate) fn listen(pod: &Pod) -> Result<TcpListener> {
        Self::listen_on(pod.namespace(), ECHO)
    }

    pub(crate) fn listen_on(namespace: &Namespace, port: u16) -> Result<TcpListener> {
        let listener = super::server::listen(namespace, port)?;
        // Linux keeps to SO_RCVTIMEO in accept(2) as well; see socket(7).
        setsockopt(&listener, sockopt::ReceiveTimeout, &TimeVal::new(5, 0))?;
        Ok(listener)
    }

    /// Connects from this port, 0 is any, to an address at which `listener` answers.
    pub(crate) fn open(
        from: &Namespace,
        port: u16,
        to: SocketAddrV4,
        listener: &TcpListener,
    ) -> Result<Self> {
        let client = connect_from(from, port, to)?;
        let (server, _) = listener.accept().context("accept")?;
        server.set_nodelay(true)?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(ANSWER))?;
            stream.set_write_timeout(Some(ANSWER))?;
        }
        Ok(Self { client, server })
    }

    /// A byte there and a byte back.
    pub(crate) fn exchange(&mut self) -> Result<()> {
        self.exchange_long(1)
    }

    /// So many bytes there and so many back.
    pub(crate) fn exchange_long(&mut self, length: usize) -> Result<()> {
        let mut buffer = vec![0; length];
        self.client.write_all(&vec![1; length]).context("ask")?;
        self.server.read_exact(&mut buffer).context("be asked")?;
        self.server.write_all(&vec![2; length]).context("answer")?;
        self.client.read_exact(&mut buffer).context("be answered")
    }

    /// The server's own port to the client.
    pub(crate) fn server_speaks(&mut self) -> Result<()> {
        self.server.write_all(b"y").context("speak first")?;
        self.client.read_exact(&mut [0; 1]).context("be spoken to")
    }
}

/// Has a stream reset when it is dropped.
pub(crate) fn reset_on_drop(stream: &TcpStream) -> Result<()> {
    let now = linger {
        l_onoff: 1,
        l_linger: 0,
    };
    Ok(setsockopt(stream, sockopt::Linger, &now)?)
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
        // One that was interrupted goes on, and the next call waits for it.
        let to = SockaddrIn::from(to);
        again(|| Ok(connect(fd.as_raw_fd(), &to)?))?;
        let stream = TcpStream::from(fd);
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    namespace
        .enter(open)?
        .with_context(|| format!("connect from {}:{port} to {to}", namespace.name()))
}
