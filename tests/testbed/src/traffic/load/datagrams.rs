//! UDP: numbered datagrams, about a thousand a second, each of which comes back once.

use std::net::{SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::millis;
use crate::netns::Namespace;
use crate::traffic::pattern;
use crate::traffic::socket::{TICK, bind_udp};

/// Time between two datagrams. What a busy machine delays is not caught up with: a burst
/// would overflow socket buffers, and that is no loss of the network.
const PAUSE: Duration = Duration::from_millis(1);
/// How long after the last datagram an answer is waited for.
const STRAGGLERS: Duration = Duration::from_secs(1);
/// The number, in network byte order.
const NUMBER: usize = 8;
/// Bytes after the number.
const FILLING: usize = 92;

/// The account of the datagrams.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Datagrams {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that came back, each counted once.
    pub returned: u64,
    /// Datagrams that did not.
    pub lost: u64,
    /// Datagrams that came back again.
    pub doubled: u64,
    /// Datagrams that came back with other contents.
    pub changed: u64,
    /// Longest time between two arrivals, in milliseconds.
    pub longest_gap_ms: u64,
}

impl Datagrams {
    /// Whether there were any, and each came back once and unchanged.
    pub fn is_perfect(&self) -> bool {
        self.sent > 0 && self.lost == 0 && self.doubled == 0 && self.changed == 0
    }
}

pub(super) fn prepare(
    from: &Namespace,
    to: SocketAddrV4,
) -> Result<impl FnOnce(&AtomicBool, &AtomicU64) -> Datagrams + Send + 'static> {
    let socket = bind_udp(from, 0, TICK)?;
    // Not connected: an ICMP error for one datagram would be reported on another's send.
    Ok(move |stop: &AtomicBool, returned: &AtomicU64| exchange(&socket, to, stop, returned))
}

fn exchange(
    socket: &UdpSocket,
    to: SocketAddrV4,
    stop: &AtomicBool,
    returned: &AtomicU64,
) -> Datagrams {
    let sent = AtomicU64::new(0);
    let sending = AtomicBool::new(true);
    thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(socket, &sent, &sending, returned));
        while !stop.load(Ordering::Relaxed) {
            let number = sent.fetch_add(1, Ordering::Relaxed);
            let mut datagram = number.to_be_bytes().to_vec();
            datagram.extend(pattern::bytes(number, FILLING));
            // One that cannot even be sent never comes back, and is counted so.
            drop(socket.send_to(&datagram, to));
            thread::sleep(PAUSE);
        }
        sending.store(false, Ordering::Relaxed);
        match receiver.join() {
            Ok(account) => account,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn receive(
    socket: &UdpSocket,
    sent: &AtomicU64,
    sending: &AtomicBool,
    returned: &AtomicU64,
) -> Datagrams {
    let mut account = Datagrams::default();
    let mut seen: Vec<bool> = Vec::new();
    let mut buffer = [0; 2048];
    let mut last_arrival: Option<Instant> = None;
    let mut stopped = None;
    loop {
        if let Ok(length) = socket.recv(&mut buffer) {
            let now = Instant::now();
            if let Some(last) = last_arrival.replace(now) {
                account.longest_gap_ms = account.longest_gap_ms.max(millis(now - last));
            }
            match number_of(buffer.get(..length).unwrap_or_default(), sent) {
                None => account.changed += 1,
                Some(number) => {
                    seen.resize(seen.len().max(number + 1), false);
                    if std::mem::replace(&mut seen[number], true) {
                        account.doubled += 1;
                    } else {
                        account.returned = returned.fetch_add(1, Ordering::Relaxed) + 1;
                    }
                }
            }
        }
        if !sending.load(Ordering::Relaxed) {
            let since: &Instant = stopped.get_or_insert_with(Instant::now);
            account.sent = sent.load(Ordering::Relaxed);
            account.lost = account.sent - account.returned;
            if account.lost == 0 || since.elapsed() > STRAGGLERS {
                return account;
            }
        }
    }
}

/// The number of a datagram that came back unchanged.
fn number_of(datagram: &[u8], sent: &AtomicU64) -> Option<usize> {
    let (number, filling) = datagram.split_first_chunk::<NUMBER>()?;
    let number = u64::from_be_bytes(*number);
    let whole = number < sent.load(Ordering::Relaxed)
        && filling.len() == FILLING
        && pattern::check(number, filling).is_ok();
    usize::try_from(number).ok().filter(|_| whole)
}
