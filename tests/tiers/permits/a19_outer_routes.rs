//! A19: every packet leaves by the gateway that the kernel's vxlan device would take, whatever
//! routing rules tell outer packets apart by.

use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use twill_testbed::topology::Node;
use twill_testbed::wait::wait_for;

use crate::lab::{A, B, Lab, Options, PERMIT_TIME, SECONDS, both};
use crate::talk::{Flow, Server};

/// The other way to node B.
const OTHER_WAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
/// Source port of the flow that a rule means, and of one that it does not.
const MEANT: u16 = 6400;
const PLAIN: u16 = 6401;
/// Questions between two looks at the gateway.
const ROUND: u64 = 20;

/// Node A's other way to node B: a table that no rule names yet, and who counts what goes by it.
struct Gateway(Node);

impl Gateway {
    fn new(lab: &Lab) -> Result<Self> {
        let node = lab.cluster.underlay.join("gateway", OTHER_WAY)?;
        node.namespace().run_lines(
            "sysctl -qw net.ipv4.ip_forward=1
             sysctl -qw net.ipv4.conf.all.send_redirects=0
             sysctl -qw net.ipv4.conf.eth0.send_redirects=0
             iptables -A FORWARD -p udp --dport 8472",
        )?;
        lab.on(
            A,
            &format!("ip route add 192.0.2.2/32 via {OTHER_WAY} table 77"),
        )?;
        Ok(Self(node))
    }

    /// Asks a round of questions; how many outer packets came by here.
    fn round(&self, flow: &mut Flow) -> Result<u64> {
        let host = self.0.namespace();
        host.run(&["iptables", "-Z", "FORWARD"])?;
        for _ in 0..ROUND {
            flow.ask()?;
        }
        let text = host.run(&["iptables", "-vxnL", "FORWARD", "1"])?;
        let count = text.split_whitespace().next().context("no counter")?;
        Ok(count.parse()?)
    }

    /// Every packet of the flow comes by here, soon and then all the time.
    fn takes(&self, flow: &mut Flow) -> Result<()> {
        wait_for("every packet goes by the gateway", SECONDS, || {
            Ok((self.round(flow)? >= ROUND).then_some(()))
        })?;
        let end = Instant::now() + 2 * PERMIT_TIME;
        while Instant::now() < end {
            let came = self.round(flow)?;
            ensure!(came >= ROUND, "{came} of {ROUND} by the gateway");
        }
        Ok(())
    }
}

/// `twillctl explain` of a flow of the first pod, on nodes with programs.
fn explained(lab: &Lab, port: u16, words: &str) -> Result<()> {
    if !lab.has_programs() {
        return Ok(());
    }
    let pod = format!("{}:{port}", lab.pod(A, 0).address());
    let peer = Server::address(lab.pod(B, 0)).to_string();
    let agent = &lab.member(A).agent;
    wait_for(&format!("explain says {words:?}"), SECONDS, || {
        let text = agent.ctl_text(&["explain", &pod, &peer, "udp"])?;
        Ok(text.contains(words).then_some(()))
    })
}

#[test]
fn a19_outer_packets_follow_rules_on_ports_and_marks() -> Result<()> {
    both(Options::default(), |lab| {
        let _server = Server::backend(lab.pod(B, 0), "one")?;
        let (pod, to) = (lab.pod(A, 0).namespace(), Server::address(lab.pod(B, 0)));
        let (mut meant, mut plain) = (Flow::udp(pod, MEANT, to)?, Flow::udp(pod, PLAIN, to)?);
        let gateway = Gateway::new(lab)?;
        lab.until_fast(&mut meant)?;

        // The programs can ask with the port: the flow is as fast as before.
        lab.on(A, "ip rule add ipproto udp dport 8472 lookup 77")?;
        gateway.takes(&mut meant)?;
        lab.until_fast(&mut meant)?;
        lab.on(A, "ip rule del ipproto udp dport 8472 lookup 77")?;

        // A mark of the inner packet, which its outer one has too; nobody else's flow is slow.
        lab.on(
            A,
            &format!(
                "iptables -t mangle -A PREROUTING -p udp --sport {MEANT} -j MARK --set-mark 7"
            ),
        )?;
        lab.on(A, "ip rule add fwmark 7 lookup 77")?;
        gateway.takes(&mut meant)?;
        lab.until_fast(&mut plain)?;
        explained(lab, MEANT, "fwmark 0x7")
    })
}

#[test]
fn a19_a_mark_that_output_gives_makes_the_node_slow_with_the_daemon_dead() -> Result<()> {
    both(Options::default(), |lab| {
        let _server = Server::backend(lab.pod(B, 0), "one")?;
        let gateway = Gateway::new(lab)?;
        if lab.has_programs() {
            lab.cluster.members[A].agent.kill()?;
        }
        let (pod, to) = (lab.pod(A, 0).namespace(), Server::address(lab.pod(B, 0)));
        let mut flow = Flow::udp(pod, PLAIN, to)?;
        lab.until_fast(&mut flow)?;
        lab.on(
            A,
            "iptables -t mangle -A OUTPUT -p udp --dport 8472 -j MARK --set-mark 7",
        )?;
        lab.on(A, "ip rule add fwmark 7 lookup 77")?;
        gateway.takes(&mut flow)?;
        explained(lab, PLAIN, "by another next hop")?;
        lab.on(A, "ip rule del fwmark 7 lookup 77")?;
        lab.until_fast(&mut flow)
    })
}
