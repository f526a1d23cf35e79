//! TCP: one connection that lasts, with one small request at a time and its answer.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{PATIENCE, millis};
use crate::netns::Namespace;
use crate::traffic::pattern;
use crate::traffic::socket::connect;

const BYTES: usize = 64;
/// Leaves the processors to others.
const PAUSE: Duration = Duration::from_millis(2);

/// The account of the requests.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Requests {
    /// Requests that were answered as they should be.
    pub answered: u64,
    /// Longest time from a request to its answer, in milliseconds.
    pub slowest_ms: u64,
    /// What ended the connection before its time.
    pub error: Option<String>,
}

impl Requests {
    /// Whether there were any, and each was answered.
    pub fn is_perfect(&self) -> bool {
        self.answered > 0 && self.error.is_none()
    }
}

pub(super) fn prepare(
    from: &Namespace,
    to: SocketAddrV4,
) -> Result<impl FnOnce(&AtomicBool, &AtomicU64) -> Requests + Send + 'static> {
    let stream = connect(from, to, PATIENCE)?;
    stream.set_nodelay(true)?;
    Ok(move |stop: &AtomicBool, answered: &AtomicU64| {
        let mut account = Requests::default();
        let outcome = ask(stream, stop, answered, &mut account);
        account.answered = answered.load(Ordering::Relaxed);
        account.error = outcome.err().map(|error| format!("{error:#}"));
        account
    })
}

fn ask(
    mut stream: TcpStream,
    stop: &AtomicBool,
    answered: &AtomicU64,
    account: &mut Requests,
) -> Result<()> {
    let mut answer = [0; BYTES];
    let mut offset = 0;
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let request = pattern::bytes(offset, BYTES);
        stream.write_all(&request).context("send a request")?;
        stream
            .read_exact(&mut answer)
            .context("wait for its answer")?;
        pattern::check(offset, &answer)?;
        offset += BYTES as u64;
        account.slowest_ms = account.slowest_ms.max(millis(begin.elapsed()));
        answered.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    Ok(())
}
