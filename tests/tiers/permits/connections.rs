//! The life of connections: resets, tuples used again at once, a client that starts anew on a
//! tuple that the server still knows, and connections that live for one question.

use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddrV4, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use twill_abi::PERMIT_TOMBSTONE;
use twill_testbed::traffic::again;
use twill_testbed::wait::{wait_for, wait_until};

use crate::lab::{A, B, Kind, Lab, Options, SECONDS, run};
use crate::rules::ONE;
use crate::talk::{Ends, Flow, Server, reset_on_drop};

/// Connections of each kind, one after the other, on two threads each.
const SHORT_ONES: usize = 150;

fn lives(lab: &Lab) -> Result<()> {
    // Ports of their own: where the Service's NAT would give a flow the tuple of one that is
    // closing, conntrack gives it another source port, and such flows are never fast.
    for (to, port) in [(Server::address(lab.pod(B, 0)), 5401), (ONE, 5411)] {
        let told = || format!("to {to}");
        resets(lab, to, port).with_context(told)?;
        again_at_once(lab, to, port + 1).with_context(told)?;
        new_client(lab, to, port + 2).with_context(told)?;
    }
    short_ones(lab).context("connect, ask, close")
}

fn is_reset(mut stream: &TcpStream) -> Result<()> {
    match again(|| stream.read(&mut [0; 1])) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => bail!("instead of a reset: {other:?}"),
    }
}

/// A reset of either end arrives, and closes the record on both nodes.
fn resets(lab: &Lab, to: SocketAddrV4, port: u16) -> Result<()> {
    let listener = Ends::listen(lab.pod(B, 0))?;
    for by_client in [true, false] {
        let mut ends = Ends::open(lab.pod(A, 0).namespace(), port, to, &listener)?;
        lab.make_fast(|| ends.exchange())?;
        let Ends { client, server } = ends;
        let (from, other) = if by_client {
            (client, server)
        } else {
            (server, client)
        };
        reset_on_drop(&from)?;
        drop(from);
        is_reset(&other).with_context(|| format!("by the client: {by_client}"))?;
        if lab.kind == Kind::Twill {
            for node in [A, B] {
                let permits = lab.permits(node)?;
                let live = permits.iter().find(|permit| {
                    let ports = [permit.pod.local_port, permit.pod.remote_port];
                    ports.iter().any(|own| own.to_host() == port)
                        && permit.state != PERMIT_TOMBSTONE
                });
                ensure!(live.is_none(), "after the reset: {live:?}");
            }
        }
    }
    Ok(())
}

/// The server closes first, so the client's port is free at once.
fn again_at_once(lab: &Lab, to: SocketAddrV4, port: u16) -> Result<()> {
    let listener = Ends::listen(lab.pod(B, 0))?;
    for time in 0..4 {
        wait_free(lab, port)?;
        let ends = Ends::open(lab.pod(A, 0).namespace(), port, to, &listener);
        let mut ends = ends.with_context(|| format!("connection {time} of one tuple"))?;
        lab.make_fast(|| ends.exchange())?;
        let Ends { mut client, server } = ends;
        drop(server);
        ensure!(again(|| client.read(&mut [0; 1]))? == 0, "no FIN");
    }
    Ok(())
}

/// Waits until no socket of the pod has the port: the last acknowledgement may be on its way, or
/// a program that starts at this moment holds the socket for a little beyond its end.
fn wait_free(lab: &Lab, port: u16) -> Result<()> {
    let filter = format!("sport = :{port}");
    wait_until("the port is free", SECONDS, || {
        let sockets = lab.pod(A, 0).namespace().run(&["ss", "-Htan", &filter]);
        sockets.is_ok_and(|sockets| sockets.is_empty())
    })
}

/// The client dies without a word and starts anew from the same port: its SYN meets a live
/// record on both nodes, and a server that still has the old connection.
fn new_client(lab: &Lab, to: SocketAddrV4, port: u16) -> Result<()> {
    let listener = Ends::listen(lab.pod(B, 0))?;
    let pod = lab.pod(A, 0).namespace();
    let mut old = Ends::open(pod, port, to, &listener)?;
    lab.make_fast(|| old.exchange())?;
    let mute = format!("OUTPUT -p tcp --sport {port} -j DROP");
    pod.run_lines(&format!("iptables -I {mute}"))?;
    let Ends { client, server } = old;
    reset_on_drop(&client)?;
    drop(client);
    wait_free(lab, port)?;
    pod.run_lines(&format!("iptables -D {mute}"))?;
    let mut ends = Ends::open(pod, port, to, &listener).context("a SYN on a live tuple")?;
    lab.make_fast(|| ends.exchange()).context("anew")?;
    is_reset(&server).context("the old connection")
}

/// Connections that live for one question, several at once.
fn short_ones(lab: &Lab) -> Result<()> {
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    let plain = Server::address(lab.pod(B, 0));
    thread::scope(|scope| {
        let asking: Vec<_> = [plain, ONE, plain, ONE]
            .into_iter()
            .map(|to| {
                scope.spawn(move || -> Result<()> {
                    for number in 0..SHORT_ONES {
                        let mut flow = Flow::tcp(lab.pod(A, 0).namespace(), 0, to)?;
                        flow.set_patience(SECONDS);
                        let asked = flow.ask();
                        asked.with_context(|| format!("connection {number} to {to}"))?;
                    }
                    Ok(())
                })
            })
            .collect();
        for asked in asking {
            match asked.join() {
                Ok(asked) => asked?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        anyhow::Ok(())
    })?;
    // Closed is closed: nothing is left that could carry a packet.
    wait_for("no record is live", Duration::from_secs(5), || {
        let permits = lab.permits(A)?;
        let live = permits
            .iter()
            .any(|permit| permit.state != PERMIT_TOMBSTONE);
        Ok((lab.kind != Kind::Twill || !live).then_some(()))
    })
}

#[test]
fn connections_open_close_and_are_reset_as_on_stock() -> Result<()> {
    run(&Kind::ALL, Options::default(), |lab| lives(lab)).map(drop)
}
