//! One connection of which every request is answered or noticed, and the proof that it is fast.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use twill_testbed::pod::Pod;
use twill_testbed::wait::wait_for;

use crate::lab::{Kind, Lab, SECONDS};
use crate::rules::ECHO;

/// How long an answer may take when all is well.
const ANSWER: Duration = Duration::from_secs(3);
/// Bytes of a request's number.
const NUMBER: usize = 8;
/// Requests between two looks at the counters.
const ROUND: u64 = 40;

/// A connection to an echo server.
#[derive(Debug)]
pub(crate) struct Flow {
    socket: Socket,
    number: u64,
    /// Length of a request, bytes: a number and zeroes.
    length: usize,
    /// What came and was not looked at yet, of TCP.
    pending: Vec<u8>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Flow {
    /// A TCP connection from the pod.
    pub(crate) fn tcp(from: &Pod, to: SocketAddrV4) -> Result<Self> {
        let connect = || TcpStream::connect_timeout(&SocketAddr::V4(to), ANSWER);
        let stream = from
            .namespace()
            .enter(connect)?
            .with_context(|| format!("connect from {} to {to}", from.label()))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(ANSWER))?;
        Ok(Self::over(Socket::Tcp(stream)))
    }

    /// A connected UDP socket of the pod, on this port or on any (0).
    pub(crate) fn udp(from: &Pod, port: u16, to: SocketAddrV4) -> Result<Self> {
        let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port));
        let socket = from.namespace().enter(bind)??;
        socket.connect(to)?;
        Ok(Self::over(Socket::Udp(socket)))
    }

    /// Makes requests and answers this long.
    pub(crate) fn pad_to(&mut self, length: usize) {
        self.length = length.max(NUMBER);
    }

    /// The stream of a TCP flow.
    pub(crate) fn stream(&self) -> Result<&TcpStream> {
        match &self.socket {
            Socket::Tcp(stream) => Ok(stream),
            Socket::Udp(_) => bail!("a UDP flow has no stream"),
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

    fn over(socket: Socket) -> Self {
        Self {
            socket,
            number: 0,
            length: NUMBER,
            pending: Vec::new(),
        }
    }

    /// Sends a request and waits for its answer: `false` says that none came in time. A
    /// connection that is refused or reset is an error.
    pub(crate) fn ask(&mut self, within: Duration) -> Result<bool> {
        self.number += 1;
        let mut request = vec![0; self.length];
        request[..NUMBER].copy_from_slice(&self.number.to_be_bytes());
        let end = Instant::now() + within;
        match &mut self.socket {
            Socket::Tcp(stream) => stream.write_all(&request)?,
            Socket::Udp(socket) => {
                socket.send(&request)?;
            }
        }
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let mut buffer = [0; 4096];
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
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
            // Answers to earlier requests may be late.
            while let Some((answer, rest)) = self.pending.split_at_checked(request.len()) {
                let found = *answer == request[..];
                self.pending = rest.to_vec();
                if found {
                    return Ok(true);
                }
            }
        }
    }

    /// Asks so often; every request has to be answered.
    pub(crate) fn ask_times(&mut self, times: u64) -> Result<()> {
        for time in 0..times {
            if !self.ask(ANSWER)? {
                bail!("request {time} of {times} was not answered");
            }
        }
        Ok(())
    }

    /// Asks until the counters of both nodes say that requests and answers are carried past the
    /// stacks, both out of the pods and into them. On stock nodes it only asks.
    pub(crate) fn until_fast(&mut self, lab: &Lab) -> Result<()> {
        if lab.kind == Kind::Stock {
            return self.ask_times(ROUND);
        }
        wait_for("the flow is fast", SECONDS, || {
            let before = lab.fast_counts()?;
            self.ask_times(ROUND)?;
            let after = lab.fast_counts()?;
            let all = before
                .iter()
                .zip(&after)
                .all(|(before, after)| after - before > ROUND / 2);
            Ok(all.then_some(()))
        })
    }
}

/// The echo server's address in a pod.
pub(crate) fn echo(pod: &Pod) -> SocketAddrV4 {
    SocketAddrV4::new(pod.address(), ECHO)
}

/// Echoes what comes until the connection ends.
pub(crate) fn serve_echo(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}
