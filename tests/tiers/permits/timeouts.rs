//! Flows beyond conntrack's timeouts.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use twill_testbed::wait::{pass, wait_for};

use crate::lab::{A, B, Lab, Options, SECONDS, both};
use crate::rules::ONE;
use crate::talk::{Flow, Server};

/// Seconds.
const TIMEOUT: u64 = 3;
const SHORT: [&str; 3] = [
    "net.netfilter.nf_conntrack_tcp_timeout_established",
    "net.netfilter.nf_conntrack_udp_timeout",
    "net.netfilter.nf_conntrack_udp_timeout_stream",
];

/// Numbers of conntrack's entries that these ports opened.
fn entries(lab: &Lab, ports: [(&str, u16); 2]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (protocol, port) in ports {
        let list = format!("conntrack -L -o id -p {protocol} --orig-port-src {port}");
        let told = lab.on(A, &list)?;
        let id = told.split_whitespace().find(|word| word.starts_with("id="));
        found.push(
            id.with_context(|| format!("no entry: {told:?}"))?
                .to_owned(),
        );
    }
    Ok(found)
}

/// Busy flows live through them, because probes are seen; silent ones are picked up again.
fn short_timeouts(lab: &Lab) -> Result<()> {
    for node in [A, B] {
        for setting in SHORT {
            lab.host(node).set_sysctl(setting, &TIMEOUT.to_string())?;
        }
    }
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    if lab.has_programs() {
        // The agent follows: half of the smallest timeout is the longest permit.
        for node in [A, B] {
            wait_for("the permit time is short enough", SECONDS, || {
                let told = lab.member(node).agent.ctl(&["status"])?.to_string();
                Ok(told.contains("\"permit_milliseconds\":1500").then_some(()))
            })?;
        }
    }
    let pod = lab.pod(A, 0).namespace();
    let mut tcp = Flow::tcp(pod, 5601, ONE)?;
    let mut udp = Flow::udp(pod, 5602, ONE)?;
    lab.until_fast(&mut tcp)?;
    lab.until_fast(&mut udp)?;
    let ports = [("tcp", 5601), ("udp", 5602)];
    let before = entries(lab, ports)?;
    let end = Instant::now() + Duration::from_secs(TIMEOUT + 2);
    while Instant::now() < end {
        tcp.ask().context("busy")?;
        udp.ask().context("busy")?;
        pass(Duration::from_millis(5))?;
    }
    let after = entries(lab, ports)?;
    ensure!(before == after, "conntrack has lost a busy flow");
    lab.until_fast(&mut tcp).context("busy")?;
    lab.until_fast(&mut udp).context("busy")?;
    pass(Duration::from_secs(TIMEOUT + 2))?;
    tcp.ask().context("after the silence")?;
    udp.ask().context("after the silence")?;
    lab.until_fast(&mut tcp).context("after the silence")?;
    lab.until_fast(&mut udp).context("after the silence")
}

#[test]
fn flows_outlive_short_timeouts_of_conntrack_as_on_stock() -> Result<()> {
    both(Options::default(), |lab| short_timeouts(lab))
}

/// Seconds that a rule gives UDP: less than a permit lasts.
const POLICY: &str = "table ip short {
    ct timeout udp1 {
        protocol udp
        l3proto ip
        policy = { unreplied : 1, replied : 1 }
    }
    chain given {
        type filter hook prerouting priority -150
        udp dport 80 ct timeout set \"udp1\"
    }
}";

/// A flow that a rule gives less time than the settings is as long-lived as on a stock node: its
/// entry, and with it its backend, stays while it is busy.
fn short_policy(lab: &Lab) -> Result<()> {
    lab.host(A).run(&["nft", POLICY])?;
    let _one = Server::backend(lab.pod(B, 0), "one")?;
    let _two = Server::backend(lab.pod(B, 1), "two")?;
    lab.serve(&[lab.pod(B, 0).address(), lab.pod(B, 1).address()])?;
    let pod = lab.pod(A, 0).namespace();
    let mut udp = Flow::udp(pod, 5603, ONE)?;
    udp.ask_times(10)?;
    let entry = || -> Result<String> {
        let told = lab.on(A, "conntrack -L -o id -p udp --orig-port-src 5603")?;
        let id = told.split_whitespace().find(|word| word.starts_with("id="));
        Ok(id
            .with_context(|| format!("no entry: {told:?}"))?
            .to_owned())
    };
    let (before, backend) = (entry()?, udp.ask()?.name);
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        let name = udp.ask().context("busy")?.name;
        ensure!(name == backend, "from {backend} to {name}");
        pass(Duration::from_millis(5))?;
    }
    let after = entry()?;
    ensure!(before == after, "conntrack has lost a busy flow");
    let live = lab.has_programs() && lab.is_live(A, 5603)?;
    ensure!(!live, "a permit that outlives its entry");
    // And others are fast all the same.
    let mut tcp = Flow::tcp(pod, 5604, ONE)?;
    lab.until_fast(&mut tcp)
}

#[test]
fn a_flow_whose_timeout_a_rule_made_shorter_than_a_permit_keeps_its_entry() -> Result<()> {
    both(Options::default(), |lab| short_policy(lab))
}
