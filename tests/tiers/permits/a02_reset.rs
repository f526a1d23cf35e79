//! A2: a reset after more than 2 GiB of fast traffic still arrives: conntrack, which has seen
//! none of it, must not take it for invalid.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};
use twill_tests::required;

use crate::flow::Flow;
use crate::lab::{A, B, Kind, Lab, Options, both};
use crate::rules::{ECHO, TCP_ONE};

/// Between 2 and 4 GiB: `before()` of conntrack looks at 32 bits.
const LENGTH: u64 = 3 << 30;
const CHUNK: usize = 1 << 20;
const RESET: Duration = Duration::from_secs(5);
const SETTINGS: [&str; 2] = [
    "net.netfilter.nf_conntrack_tcp_be_liberal",
    "net.netfilter.nf_conntrack_tcp_ignore_invalid_rst",
];

/// Reads to the end: whether it came as a reset, and how many bytes before.
fn drain(mut stream: TcpStream) -> Result<(bool, u64)> {
    stream.set_read_timeout(Some(RESET))?;
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok((false, total)),
            Ok(length) => total += u64::try_from(length)?,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok((true, total)),
            Err(error) => bail!("after {total} bytes: {error}"),
        }
    }
}

/// Sends it all, waits until the other end has it, and resets the connection.
fn send_and_reset(mut stream: TcpStream) -> Result<()> {
    stream.set_write_timeout(Some(RESET))?;
    let chunk = vec![7; CHUNK];
    let mut sent = 0;
    while sent < LENGTH {
        stream.write_all(&chunk)?;
        sent += u64::try_from(CHUNK)?;
    }
    let now = linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &now)?;
    Ok(())
}

fn reset_arrives(lab: &Lab, client_sends: bool) -> Result<()> {
    for member in &lab.cluster.members {
        for setting in SETTINGS {
            let value = member.node.namespace().sysctl(setting)?;
            ensure!(
                lab.kind == Kind::Stock || value == "1",
                "{setting} is {value}"
            );
        }
    }
    let listener = lab
        .pod(B, 0)
        .namespace()
        .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, ECHO)))??;
    let flow = Flow::tcp(lab.pod(A, 0), TCP_ONE.at)?;
    let (server, _) = listener.accept()?;
    let client = flow.stream()?.try_clone()?;
    drop(flow);
    let before = lab.fast_counts()?;
    let (sender, receiver) = if client_sends {
        (client, server)
    } else {
        (server, client)
    };
    let received = std::thread::scope(|scope| {
        let receiving = scope.spawn(|| drain(receiver));
        let sent = send_and_reset(sender);
        let received = match receiving.join() {
            Ok(received) => received,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        sent.context("send")?;
        received
    });
    let (reset, total) = received.context("receive")?;
    ensure!(reset, "no reset after {total} bytes");
    // What was in flight when the reset was sent is lost on any network.
    ensure!(total > LENGTH * 3 / 4, "{total} bytes were received");
    let after = lab.fast_counts()?;
    let carried: Vec<_> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| after - before)
        .collect();
    // Of each node: out of the pod, into the pod. Acknowledgements are few, data is many.
    ensure!(
        carried.iter().all(|packets| *packets > 1000),
        "not fast: {carried:?}"
    );
    let data = if client_sends { [0, 3] } else { [1, 2] };
    if lab.kind == Kind::Twill {
        let most = data.map(|place| carried[place]);
        ensure!(most.iter().all(|packets| *packets > 30_000), "{carried:?}");
    }
    Ok(())
}

#[test]
fn a02_a_reset_by_the_client_after_3_gib_arrives() -> Result<()> {
    if !required() {
        return Ok(());
    }
    both(Options::default(), |lab| reset_arrives(lab, true))
}

#[test]
fn a02_a_reset_by_the_server_after_3_gib_arrives() -> Result<()> {
    if !required() {
        return Ok(());
    }
    both(Options::default(), |lab| reset_arrives(lab, false))
}
