//! What was damaged on its way is as bad by a permit as by the kernel: whatever a NIC says of the
//! checksums, the pod gets what stock nodes' pods get, and no damaged byte.

mod nic;
mod stream;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::forge::Frames;
use twill_testbed::netns::Namespace;
use twill_testbed::packet::{Ethernet, Ipv4, Udp, Vxlan};
use twill_testbed::traffic::again;
use twill_testbed::world::{
    GATEWAY, NODE_A, NODE_B, OVERLAY_LINK, PORT, UPLINK, UPLINK_MAC_A, UPLINK_MAC_B, VNI,
};

use crate::lab::{A, B, Kind, Lab, Options, run};
use crate::rules::ECHO;

/// How long a datagram may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// What begins a forged datagram; then its number.
const WORD: &[u8] = b"forged";
const CLIENT: u16 = 6960;

/// What is said of the checksums of a frame when the uplink receives it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Said {
    /// Nothing: `CHECKSUM_NONE`.
    Nothing,
    /// So many are right: `CHECKSUM_UNNECESSARY`, level by level.
    Verified(usize),
    /// The sum over the whole packet: `CHECKSUM_COMPLETE`.
    Sum,
}

/// What is said, and whether GRO verifies what it can.
const SAID: [(Said, bool); 9] = [
    (Said::Nothing, false),
    (Said::Nothing, true),
    (Said::Verified(1), false),
    (Said::Verified(1), true),
    (Said::Verified(2), false),
    (Said::Verified(2), true),
    (Said::Verified(3), false),
    (Said::Sum, false),
    (Said::Sum, true),
];

/// A checksum.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sum {
    Zero,
    Right,
    Wrong,
}

const SUMS: [Sum; 3] = [Sum::Zero, Sum::Right, Sum::Wrong];

/// Whether the kernel delivers it.
fn arrives(said: Said, outer: Sum, inner: Sum) -> bool {
    let verified = match said {
        Said::Verified(sums) => sums,
        Said::Nothing | Said::Sum => 0,
    };
    (outer != Sum::Wrong || verified > 0) && (inner != Sum::Wrong || verified > 1)
}

/// A UDP packet with a checksum of this kind; a wrong one has this bit of its upper byte turned.
/// One damage must not make up for another: the kernel, told that the outer sum is right, takes it
/// for the packet's.
fn datagram(ip: &Ipv4, ports: (u16, u16), payload: &[u8], sum: Sum, bit: u8) -> Vec<u8> {
    let udp = match sum {
        Sum::Zero => Udp::without_checksum(ports.0, ports.1),
        Sum::Right | Sum::Wrong => Udp::new(ports.0, ports.1),
    };
    let mut packet = ip.udp(&udp, payload);
    if sum == Sum::Wrong {
        packet[Ipv4::LENGTH + 6] ^= bit;
    }
    packet
}

/// Whose datagrams are forged, and whose are the vxlan devices on both sides.
struct Ends {
    pods: [SocketAddrV4; 2],
    vteps: [[u8; 6]; 2],
}

/// The MAC address of a link.
fn mac(namespace: &Namespace, link: &str) -> Result<[u8; 6]> {
    let link = namespace.link_json(link)?;
    let text = link["address"].as_str().context("no MAC address")?;
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let bytes: Vec<u8> = bytes.collect::<Result<_, _>>()?;
    bytes.try_into().ok().context("six bytes")
}

/// A datagram from a pod of the first node to one of the second, as it is on the wire.
fn on_the_wire(ends: &Ends, number: u8, outer: Sum, inner: Sum, slow: bool) -> Vec<u8> {
    let [from, to] = ends.pods;
    let ip = Ipv4 {
        ttl: 63,
        // Which permits know nothing of.
        options: if slow { vec![1; 4] } else { Vec::new() },
        ..Ipv4::new(*from.ip(), *to.ip())
    };
    let payload = [WORD, &[number], &[number; 100]].concat();
    let inner = datagram(&ip, (from.port(), to.port()), &payload, inner, 0x20);
    let frame = Ethernet::ipv4(ends.vteps[0], ends.vteps[1]).over(&inner);
    let vxlan = Vxlan::new(VNI).over(&frame);
    let outer = datagram(
        &Ipv4::new(NODE_A, NODE_B),
        (41_000, PORT),
        &vxlan,
        outer,
        0x10,
    );
    Ethernet::ipv4(UPLINK_MAC_A, UPLINK_MAC_B).over(&outer)
}

/// The port of [`tunnel`], and its VNI.
const TUNNEL: (u16, u32) = (4790, 77);

/// What comes through this tunnel to the switch goes on to the second node with the sum that the
/// switch had to take over all of it.
fn tunnel(switch: &Namespace) -> Result<nic::OnInterface> {
    let (port, vni) = TUNNEL;
    switch.run_lines(&format!(
        "ip link add tunnel type vxlan id {vni} dstport {port} local {GATEWAY} nolearning
         ip link set tunnel up"
    ))?;
    let to = switch.link_json("b")?["ifindex"].as_i64();
    let to = to.context("the port has no index")?.try_into()?;
    nic::leads_to(switch, "tunnel", to)
}

