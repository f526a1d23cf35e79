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
    /// More datagrams, to a Service.
    translated: Option<Worker<Datagrams>>,
}

impl Load {
    /// Starts, and returns once each kind has been there and back. An echo server must be
    /// running at `to`.
    pub fn start(from: &Namespace, to: Ipv4Addr) -> Result<Self> {
        Self::begin(from, to, None)
    }

    /// The same with a part of it to a Service of that server's: requests, connections, and a
    /// thousand datagrams a second more.
    pub fn start_beside(from: &Namespace, to: Ipv4Addr, service: Ipv4Addr) -> Result<Self> {
        Self::begin(from, to, Some(service))
    }

    fn begin(from: &Namespace, to: Ipv4Addr, service: Option<Ipv4Addr>) -> Result<Self> {
        let [to, service_or_to] =
            [to, service.unwrap_or(to)].map(|address| SocketAddrV4::new(address, ECHO_PORT));
        let stop = Arc::new(AtomicBool::new(false));
        let translated = match service {
            Some(_) => Some(datagrams::prepare(from, service_or_to)?),
            None => None,
        };
        let load = Self {
            datagrams: Worker::start(&stop, datagrams::prepare(from, to)?),
            stream: Worker::start(&stop, stream::prepare(from, to)?),
            requests: Worker::start(&stop, requests::prepare(from, service_or_to)?),
            connections: Worker::start(&stop, connections::prepare(from, service_or_to)?),
            translated: translated.map(|work| Worker::start(&stop, work)),
            stop,
        };
        wait_until("traffic of every kind flows", FIRST, || {
            let mut translated = load.translated.iter().map(Worker::so_far);
            load.so_far().iter().all(|count| *count > 0) && translated.all(|count| count > 0)
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
            translated: self.translated.as_mut().map(Worker::end),
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
    /// As many datagrams to a Service, where there is one.
    pub translated: Option<Datagrams>,
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
            translated,
        } = self;
        let flows = stream.is_perfect() && requests.is_perfect() && connections.is_perfect();
        let mut all_datagrams = translated.iter().chain([datagrams]);
        if all_datagrams.all(Datagrams::is_perfect) && flows {
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
