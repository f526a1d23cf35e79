//! What arrives is the same to the byte, by the kernel's way and by a permit: pod to pod and through
//! a Service, there and back, whatever TOS, TTL and checksum it has.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::capture::Capture;
use twill_testbed::forge::RawIp;
use twill_testbed::packet::{DONT_FRAGMENT, Ethernet, Ipv4, Tcp, Udp, side_by_side};
use twill_testbed::pod::Pod;

use crate::lab::{A, B, Lab, Options, twill};
use crate::rules::{ECHO, ONE};
use crate::talk::{Flow, Server};

const PORT: u16 = 6950;
/// In front of every payload, then the number of the packet.
const WORD: &[u8] = b"to the byte";
/// DSCP and ECN: nothing, ECT(1), ECT(0), CE, expedited forwarding with ECT(0).
const TOS: [u8; 5] = [0, 1, 2, 3, 0xba];
/// TTL, identification and DF.
const NUMBERED: [(u8, u16, u16); 4] = [
    (64, 0x1234, DONT_FRAGMENT),
    (3, 0xffff, DONT_FRAGMENT),
    (255, 1, 0),
    (64, 0xfffe, 0),
];
const MORE: [usize; 4] = [0, 1, 64, 1_380];
const PATIENCE: Duration = Duration::from_secs(5);

/// Packets by their number.
type Packets = BTreeMap<u8, Vec<u8>>;

/// A flow: whether it is TCP, its pod's port, what its pod sends to.
type Way = (bool, u16, SocketAddrV4);

/// Packets of every kind, in the name of a flow.
fn packets(tcp: bool, from: SocketAddrV4, to: SocketAddrV4) -> Packets {
    let mut packets = Packets::new();
    let mut more = MORE.into_iter().cycle();
    for tos in TOS {
        for (ttl, id, fragment) in NUMBERED {
            let number = u8::try_from(packets.len()).unwrap_or(u8::MAX);
            let ip = Ipv4 {
                tos,
                ttl,
                id,
                fragment,
                ..Ipv4::new(*from.ip(), *to.ip())
            };
            let mut payload = [WORD, &[number]].concat();
            payload.resize(payload.len() + more.next().unwrap_or(0), number);
            let packet = if tcp {
                let segment = Tcp {
                    // Gaps, which no GRO puts together.
                    sequence: u32::from(number) * 100_000,
                    flags: Tcp::ACK | Tcp::PSH,
                    ..Tcp::new(from.port(), to.port())
                };
                ip.tcp(&segment, &payload)
            } else if number % 3 == 2 {
                ip.udp(&Udp::without_checksum(from.port(), to.port()), &payload)
            } else {
                ip.udp(&Udp::new(from.port(), to.port()), &payload)
            };
            packets.insert(number, packet);
        }
    }
    packets
}

/// Sends them from one pod, and gives what the other gets of them.
fn sent(from: &Pod, to: &Pod, destination: Ipv4Addr, packets: &Packets) -> Result<Packets> {
    let capture = Capture::on(to.namespace(), "eth0")?;
    let raw = RawIp::open(from.namespace())?;
    for packet in packets.values() {
        raw.send(destination, packet)?;
    }
    let mut arrived = Packets::new();
    while arrived.len() < packets.len() {
        let frame = capture.next(PATIENCE)?;
        let frame = frame.with_context(|| format!("only {:?} arrived", arrived.keys()))?;
        let packet = &frame[Ethernet::LENGTH..];
        let word = packet.windows(WORD.len()).position(|bytes| bytes == WORD);
        if let Some(number) = word.and_then(|at| packet.get(at + WORD.len())) {
            arrived.insert(*number, packet.to_vec());
        }
    }
    Ok(arrived)
}

/// What arrives of both directions' packets of a flow.
fn there_and_back(lab: &Lab, (tcp, port, to): Way) -> Result<[Packets; 2]> {
    let (client, server) = (lab.pod(A, 0), lab.pod(B, 0));
    let from = SocketAddrV4::new(client.address(), port);
    let backend = SocketAddrV4::new(server.address(), ECHO);
    Ok([
        sent(client, server, *to.ip(), &packets(tcp, from, to))?,
        sent(server, client, *from.ip(), &packets(tcp, backend, from))?,
    ])
}

/// What begins with the word is captured, and nobody's business then.
const KEEP_FROM_SOCKETS: &str = "nft add table inet word
    nft add chain inet word in { type filter hook prerouting priority 0 ; }
    nft add rule inet word in meta l4proto udp @th,64,88 0x746f207468652062797465 drop
    nft add rule inet word in meta l4proto tcp @th,160,88 0x746f207468652062797465 drop";

fn arrive_alike(lab: &Lab) -> Result<()> {
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    for node in [A, B] {
        lab.pod(node, 0).namespace().run_lines(KEEP_FROM_SOCKETS)?;
    }
    // With one port, netfilter would give the Service's flows another on the wire.
    let to = [Server::address(lab.pod(B, 0)), ONE];
    for (port, to) in (PORT..).zip(to) {
        for tcp in [false, true] {
            let what = format!("{} to {to}", if tcp { "TCP" } else { "UDP" });
            arrives_alike(lab, (tcp, port, to)).context(what)?;
        }
    }
    Ok(())
}

fn arrives_alike(lab: &Lab, way: Way) -> Result<()> {
    let pod = lab.pod(A, 0).namespace();
    let (tcp, port, to) = way;
    let mut flow = if tcp {
        Flow::tcp(pod, port, to)?
    } else {
        Flow::udp(pod, port, to)?
    };
    let mode = |mode| -> Result<()> {
        let mut members = lab.cluster.members.iter();
        members.try_for_each(|member| member.agent.ctl_text(&["mode", mode]).map(drop))
    };
    lab.until_fast(&mut flow).context("at first")?;
    mode("kernel")?;
    let slow = there_and_back(lab, way).context("by the kernel")?;
    mode("bpf")?;
    lab.until_fast(&mut flow).context("again")?;
    let before = lab.fast_counts()?;
    let fast = there_and_back(lab, way).context("by permits")?;
    // But for probes.
    let many = u64::try_from(fast[0].len())? - 2;
    let after = lab.fast_counts()?;
    let mut counts = before.iter().zip(&after);
    ensure!(
        counts.all(|(before, after)| after - before >= many),
        "not {many} of each direction were fast: {before:?}, {after:?}"
    );
    for (slow, fast) in slow.iter().zip(&fast) {
        for (number, by_kernel) in slow {
            let by_permit = &fast[number];
            ensure!(
                by_kernel == by_permit,
                "packet {number}:\n{}",
                side_by_side("kernel", by_kernel, "permit", by_permit)
            );
        }
    }
    Ok(())
}

#[test]
fn what_arrives_by_a_permit_is_what_arrives_by_the_kernel() -> Result<()> {
    twill(Options::default(), |lab| arrive_alike(lab))
}
