//! ESP between the nodes: what goes by ESP is never fast, and clear text in a node's name reaches
//! no pod, whatever permits there are.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use twill_core::vtep::MacAddr;
use twill_testbed::forge::RawIp;
use twill_testbed::packet::{Ethernet, Ipv4, Udp, Vxlan};
use twill_testbed::traffic::echo::ECHO_PORT;
use twill_testbed::wait::wait_until;
use twill_testbed::world::{NODE_A, NODE_B, PORT, STRANGER, VNI, VTEP_MAC_A};

use crate::lab::{Lab, PATIENCE, PERMIT_TIME, ROUND};
use crate::talk::Talk;

/// Each node sends VXLAN (17 is UDP; guests have no `/etc/protocols`) to the other by ESP alone, and
/// takes no other.
const STATES: &str = "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x101 reqid 1 mode transport aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128
    ip xfrm state add src 192.0.2.2 dst 192.0.2.1 proto esp spi 0x102 reqid 1 mode transport aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128";
const POLICIES: [&str; 2] = [
    "ip xfrm policy add src 192.0.2.1 dst 192.0.2.2 proto 17 dport 8472 dir out tmpl proto esp reqid 1 mode transport
     ip xfrm policy add src 192.0.2.2 dst 192.0.2.1 proto 17 dport 8472 dir in tmpl proto esp reqid 1 mode transport",
    "ip xfrm policy add src 192.0.2.2 dst 192.0.2.1 proto 17 dport 8472 dir out tmpl proto esp reqid 1 mode transport
     ip xfrm policy add src 192.0.2.1 dst 192.0.2.2 proto 17 dport 8472 dir in tmpl proto esp reqid 1 mode transport",
];
const CLIENT_PORT: u16 = 5811;
/// How long an answer is waited for where none may come.
const SHORT: Duration = Duration::from_millis(200);
/// What is forged, and by which length it is known in the pod.
const WORD: &[u8] = b"not by ESP";
const FORGED: u64 = 20;

pub(super) fn holds(lab: &mut Lab) -> Result<()> {
    let mut udp = Talk::udp_from(lab.client(), CLIENT_PORT, lab.echo())?;
    let stranger = lab.cluster.underlay.join("stranger", STRANGER)?;
    let forged = forged(lab)?;
    let pod = lab.b().pods[0].namespace();
    let length = 8 + WORD.len();
    pod.run_lines(&format!(
        "nft add table inet seen
         nft add chain inet seen input {{ type filter hook input priority 0 ; }}
         nft add rule inet seen input udp length {length} counter"
    ))?;
    lab.until_fast(&mut udp)?;
    for (member, policies) in lab.cluster.members.iter().zip(POLICIES) {
        let node = member.node.namespace();
        node.run_lines(STATES)?;
        node.run_lines(policies)?;
    }
    // For one permit time BPF may still send clear text, which the other node takes no more.
    udp.set_patience(SHORT)?;
    let begin = Instant::now();
    while begin.elapsed() < 2 * PERMIT_TIME {
        drop(udp.ask());
    }
    udp.set_patience(PATIENCE)?;
    let before = lab.fast_counts()?;
    (0..ROUND).try_for_each(|_| udp.ask().context("by ESP"))?;
    ensure!(lab.fast_counts()? == before, "fast past IPsec");

    let judged = || {
        let counters = lab.b().agent.counters()?;
        counters.packets("from_uplink", "outer_permit_expired")
    };
    let before = judged()?;
    let raw = RawIp::open(stranger.namespace())?;
    // The stack accepts the flow in both directions right now.
    (0..ROUND).try_for_each(|_| udp.ask())?;
    (0..FORGED).try_for_each(|_| raw.send(NODE_B, &forged))?;
    // They met a permit that would have carried them, or this proves nothing.
    wait_until("the forged packets are judged", PATIENCE, || {
        judged().is_ok_and(|after| after >= before + FORGED)
    })?;
    let seen = pod.run(&["nft", "list", "chain", "inet", "seen", "input"])?;
    ensure!(seen.contains("packets 0 bytes 0"), "in the pod: {seen}");
    udp.ask().context("after all that was forged")?;

    pod.run_lines("nft delete table inet seen")?;
    for member in &lab.cluster.members {
        let node = member.node.namespace();
        node.run_lines("ip xfrm policy flush\nip xfrm state flush")?;
    }
    lab.until_fast(&mut udp)
}

/// Clear text in node A's name, with the very tuple of the flow.
fn forged(lab: &Lab) -> Result<Vec<u8>> {
    let mac = Lab::status(lab.b())?["mac"].take();
    let mac: MacAddr = mac.as_str().context("no MAC address")?.parse()?;
    let client = lab.a().pods[0].address();
    let inner = Ipv4::new(client, lab.server()).udp(&Udp::new(CLIENT_PORT, ECHO_PORT), WORD);
    let frame = Vxlan::new(VNI).over(&Ethernet::ipv4(VTEP_MAC_A, mac.0).over(&inner));
    Ok(Ipv4::new(NODE_A, NODE_B).udp(&Udp::without_checksum(CLIENT_PORT, PORT), &frame))
}
