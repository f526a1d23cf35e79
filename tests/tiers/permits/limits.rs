//! A10: bandwidth limits on a pod's veth hold for a flow that was fast before.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use twill_testbed::wait::{pass, wait_for};

use crate::lab::{A, B, Lab, Options, SECONDS, both};
use crate::talk::{Ends, Server};

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
    both(Options::default(), |lab| {
        let [before, after] = rates(lab, place)?;
        ensure!(before > 100.0, "{before} Mbit/s without a limit");
        ensure!(
            after < NO_MORE_MBIT,
            "{after} Mbit/s with a limit of {LIMIT_MBIT}"
        );
        ensure!(after > 1.0, "{after} Mbit/s");
        Ok(())
    })
}

/// Mbit/s of one connection before and after the limit was set.
fn rates(lab: &Lab, place: Place) -> Result<[f64; 2]> {
    let (sender, receiver) = (lab.pod(A, 0), lab.pod(B, 0));
    let listener = Ends::listen(receiver)?;
    let to = Server::address(receiver);
    let mut ends = Ends::open(sender.namespace(), 0, to, &listener)?;
    lab.make_fast(|| ends.exchange())?;
    let Ends {
        client: stream,
        server: sink,
    } = ends;
    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(&stream, &stop));
        scope.spawn(|| receive(sink, &stop, &received));
        let rates = measure(lab, place, &received);
        stop.store(true, Ordering::Relaxed);
        match sending.join() {
            Ok(sent) => sent.context("send")?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        rates
    })
}

fn measure(lab: &Lab, place: Place, received: &AtomicU64) -> Result<[f64; 2]> {
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
            let veth = lab.veth(B, 0)?;
            lab.host(B)
                .run_lines(&format!("tc qdisc add dev {veth} {shaper}"))?;
        }
        Place::Sender => {
            let veth = lab.veth(A, 0)?;
            lab.host(A).run_lines(&format!(
                "ip link add ifb9 type ifb
                 ip link set ifb9 up
                 tc qdisc add dev ifb9 {shaper}
                 tc qdisc add dev {veth} ingress
                 tc filter add dev {veth} parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev ifb9"
            ))?;
        }
    }
    if lab.has_programs() {
        let node = match place {
            Place::Receiver => B,
            Place::Sender => A,
        };
        wait_for("no permit of the limited pod is left", SECONDS, || {
            Ok(lab.permits(node)?.is_empty().then_some(()))
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
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
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
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return,
        }
    }
}
