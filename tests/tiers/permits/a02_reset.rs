//! A2: a reset after more than 2 GiB of fast traffic still arrives: conntrack, which has seen
//! none of it, must not take it for invalid.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::lab::{A, B, Lab, Options, both};
use crate::rules::ONE;
use crate::talk::{Ends, reset_on_drop};

/// Between 2 and 4 GiB: `before()` of conntrack looks at 32 bits.
const LENGTH: u64 = 3 << 30;
const CHUNK: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(15);
const SETTINGS: [&str; 2] = [
    "net.netfilter.nf_conntrack_tcp_be_liberal",
    "net.netfilter.nf_conntrack_tcp_ignore_invalid_rst",
];

/// Reads to the end: whether it came as a reset, and how many bytes before.
fn drain(mut stream: TcpStream) -> Result<(bool, u64)> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok((false, total)),
            Ok(length) => total += u64::try_from(length)?,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok((true, total)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => bail!("after {total} bytes: {error}"),
        }
    }
}

/// Sends it all and resets the connection.
fn send_and_reset(mut stream: TcpStream) -> Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let chunk = vec![7; CHUNK];
    let mut sent = 0;
    while sent < LENGTH {
        stream.write_all(&chunk)?;
        sent += u64::try_from(CHUNK)?;
    }
    reset_on_drop(&stream)
}

fn reset_arrives(lab: &Lab, client_sends: bool) -> Result<()> {
    for node in [A, B] {
        for setting in SETTINGS {
            let value = lab.host(node).sysctl(setting)?;
            ensure!(!lab.has_programs() || value == "1", "{setting} is {value}");
        }
    }
    let listener = Ends::listen(lab.pod(B, 0))?;
    let mut ends = Ends::open(lab.pod(A, 0).namespace(), 0, ONE, &listener)?;
    lab.make_fast(|| ends.exchange())?;
    let before = lab.fast_counts()?;
    let (sender, receiver) = if client_sends {
        (ends.client, ends.server)
    } else {
        (ends.server, ends.client)
    };
    let received = std::thread::scope(|scope| {
        let receiving = scope.spawn(|| drain(receiver));
        let sent = send_and_reset(sender);
        let received = match receiving.join() {
            Ok(received) => received,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        // Who receives knows more of what went wrong than who sends.
        received
            .context("receive")
            .and_then(|received| sent.context("send").map(|()| received))
    });
    let (reset, total) = received?;
    ensure!(reset, "no reset after {total} bytes");
    // What was in flight when the reset was sent is lost on any network.
    ensure!(total > LENGTH * 3 / 4, "{total} bytes were received");
    let after = lab.fast_counts()?;
    let carried = before
        .iter()
        .zip(&after)
        .map(|(before, after)| after - before);
    let carried: Vec<_> = carried.collect();
    // Of each node: out of the pod, into the pod. Acknowledgements are few, data is many.
    ensure!(
        carried.iter().all(|packets| *packets > 1000),
        "not fast: {carried:?}"
    );
    let data = if client_sends { [0, 3] } else { [1, 2] };
    for place in data {
        let most = carried.get(place).is_none_or(|packets| *packets > 30_000);
        ensure!(most, "the data was not fast: {carried:?}");
    }
    Ok(())
}

#[test]
fn a02_a_reset_after_3_gib_arrives_at_either_end() -> Result<()> {
    both(Options::default(), |lab| {
        reset_arrives(lab, true).context("by the client")?;
        reset_arrives(lab, false).context("by the server")
    })
}
