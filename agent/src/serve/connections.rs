//! Connections, of which there are never more than the process has room for, and never so many
//! from one address that no room is left for others.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::debug;

use crate::open_files;

/// Files that the process needs beside connections, with room to spare.
const OTHER_FILES: u64 = 64;
/// More than nodes of any cluster, each of which watches by one and asks by another.
const MOST: u64 = 65_536;
/// From one address: a node has two or three, and many nodes may come through one gateway.
const MOST_OF_ONE: u32 = 1024;

/// A listener that takes no more connections than there is room for.
#[derive(Debug)]
pub(super) struct Bounded {
    listener: TcpListener,
    room: Arc<Semaphore>,
    of_one: Arc<Mutex<HashMap<IpAddr, u32>>>,
    most_of_one: u32,
}

/// A connection, which holds its place until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    stream: TcpStream,
    _room: Option<OwnedSemaphorePermit>,
    _place: Place,
}

/// One of an address's connections.
#[derive(Debug)]
struct Place {
    address: IpAddr,
    of_one: Arc<Mutex<HashMap<IpAddr, u32>>>,
}

impl Bounded {
    /// As many as the process may open.
    pub(super) fn new(listener: TcpListener) -> Self {
        Self::of(listener, room(), MOST_OF_ONE)
    }

    fn of(listener: TcpListener, most: usize, most_of_one: u32) -> Self {
        Self {
            listener,
            room: Arc::new(Semaphore::new(most)),
            of_one: Arc::default(),
            most_of_one,
        }
    }

    /// A place for one more of this address, if it has not too many.
    fn place(&self, address: IpAddr) -> Option<Place> {
        let mut of_one = self.of_one.lock().unwrap_or_else(PoisonError::into_inner);
        let count = of_one.entry(address).or_default();
        if *count >= self.most_of_one {
            return None;
        }
        *count += 1;
        Some(Place {
            address,
            of_one: Arc::clone(&self.of_one),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of_one = self.of_one.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = of_one.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                of_one.remove(&self.address);
            }
        }
    }
}

impl Listener for Bounded {
    type Io = Held;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Held, SocketAddr) {
        // Nobody closes it. Who comes while there is no room waits in the kernel.
        let mut room = Arc::clone(&self.room).acquire_owned().await.ok();
        loop {
            let (stream, from) = Listener::accept(&mut self.listener).await;
            if let Some(place) = self.place(from.ip()) {
                let held = Held {
                    stream,
                    _room: room.take(),
                    _place: place,
                };
                return (held, from);
            }
            debug!(%from, "too many connections from this address");
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Connections that the process may have, once it may open as many files as it is allowed to.
fn room() -> usize {
    let files = open_files::raise();
    let connections = files.saturating_sub(OTHER_FILES).clamp(1, MOST);
    usize::try_from(connections).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    async fn bounded(most: usize, most_of_one: u32) -> (Bounded, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Bounded::of(listener, most, most_of_one), address)
    }

    #[tokio::test]
    async fn who_comes_when_it_is_full_waits_until_somebody_goes() {
        let (mut bounded, address) = bounded(1, 9).await;
        let _first = TcpStream::connect(address).await.unwrap();
        let _second = TcpStream::connect(address).await.unwrap();
        let (held, _) = bounded.accept().await;
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(50), bounded.accept());
        waiting.await.unwrap_err();
        drop(held);
        bounded.accept().await;
    }

    #[tokio::test]
    async fn one_address_gets_its_share_and_no_more() {
        let (mut bounded, address) = bounded(9, 1).await;
        let _first = TcpStream::connect(address).await.unwrap();
        let (held, _) = bounded.accept().await;
        let mut second = TcpStream::connect(address).await.unwrap();
        let accept = tokio::spawn(async move { bounded.accept().await });
        assert_eq!(second.read(&mut [0; 1]).await.unwrap(), 0, "closed at once");
        drop(held);
        let _third = TcpStream::connect(address).await.unwrap();
        accept.await.unwrap();
    }
}
