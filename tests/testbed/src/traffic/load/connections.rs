//! TCP: a new connection each tenth of a second, with a few bytes there and back.

use std::fs::File;
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{PATIENCE, millis};
use crate::netns::{Namespace, enter_file};
use crate::traffic::echo::exchange;

const PAUSE: Duration = Duration::from_millis(100);
const BYTES: usize = 64;

/// The account of the connections.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Connections {
    /// Connections that carried their bytes there and back and were closed in order.
    pub made: u64,
    /// Connections that did not.
    pub failed: u64,
    /// Longest time from the start of one to its end, in milliseconds. A lost SYN alone
    /// costs a second.
    pub slowest_ms: u64,
    /// Why the first one failed.
    pub error: Option<String>,
}

impl Connections {
    /// Whether there were any, and none failed.
    pub fn is_perfect(&self) -> bool {
        self.made > 0 && self.failed == 0 && self.error.is_none()
    }
}

pub(super) fn prepare(
    from: &Namespace,
    to: SocketAddrV4,
) -> Result<impl FnOnce(&AtomicBool, &AtomicU64) -> Connections + Send + 'static> {
    let namespace = from.open()?;
    Ok(move |stop: &AtomicBool, made: &AtomicU64| connect_again(&namespace, to, stop, made))
}

fn connect_again(
    namespace: &File,
    to: SocketAddrV4,
    stop: &AtomicBool,
    made: &AtomicU64,
) -> Connections {
    let mut account = Connections::default();
    if let Err(error) = enter_file(namespace) {
        account.error = Some(format!("{error:#}"));
        return account;
    }
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        match connect_once(to) {
            Ok(()) => account.made = made.fetch_add(1, Ordering::Relaxed) + 1,
            Err(error) => {
                account.failed += 1;
                account.error.get_or_insert(format!("{error:#}"));
            }
        }
        account.slowest_ms = account.slowest_ms.max(millis(start.elapsed()));
        thread::sleep(PAUSE);
    }
    account
}

fn connect_once(to: SocketAddrV4) -> Result<()> {
    let stream = TcpStream::connect_timeout(&SocketAddr::V4(to), PATIENCE).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    exchange(stream, BYTES)
}
