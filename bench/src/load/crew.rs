//! The threads of one measurement: started, timed, and ended whatever happens.

use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{Shutdown as How, shutdown};
use nix::unistd::Pid;
use twill_testbed::wait::pass;

use super::latency::Times;
use super::{Measured, Timing, scale};
use crate::case::Unit;
use crate::cpu::CpuTime;
use crate::stats::float;

// Zero, the phase that a measurement begins with, is the warm-up.
const MEASURING: u8 = 1;
const STOPPING: u8 = 2;

/// How long clients may take to end after they were told.
const FAREWELL: Duration = Duration::from_secs(2);
/// Nothing more arrives after this long without an arrival.
const QUIET: Duration = Duration::from_millis(10);

/// On which side of the wire a thread is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Whether what a thread counts is part of the figure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    Measured,
    Beside,
}

/// What a thread knows of the measurement.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    phase: Arc<AtomicU8>,
    count: Arc<AtomicU64>,
}

impl Watch {
    pub(super) fn is_stopping(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == STOPPING
    }

    pub(super) fn is_measuring(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == MEASURING
    }

    pub(super) fn count(&self, number: u64) {
        self.count.fetch_add(number, Ordering::Relaxed);
    }
}

/// A thread's account at its end.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) lost: u64,
    pub(super) times: Times,
}

/// The threads of one measurement. Dropped, they end.
#[derive(Debug, Default)]
pub(super) struct Crew {
    phase: Arc<AtomicU8>,
    counts: Vec<Arc<AtomicU64>>,
    unit: Option<Unit>,
    one_way: bool,
    clients: Vec<JoinHandle<Result<Tally>>>,
    servers: Vec<JoinHandle<Result<Tally>>>,
    client_sockets: Vec<OwnedFd>,
    server_sockets: Vec<OwnedFd>,
}

impl Crew {
    /// Says what the measured threads count.
    pub(super) fn counts(&mut self, unit: Unit) {
        self.unit = Some(unit);
    }

    /// What does not arrive is lost: there are no answers.
    pub(super) fn is_one_way(&mut self) {
        self.one_way = true;
    }

    /// Remembers a socket, whose threads wake up when the measurement ends.
    pub(super) fn keep(&mut self, side: Side, socket: &impl AsFd) -> Result<()> {
        let socket = socket.as_fd().try_clone_to_owned()?;
        match side {
            Side::Client => self.client_sockets.push(socket),
            Side::Server => self.server_sockets.push(socket),
        }
        Ok(())
    }

    /// Starts a thread. What it counts by [`Watch::count`] is the figure if `role` says so.
    pub(super) fn start(
        &mut self,
        side: Side,
        role: Role,
        work: impl FnOnce(&Watch) -> Result<Tally> + Send + 'static,
    ) {
        let watch = Watch {
            phase: Arc::clone(&self.phase),
            count: Arc::default(),
        };
        if role == Role::Measured {
            self.counts.push(Arc::clone(&watch.count));
        }
        let thread = thread::spawn(move || {
            settle(side)?;
            work(&watch)
        });
        match side {
            Side::Client => self.clients.push(thread),
            Side::Server => self.servers.push(thread),
        }
    }

    /// Warms up, measures, ends everything, and gives the account.
    pub(super) fn measure(mut self, timing: Timing) -> Result<Measured> {
        pass(timing.warm_up)?;
        self.phase.store(MEASURING, Ordering::Relaxed);
        let (count, cpu, began) = (self.counted(), CpuTime::now()?, Instant::now());
        let passed = pass(timing.window);
        let (window, arrived) = (began.elapsed(), self.counted() - count);
        let cpu = CpuTime::now()?.since(cpu);
        let mut tally = self.end()?;
        passed?;
        let unit = self.unit.context("nothing is counted")?;
        if arrived == 0 {
            bail!("nothing arrived");
        }
        if self.one_way {
            tally.lost = tally.sent.saturating_sub(self.counted());
        }
        Ok(Measured {
            per_second: float(arrived) * scale(unit) / window.as_secs_f64(),
            latency: tally.times.percentiles(),
            sent: tally.sent,
            lost: tally.lost,
            retransmits: 0,
            cpu,
            window,
        })
    }

    fn counted(&self) -> u64 {
        let counts = self.counts.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Clients first, then what is still on its way, then the servers.
    fn end(&mut self) -> Result<Tally> {
        self.phase.store(STOPPING, Ordering::Relaxed);
        let deadline = Instant::now() + FAREWELL;
        while Instant::now() < deadline && !self.clients.iter().all(JoinHandle::is_finished) {
            thread::sleep(Duration::from_micros(200));
        }
        // Those that wait for something that does not come.
        hang_up(&mut self.client_sockets);
        let clients = join(&mut self.clients);
        if self.one_way {
            self.drain();
        }
        hang_up(&mut self.server_sockets);
        let servers = join(&mut self.servers);
        // A client's error is the cause of a server's more often than the other way round.
        let (mut tally, mut rest) = (clients?, servers?);
        tally.sent += rest.sent;
        tally.lost += rest.lost;
        tally.times.append(&mut rest.times);
        Ok(tally)
    }

    fn drain(&self) {
        let mut count = self.counted();
        loop {
            thread::sleep(QUIET);
            let now = self.counted();
            if now == count {
                return;
            }
            count = now;
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        if !(self.clients.is_empty() && self.servers.is_empty()) {
            // Whoever drops a crew at work has an error of its own to tell.
            drop(self.end());
        }
    }
}

/// Wakes every thread that waits for one of these sockets.
fn hang_up(sockets: &mut Vec<OwnedFd>) {
    for socket in sockets.drain(..) {
        // A socket that is not connected says so, and wakes its readers all the same
        // (inet_shutdown, net/ipv4/af_inet.c, v6.12).
        match shutdown(socket.as_raw_fd(), How::Both) {
            Ok(()) | Err(_) => {}
        }
    }
}

fn join(threads: &mut Vec<JoinHandle<Result<Tally>>>) -> Result<Tally> {
    let mut all = Tally::default();
    let mut failure = None;
    for thread in threads.drain(..) {
        match thread.join() {
            Ok(Ok(mut tally)) => {
                all.sent += tally.sent;
                all.lost += tally.lost;
                all.times.append(&mut tally.times);
            }
            Ok(Err(error)) => failure = failure.or(Some(error)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    failure.map_or(Ok(all), Err)
}

/// The half of the CPUs that a side's threads run on; a single CPU is everybody's.
pub(crate) fn cpus_of(side: Side) -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("ask for the allowed CPUs")?;
    let mut clients: Vec<_> = (0..CpuSet::count())
        .filter(|&cpu| allowed.is_set(cpu) == Ok(true))
        .collect();
    let servers = clients.split_off(clients.len() / 2);
    Ok(match side {
        Side::Client if !clients.is_empty() => clients,
        Side::Client | Side::Server => servers,
    })
}

/// Puts the calling thread on its side's half of the CPUs.
fn settle(side: Side) -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus_of(side)? {
        set.set(cpu)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).context("choose CPUs")
}

/// How many threads each side needs for so many flows.
pub(super) fn threads_for(flows: usize) -> usize {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    flows.min(cpus / 2).max(1)
}

/// Closes both directions; an error says that the other side did already.
pub(super) fn close(stream: &std::net::TcpStream) {
    match stream.shutdown(Shutdown::Both) {
        Ok(()) | Err(_) => {}
    }
}
