//! An address that moves to another pod of its node: its flows go where the stock node sends them,
//! as soon, and nothing of that needs the daemon.
//!
//! The permit time is long: until it is over, nobody asks netfilter anything.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use twill_testbed::forge::Frames;
use twill_testbed::pod::Pod;
use twill_testbed::subnet_env::Delegate;
use twill_testbed::wait::wait_for;

use crate::lab::{A, B, Kind, Lab, Options, SECONDS, run};
use crate::places::announce;
use crate::rules::ECHO;
use crate::talk::{ANSWER, Flow, Server};

/// How much later than a stock node, at the most: the programs look ten times a second.
const LATER: Duration = Duration::from_millis(600);
/// How long an answer is waited for that may be lost.
const PATIENCE: Duration = Duration::from_millis(50);

fn options() -> Options {
    Options {
        permit_seconds: Some("20"),
        ..Options::default()
    }
}

/// An address that pods of node B hand on.
struct Handed {
    address: Ipv4Addr,
    gateway: Ipv4Addr,
    /// Who asks: what a pod sends there by UDP comes from the address.
    client: Ipv4Addr,
}

impl Handed {
    fn new(lab: &Lab) -> Self {
        let gateway = lab.member(B).env.gateway();
        let [a, b, c, _] = gateway.octets();
        Self {
            address: Ipv4Addr::new(a, b, c, 200),
            gateway,
            client: lab.pod(A, 0).address(),
        }
    }

    /// Gives a pod the address, and lets it tell everybody, as keepalived does it.
    fn take(&self, pod: &Pod) -> Result<()> {
        let Self {
            address,
            gateway,
            client,
        } = self;
        pod.namespace().run_lines(&format!(
            "ip address add {address}/32 dev eth0
             ip route add {client} via {gateway} src {address}"
        ))?;
        let mac = mac_of(pod)?;
        let ethernet = [&[0xff; 6][..], &mac, &[0x08, 0x06]].concat();
        let request = [0, 1, 8, 0, 6, 4, 0, 1];
        let sender = [&mac[..], &address.octets()].concat();
        let target = [&[0; 6][..], &address.octets()].concat();
        let frame = [&ethernet[..], &request, &sender, &target].concat();
        Frames::on(pod.namespace(), "eth0")?.send(&frame)
    }

    /// Takes the address away; its route goes with it.
    fn release(&self, pod: &Pod) -> Result<()> {
        let line = format!("ip address del {}/32 dev eth0", self.address);
        pod.namespace().run_lines(&line)
    }
}

fn mac_of(pod: &Pod) -> Result<[u8; 6]> {
    let link = pod.namespace().link_json("eth0")?;
    let text = link["address"].as_str().context("no MAC address")?;
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let bytes = bytes.collect::<Result<Vec<u8>, _>>()?;
    <[u8; 6]>::try_from(bytes).map_err(|_length| anyhow::anyhow!("{text} is no MAC address"))
}

/// How long it takes until `new` answers.
fn until_new(udp: &mut Flow) -> Result<Duration> {
    let begin = Instant::now();
    udp.set_patience(PATIENCE);
    wait_for("the new pod answers", SECONDS, || {
        Ok((udp.ask()?.name == "new").then_some(()))
    })?;
    udp.set_patience(ANSWER);
    Ok(begin.elapsed())
}

/// The other pod of the node takes the address over; how long until it answers.
fn taken_over(lab: &mut Lab, alone: bool) -> Result<Duration> {
    let handed = Handed::new(lab);
    let to = SocketAddrV4::new(handed.address, ECHO);
    let _old = Server::backend(lab.pod(B, 0), "old")?;
    let _new = Server::backend(lab.pod(B, 1), "new")?;
    handed.take(lab.pod(B, 0))?;
    let mut udp = Flow::udp(lab.pod(A, 0).namespace(), 5290, to)?;
    let mut tcp = Flow::tcp(lab.pod(A, 0).namespace(), 5291, to)?;
    lab.until_fast(&mut udp)?;
    lab.until_fast(&mut tcp)?;
    // Once more, for the mode `direct` to know the place.
    Flow::tcp(lab.pod(A, 0).namespace(), 5292, to)?.ask()?;
    if alone {
        lab.cluster.members[B].agent.kill()?;
    }

    handed.release(lab.pod(B, 0))?;
    handed.take(lab.pod(B, 1))?;
    let took = until_new(&mut udp)?;
    ensure!(
        tcp.ask().is_err(),
        "the new pod goes on with the old one's connection"
    );
    for port in 5293..5296 {
        let mut again = Flow::tcp(lab.pod(A, 0).namespace(), port, to)?;
        ensure!(again.ask()?.name == "new", "the old pod answers");
    }
    lab.until_fast(&mut udp).context("with the new pod")?;
    Ok(took)
}

/// A pod that has the address of one that is gone; how long until it answers.
fn replaced(lab: &mut Lab, alone: bool) -> Result<Duration> {
    let old = Server::backend(lab.pod(B, 0), "old")?;
    let to = Server::address(lab.pod(B, 0));
    let mut udp = Flow::udp(lab.pod(A, 0).namespace(), 5280, to)?;
    let mut tcp = Flow::tcp(lab.pod(A, 0).namespace(), 5281, to)?;
    lab.until_fast(&mut udp)?;
    lab.until_fast(&mut tcp)?;
    if alone {
        lab.cluster.members[B].agent.kill()?;
    }
    drop(old);
    lab.replace_pod(B, "new")?;
    let _new = Server::backend(lab.pod(B, 0), "new")?;
    announce(lab, B)?;
    let took = until_new(&mut udp)?;
    ensure!(
        tcp.ask().is_err(),
        "the new pod goes on with the old one's connection"
    );
    let mut again = Flow::tcp(lab.pod(A, 0).namespace(), 5282, to)?;
    ensure!(again.ask()?.name == "new");
    again.ask_times(50)?;
    Ok(took)
}

/// In every mode as soon as on stock nodes.
fn as_soon(options: Options, scenario: impl Fn(&mut Lab) -> Result<Duration> + Sync) -> Result<()> {
    let took = run(&Kind::ALL, options, scenario)?;
    let Some((stock, others)) = took.split_first() else {
        return Ok(());
    };
    for (kind, took) in Kind::ALL[1..].iter().zip(others) {
        ensure!(
            *took < *stock + LATER,
            "{kind:?} took {took:?}, a stock node {stock:?}"
        );
    }
    Ok(())
}

#[test]
fn an_address_that_another_pod_takes_over_is_the_others() -> Result<()> {
    as_soon(options(), |lab| taken_over(lab, false))
}

#[test]
fn with_the_daemon_dead_as_well() -> Result<()> {
    as_soon(options(), |lab| taken_over(lab, true))
}

#[test]
fn a_pods_successor_has_its_address_with_the_daemon_dead() -> Result<()> {
    as_soon(options(), |lab| replaced(lab, true))
}

#[test]
fn a_routed_pods_successor_has_its_address_with_the_daemon_dead() -> Result<()> {
    let options = Options {
        delegate: Delegate::Ptp,
        ..options()
    };
    as_soon(options, |lab| replaced(lab, true))
}
