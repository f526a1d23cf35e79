//! What holds on every kernel, whoever carries the packets.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::topology::Node;
use twill_testbed::traffic::{ping, tcp_echo, udp_echo};
use twill_testbed::world::{NODE_A, UPLINK};

use crate::lab::{ENCAP, Lab, Options, has, run};
use crate::talk::{Talk, sctp_socket};

const SCTP_PORT: u16 = 7008;

/// Ping, TCP and UDP of several sizes, contents compared.
fn pods_talk(lab: &Lab) -> Result<()> {
    for size in [0, 56, 1_400] {
        ping(lab.client(), lab.server(), size)?;
    }
    for length in [1, 300_000] {
        tcp_echo(lab.client(), lab.server(), length)?;
    }
    // The longest is a datagram of several fragments.
    for length in [1, 1_000, 5_000] {
        udp_echo(lab.client(), lab.server(), length)?;
    }
    Ok(())
}

#[test]
fn pods_talk_and_the_agent_says_who_carries() -> Result<()> {
    run(Options::default(), |lab| {
        pods_talk(lab)?;
        for member in &lab.cluster.members {
            let status = Lab::status(member)?;
            let reason = status["reason"].as_str().unwrap_or_default();
            let mode = if has(ENCAP) { "bpf" } else { "kernel" };
            ensure!(status["mode"] == mode, "{status}");
            ensure!(
                has(ENCAP) || reason.contains("BPF_F_ADJ_ROOM_ENCAP_L2_ETH"),
                "the reason is {reason:?}"
            );
            let rst = has("conntrack ignores invalid RST");
            let fast_path = &status["fast_path"];
            let reason = fast_path["reason"].as_str().unwrap_or_default();
            ensure!(fast_path["tcp"] == rst, "{fast_path}");
            ensure!(
                rst || reason.contains("nf_conntrack_tcp_ignore_invalid_rst"),
                "the reason is {reason:?}"
            );
        }
        sctp_crosses_the_overlay(lab).context("SCTP")
    })
}

fn sctp_crosses_the_overlay(lab: &Lab) -> Result<()> {
    let listener = lab.b().pods[0].namespace().enter(|| {
        let socket = sctp_socket()?;
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, SCTP_PORT));
        socket.bind(&any.into())?;
        socket.listen(1)?;
        Ok::<_, std::io::Error>(socket)
    })??;
    let server = thread::spawn(move || -> std::io::Result<u64> {
        let (stream, _) = listener.accept()?;
        std::io::copy(&mut &stream, &mut &stream)
    });
    let to = SocketAddrV4::new(lab.server(), SCTP_PORT);
    let mut talk = Talk::sctp(lab.client(), to)?;
    (0..50).try_for_each(|_| talk.ask())?;
    drop(talk);
    let echoed = server.join().ok().context("the server panicked")??;
    ensure!(echoed == 50 * 900, "{echoed} bytes were echoed");
    Ok(())
}

/// Makes a node's uplink a VLAN device, with an address of its own, on what was the uplink and
/// still leads to the lease server.
fn tag(node: &Node) -> Result<()> {
    let last = if node.address() == NODE_A { 1 } else { 2 };
    node.namespace().run_lines(&format!(
        "ip link set {UPLINK} down
         ip link set {UPLINK} name nic0
         ip link set nic0 up
         ip link add link nic0 name {UPLINK} type vlan id 7
         ip addr add 203.0.113.{last}/24 dev {UPLINK}
         ip link set {UPLINK} up"
    ))
}

#[test]
fn an_uplink_with_a_vlan_tag_carries_the_overlay_by_filters() -> Result<()> {
    let options = Options {
        prepare: Some(tag),
        flags: &["--attach-by", "netlink"],
        ..Options::default()
    };
    run(options, |lab| {
        for (member, last) in lab.cluster.members.iter().zip([1, 2]) {
            let status = Lab::status(member)?;
            ensure!(
                status["uplink_address"] == format!("203.0.113.{last}"),
                "{status}"
            );
        }
        pods_talk(lab)?;
        if has(ENCAP) {
            let found = Lab::attached_by(lab.a(), "from_pod")?;
            ensure!(found == "netlink", "attached by {found}");
            lab.until_fast(&mut Talk::udp(lab.client(), lab.echo())?)?;
            lab.until_fast(&mut Talk::tcp(lab.client(), lab.echo())?)?;
        }
        Ok(())
    })
}