/// The frame in the tunnel.
fn in_tunnel(switch: &Namespace, frame: &[u8]) -> Result<Vec<u8>> {
    let (port, vni) = TUNNEL;
    let vxlan = Vxlan::new(vni).over(frame);
    let packet = Ipv4::new(NODE_A, GATEWAY).udp(&Udp::new(41_000, port), &vxlan);
    Ok(Ethernet::ipv4(UPLINK_MAC_A, mac(switch, "switch")?).over(&packet))
}

/// Every kind of datagram arrives or not, as the kernel has it.
fn table(lab: &Lab) -> Result<()> {
    let bind = |node: usize, port: u16| -> Result<UdpSocket> {
        let namespace = lab.pod(node, 0).namespace();
        let socket = namespace.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))??;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    };
    let (client, server) = (bind(A, CLIENT)?, bind(B, ECHO)?);
    let pods = [(A, CLIENT), (B, ECHO)];
    let ends = Ends {
        pods: pods.map(|(node, port)| SocketAddrV4::new(lab.pod(node, 0).address(), port)),
        vteps: [
            mac(lab.host(A), OVERLAY_LINK)?,
            mac(lab.host(B), OVERLAY_LINK)?,
        ],
    };
    client.connect(ends.pods[1])?;
    let mut exchange = || -> Result<()> {
        let mut buffer = [0; 64];
        client.send(b"fast")?;
        let (_, from) = again(|| server.recv_from(&mut buffer)).context("request")?;
        ensure!(from == SocketAddr::V4(ends.pods[0]), "from {from}");
        server.send_to(b"fast", from)?;
        again(|| client.recv(&mut buffer)).context("answer")?;
        Ok(())
    };
    let switch = lab.cluster.underlay.switch();
    let uplink = Frames::on(lab.host(A), UPLINK)?;
    let _tunnel = tunnel(switch)?;
    for (said, gro) in SAID {
        let gro_is = self::gro(lab, gro)?;
        lab.make_fast(&mut exchange)?;
        let _nic = match said {
            Said::Verified(sums) => Some(nic::verifies(switch, "b", sums)?),
            Said::Nothing | Said::Sum => None,
        };
        let send = |frame: &[u8]| match said {
            Said::Sum => uplink.send(&in_tunnel(switch, frame)?),
            Said::Nothing | Said::Verified(_) => uplink.send(frame),
        };
        let before = fast(lab)?;
        let kinds = SUMS
            .iter()
            .flat_map(|outer| SUMS.map(|inner| (*outer, inner)));
        let kinds: Vec<_> = kinds.collect();
        let mut wanted = BTreeSet::new();
        for (number, (outer, inner)) in (0..).zip(&kinds) {
            send(&on_the_wire(&ends, number, *outer, *inner, false))?;
            if arrives(said, *outer, *inner) {
                wanted.insert(number);
            }
        }
        // One behind them on each way.
        for (number, slow) in [(100, false), (101, true)] {
            send(&on_the_wire(&ends, number, Sum::Zero, Sum::Right, slow))?;
            wanted.insert(number);
        }
        let mut came = BTreeSet::new();
        let mut buffer = [0; 2048];
        while !wanted.is_subset(&came) {
            let received = again(|| server.recv_from(&mut buffer));
            let (length, _) = received
                .with_context(|| format!("{said:?}, GRO {gro_is}: {came:?} of {wanted:?}"))?;
            if let [number, ..] = buffer[..length].strip_prefix(WORD).unwrap_or_default() {
                came.insert(*number);
            }
        }
        let more: Vec<_> = came.difference(&wanted).collect();
        let more: Vec<_> = more
            .iter()
            .filter_map(|number| kinds.get(usize::from(**number)))
            .collect();
        ensure!(
            more.is_empty(),
            "{said:?}, GRO {gro_is}: outer and inner {more:?} arrived"
        );
        let fast = fast(lab)? - before;
        ensure!(
            !lab.has_programs() || fast >= 4,
            "{said:?}, GRO {gro_is}: {fast} were fast"
        );
    }
    Ok(())
}

/// Puts together what the second node's uplink receives, or not. A veth does so only with what comes
/// from a device that would have cut it (`veth_skb_is_eligible_for_gro()`, `drivers/net/veth.c`,
/// v6.12).
fn gro(lab: &Lab, on: bool) -> Result<&'static str> {
    let word = if on { "on" } else { "off" };
    let switch = lab.cluster.underlay.switch();
    switch.run_lines("ethtool -K b tso off")?;
    lab.on(B, &format!("ethtool -K {UPLINK} gro {word}"))?;
    Ok(word)
}

/// Packets that went past the second node's stack into its pods.
fn fast(lab: &Lab) -> Result<u64> {
    if lab.has_programs() {
        lab.count(B, "from_uplink", "fast")
    } else {
        Ok(0)
    }
}

#[test]
fn a_damaged_datagram_is_delivered_where_the_kernel_would_and_nowhere_else() -> Result<()> {
    run(&Kind::ALL, Options::default(), |lab| table(lab)).map(drop)
}
