//! A10: bandwidth limits on a pod's veth hold for a flow that was fast before.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use twill_testbed::wait::{pass, wait_for};
use twill_tests::required;

use crate::lane::{Lane, PERMIT, PORT, SECONDS, Who};
use crate::talk::connect_from;

/// The limit, and what a flow may measure above it: the bucket and a round of buffers.
const LIMIT_MBIT: f64 = 20.0;
const NO_MORE_MBIT: f64 = 30.0;

/// Where the limit is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// A shaper on the receiving pod's host-side veth: `ingress-bandwidth`.
    Receiver,
    /// An ingress qdisc on the sending pod's that sends everything through a shaped ifb:
    /// `egress-bandwidth`.
    Sender,
}

#[test]
fn a10_a_shaper_on_the_receivers_veth_limits_a_fast_flow_as_on_stock() -> Result<()> {
    limited(Place::Receiver)
}

#[test]
fn a10_an_ingress_qdisc_on_the_senders_veth_limits_a_fast_flow_as_on_stock() -> Result<()> {
    limited(Place::Sender)
}

fn limited(place: Place) -> Result<()> {
    if !required() {
        return Ok(());
    }
    for who in [Who::Stock, PERMIT] {
        let lane = Lane::new(who)?;
        let [before, after] = lane.explained(rates(&lane, place))?;
        ensure!(before > 100.0, "{who:?}: {before} Mbit/s without a limit");
        ensure!(
            after < NO_MORE_MBIT,
            "{who:?}: {after} Mbit/s with a limit of {LIMIT_MBIT}"
        );
        ensure!(after > 1.0, "{who:?}: {after} Mbit/s");
    }
    Ok(())
}

/// Mbit/s of one connection before and after the limit was set.
fn rates(lane: &Lane, place: Place) -> Result<[f64; 2]> {
    let (sender, receiver) = (lane.pod(0), lane.pod(1));
    let listen = || std::net::TcpListener::bind(("0.0.0.0", PORT));
    let listener = receiver.namespace().enter(listen)??;
    let to = SocketAddrV4::new(receiver.address(), PORT);
    let mut stream = connect_from(sender.namespace(), 0, to)?;
    let (mut sink, _) = listener.accept()?;
    let mut byte = [0; 1];
    lane.make_fast(|| {
        stream.write_all(b"x")?;
        sink.read_exact(&mut byte)?;
        sink.write_all(b"y")?;
        Ok(stream.read_exact(&mut byte)?)
    })?;
    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(&stream, &stop));
        scope.spawn(|| receive(sink, &stop, &received));
        let rates = measure(lane, place, &received);
        stop.store(true, Ordering::Relaxed);
        match sending.join() {
            Ok(sent) => sent.context("send")?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        rates
    })
}

fn measure(lane: &Lane, place: Place, received: &AtomicU64) -> Result<[f64; 2]> {
    let rate = |time: Duration| -> Result<f64> {
        let (begin, before) = (Instant::now(), received.load(Ordering::Relaxed));
        pass(time)?;
        let bytes = u32::try_from(received.load(Ordering::Relaxed) - before)?;
        Ok(f64::from(bytes) * 8e-6 / begin.elapsed().as_secs_f64())
    };
    let before = rate(Duration::from_millis(300))?;
    let shaper = "root tbf rate 20mbit burst 64kb latency 50ms";
    match place {
        Place::Receiver => {
            let veth = lane.veth(1)?;
            lane.host(1)
                .run_lines(&format!("tc qdisc add dev {veth} {shaper}"))?;
        }
        Place::Sender => {
            let veth = lane.veth(0)?;
            lane.host(0).run_lines(&format!(
                "ip link add ifb9 type ifb
                 ip link set ifb9 up
                 tc qdisc add dev ifb9 {shaper}
                 tc qdisc add dev {veth} ingress
                 tc filter add dev {veth} parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev ifb9"
            ))?;
        }
    }
    if lane.who != Who::Stock {
        let side = match place {
            Place::Receiver => 1,
            Place::Sender => 0,
        };
        wait_for("no permit of the limited pod is left", SECONDS, || {
            Ok(lane.permits(side)?.is_empty().then_some(()))
        })?;
    }
    // What was in buffers when the limit came.
    pass(Duration::from_millis(500))?;
    Ok([before, rate(Duration::from_secs(2))?])
}

fn send(mut stream: &TcpStream, stop: &AtomicBool) -> Result<()> {
    let data = vec![0; 32 * 1024];
    stream.set_write_timeout(Some(Duration::from_millis(100)))?;
    while !stop.load(Ordering::Relaxed) {
        match stream.write(&data) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Ends on any error: then nothing is received, which is what is measured.
fn receive(mut stream: TcpStream, stop: &AtomicBool, received: &AtomicU64) {
    let mut buffer = vec![0; 256 * 1024];
    if stream
        .set_read_timeout(Some(Duration::from_millis(100)))
        .is_err()
    {
        return;
    }
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                received.fetch_add(length as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
