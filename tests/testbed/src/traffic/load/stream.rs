//! TCP: one connection that lasts, some hundred megabits a second in large writes, each
//! byte of which comes back in its place.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{PATIENCE, millis};
use crate::netns::Namespace;
use crate::traffic::pattern;
use crate::traffic::socket::{again, connect};

/// Large enough for GSO packets of full size.
const WRITE: usize = 64 * 1024;
/// Leaves the processors to others, on two of which everything may run.
const PAUSE: Duration = Duration::from_millis(2);

/// The account of the stream.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stream {
    /// Bytes that came back in their place.
    pub bytes: u64,
    /// Longest time between two arrivals, in milliseconds.
    pub longest_stall_ms: u64,
    /// What ended it before its time.
    pub error: Option<String>,
}

impl Stream {
    /// Whether bytes flowed, and all that were sent came back in their place.
    pub fn is_perfect(&self) -> bool {
        self.bytes > 0 && self.error.is_none()
    }
}

pub(super) fn prepare(
    from: &Namespace,
    to: SocketAddrV4,
) -> Result<impl FnOnce(&AtomicBool, &AtomicU64) -> Stream + Send + 'static> {
    let stream = connect(from, to, PATIENCE)?;
    Ok(move |stop: &AtomicBool, returned: &AtomicU64| {
        let mut account = Stream::default();
        let outcome = exchange(stream, stop, returned, &mut account);
        account.bytes = returned.load(Ordering::Relaxed);
        account.error = outcome.err().map(|error| format!("{error:#}"));
        account
    })
}

fn exchange(
    mut stream: TcpStream,
    stop: &AtomicBool,
    returned: &AtomicU64,
    account: &mut Stream,
) -> Result<()> {
    let writer = stream.try_clone()?;
    thread::scope(|scope| {
        let writing = scope.spawn(|| write(writer, stop));
        let reading = read(&mut stream, returned, account);
        if reading.is_err() {
            // Wakes the writer, which may hang in a full window.
            drop(stream.shutdown(Shutdown::Both));
        }
        let written = match writing.join() {
            Ok(written) => written,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        reading?;
        let (written, read) = (written?, returned.load(Ordering::Relaxed));
        if written != read {
            bail!("{written} bytes were sent, {read} came back");
        }
        Ok(())
    })
}

fn write(mut stream: TcpStream, stop: &AtomicBool) -> Result<u64> {
    let mut offset = 0;
    while !stop.load(Ordering::Relaxed) {
        let bytes = pattern::bytes(offset, WRITE);
        stream.write_all(&bytes).context("write")?;
        offset += bytes.len() as u64;
        thread::sleep(PAUSE);
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(offset)
}

fn read(stream: &mut TcpStream, returned: &AtomicU64, account: &mut Stream) -> Result<()> {
    let mut buffer = vec![0; WRITE];
    let mut last_arrival = Instant::now();
    loop {
        let length = again(|| stream.read(&mut buffer)).context("read")?;
        account.longest_stall_ms = account.longest_stall_ms.max(millis(last_arrival.elapsed()));
        last_arrival = Instant::now();
        if length == 0 {
            return Ok(());
        }
        pattern::check(returned.load(Ordering::Relaxed), &buffer[..length])?;
        returned.fetch_add(length as u64, Ordering::Relaxed);
    }
}
