//! Pods that come and go: what was remembered of one is not the next one's.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use twill_testbed::traffic::ping;
use twill_testbed::wait::wait_for;

use crate::lab::{A, B, Kind, Lab, Options, SECONDS, run};
use crate::talk::{Flow, Server};

#[test]
fn a_pods_address_given_to_a_new_pod_is_the_new_pods_at_once() -> Result<()> {
    run(&Kind::ALL, Options::default(), replaced).map(drop)
}

fn replaced(lab: &mut Lab) -> Result<()> {
    let old = Server::backend(lab.pod(B, 0), "old")?;
    let to = Server::address(lab.pod(B, 0));
    let mut udp = Flow::udp(lab.pod(A, 0).namespace(), 5200, to)?;
    let mut tcp = Flow::tcp(lab.pod(A, 0).namespace(), 5201, to)?;
    lab.until_fast(&mut udp)?;
    lab.until_fast(&mut tcp)?;
    drop(old);
    lab.replace_pod(B, "new")?;
    let _new = Server::backend(lab.pod(B, 0), "new")?;
    udp.set_patience(Duration::from_millis(100));
    // The node still has the old pod's MAC address until the new one asks for the gateway's.
    announce(lab, B)?;
    let begin = Instant::now();
    wait_for("the new pod answers", SECONDS, || {
        let answer = udp.ask()?;
        ensure!(answer.name == "new", "the dead pod answers");
        Ok(Some(()))
    })?;
    ensure!(
        begin.elapsed() < Duration::from_secs(2),
        "after {:?}",
        begin.elapsed()
    );
    // The new pod knows nothing of the old one's connection.
    ensure!(
        tcp.ask().is_err(),
        "the new pod goes on with the old one's connection"
    );
    let mut again = Flow::tcp(lab.pod(A, 0).namespace(), 5202, to)?;
    ensure!(again.ask()?.name == "new");
    udp.set_patience(crate::talk::ANSWER);
    lab.until_fast(&mut again).context("TCP to the new pod")?;
    lab.until_fast(&mut udp).context("UDP to the new pod")?;

    // And the other way round: the asking pod is replaced, its successor uses the same port.
    drop((udp, tcp, again));
    lab.replace_pod(A, "heir")?;
    announce(lab, A)?;
    let mut udp = Flow::udp(lab.pod(A, 0).namespace(), 5200, to)?;
    udp.set_patience(Duration::from_millis(100));
    wait_for("the heir is answered", SECONDS, || udp.ask().map(Some))?;
    udp.set_patience(crate::talk::ANSWER);
    lab.until_fast(&mut udp).context("the heir")
}

/// Lets the node learn the new pod's MAC address, as the pod's first packet does.
fn announce(lab: &Lab, node: usize) -> Result<()> {
    let [a, b, c, _] = lab.pod(node, 0).address().octets();
    ping(lab.pod(node, 0).namespace(), [a, b, c, 1].into(), 8).map(drop)
}
