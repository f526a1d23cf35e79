//! Traffic that goes on while something happens: datagrams, one long stream, requests, and
//! new connections, from one pod to another, with an account of what did not arrive.

mod connections;
mod datagrams;
mod requests;
mod stream;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

pub use connections::Connections;
pub use datagrams::Datagrams;
pub use requests::Requests;
pub use stream::Stream;

use super::echo::ECHO_PORT;
use crate::netns::Namespace;
use crate::wait::wait_until;

/// How long the first datagram, byte and connection may take.
const FIRST: Duration = Duration::from_secs(10);

/// Traffic of all four kinds from one namespace to an [`super::EchoServer`] in another,
/// until [`Load::report`].
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    datagrams: Worker<Datagrams>,
    stream: Worker<Stream>,
    requests: Worker<Requests>,
    connections: Worker<Connections>,
}

impl Load {
    /// Starts, and returns once each kind has been there and back. An echo server must be
    /// running at `to`.
    pub fn start(from: &Namespace, to: Ipv4Addr) -> Result<Self> {
        let to = SocketAddrV4::new(to, ECHO_PORT);
        let stop = Arc::new(AtomicBool::new(false));
        let load = Self {
            datagrams: Worker::start(&stop, datagrams::prepare(from, to)?),
            stream: Worker::start(&stop, stream::prepare(from, to)?),
            requests: Worker::start(&stop, requests::prepare(from, to)?),
            connections: Worker::start(&stop, connections::prepare(from, to)?),
            stop,
        };
        wait_until("traffic of every kind flows", FIRST, || {
            load.so_far().iter().all(|count| *count > 0)
        })?;
        Ok(load)
    }

    /// Datagrams, stream bytes, requests and connections that were there and back until now.
    pub fn so_far(&self) -> [u64; 4] {
        [
            self.datagrams.so_far(),
            self.stream.so_far(),
            self.requests.so_far(),
            self.connections.so_far(),
        ]
    }

    /// Stops, waits for what is still on its way, and gives the account.
    pub fn report(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        Report {
            datagrams: self.datagrams.end(),
            stream: self.stream.end(),
            requests: self.requests.end(),
            connections: self.connections.end(),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // The threads see it within a moment; nobody asked for their account.
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What a [`Load`] carried, and what it did not.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// A thousand datagrams a second, each sent back.
    pub datagrams: Datagrams,
    /// One long TCP connection.
    pub stream: Stream,
    /// One long TCP connection with a small request at a time.
    pub requests: Requests,
    /// A new TCP connection each tenth of a second.
    pub connections: Connections,
}

impl Report {
    /// An error that tells all that is not perfect: a datagram lost, doubled or changed, a
    /// byte of the stream wrong, a connection that failed, or a kind that never flowed.
    pub fn check(&self) -> Result<()> {
        let Self {
            datagrams,
            stream,
            requests,
            connections,
        } = self;
        let flows = stream.is_perfect() && requests.is_perfect() && connections.is_perfect();
        if datagrams.is_perfect() && flows {
            return Ok(());
        }
        bail!("traffic was disturbed: {self:?}")
    }

    /// TCP connections that broke, or could not be made.
    pub fn broken_flows(&self) -> u64 {
        let lasting = [&self.stream.error, &self.requests.error];
        let broken = lasting.into_iter().flatten().map(|_| 1).sum::<u64>();
        broken + self.connections.failed
    }
}

/// A thread that counts what it got back, and gives its account at the end.
#[derive(Debug)]
struct Worker<T> {
    returned: Arc<AtomicU64>,
    handle: Option<JoinHandle<T>>,
}

impl<T: Default + Send + 'static> Worker<T> {
    fn start(
        stop: &Arc<AtomicBool>,
        work: impl FnOnce(&AtomicBool, &AtomicU64) -> T + Send + 'static,
    ) -> Self {
        let returned = Arc::new(AtomicU64::new(0));
        let (stop, count) = (Arc::clone(stop), Arc::clone(&returned));
        Self {
            returned,
            handle: Some(thread::spawn(move || work(&stop, &count))),
        }
    }

    fn so_far(&self) -> u64 {
        self.returned.load(Ordering::Relaxed)
    }

    fn end(&mut self) -> T {
        match self.handle.take().map(JoinHandle::join) {
            Some(Ok(account)) => account,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            // Unreachable: `report` takes the load. An empty account is never perfect.
            None => T::default(),
        }
    }
}

/// A connection that stands still for longer is a broken one.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whole milliseconds, for accounts.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
