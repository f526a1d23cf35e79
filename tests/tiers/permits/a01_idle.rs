//! A1: a server that speaks first leaves conntrack's entry of a fast flow in a state that ends
//! after 300 s of silence, where the stock path keeps it for days.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::wait::{pass, wait_until};
use twill_tests::required;

use crate::flow::{Flow, serve_echo};
use crate::lab::{A, B, Kind, Lab, Options, SECONDS, both};
use crate::rules::{ECHO, TCP_TWO};

const SETTINGS: [&str; 2] = [
    "net.netfilter.nf_conntrack_tcp_timeout_unacknowledged",
    "net.netfilter.nf_conntrack_tcp_timeout_max_retrans",
];
const ESTABLISHED: &str = "net.netfilter.nf_conntrack_tcp_timeout_established";
const GREETING: &[u8] = b"220 at your service";
/// Short enough to sit out; the kernel's own is 300.
const SHORT: &str = "3";
const IDLE: Duration = Duration::from_secs(5);

/// Makes the timeouts short: on stock nodes they stay so, Twill puts its own in force again.
fn shorten(lab: &Lab) -> Result<()> {
    for member in &lab.cluster.members {
        let node = member.node.namespace();
        for setting in SETTINGS {
            node.set_sysctl(setting, SHORT)?;
            if lab.kind == Kind::Twill {
                wait_until(&format!("{setting} is put right"), SECONDS, || {
                    let own = node.sysctl(setting).ok();
                    own.is_some() && own == node.sysctl(ESTABLISHED).ok()
                })?;
            }
        }
    }
    Ok(())
}

/// Greets whoever connects, and then echoes.
fn greet(listener: &TcpListener) -> Result<TcpStream> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    stream.write_all(GREETING)?;
    Ok(stream)
}

/// Seconds that conntrack gives the flow with this source port, on a node.
fn seconds_left(lab: &Lab, node: usize, port: u16) -> Result<u64> {
    let told = lab.on(node, &format!("conntrack -L -p tcp --orig-port-src {port}"))?;
    let left = told.split_whitespace().nth(2);
    left.and_then(|left| left.parse().ok())
        .with_context(|| format!("conntrack -L tells {told:?}"))
}

fn outlives_silence(lab: &Lab) -> Result<()> {
    shorten(lab)?;
    let listen = |pod: usize| {
        let pod = lab.pod(B, pod).namespace();
        pod.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, ECHO)))?
            .context("listen")
    };
    let servers = [listen(0)?, listen(1)?];
    // Each greets one connection at most; the other thread ends with the test's process.
    for server in servers {
        std::thread::spawn(move || greet(&server).map(serve_echo));
    }
    let mut flow = Flow::tcp(lab.pod(A, 0), TCP_TWO.at)?;
    let mut greeting = [0; GREETING.len()];
    flow.stream()?.read_exact(&mut greeting)?;
    ensure!(greeting == GREETING);
    flow.until_fast(lab)?;
    pass(IDLE)?;
    let port = flow.port()?;
    for node in [A, B] {
        let left = seconds_left(lab, node, port)?;
        ensure!(left > 100_000, "conntrack of node {node} gives {left} s");
    }
    flow.ask_times(5).context("after the silence")?;
    Ok(())
}

#[test]
fn a01_a_flow_whose_server_speaks_first_outlives_silence() -> Result<()> {
    if !required() {
        return Ok(());
    }
    both(Options::default(), |lab| outlives_silence(lab))
}
