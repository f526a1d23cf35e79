//! VXLAN over IPv6. Twill has no peers there, so the kernel's device has no socket for it.

use std::net::Ipv6Addr;

use anyhow::{Context as _, Result, ensure};
use twill_testbed::packet::{ETHER_TYPE_IPV6, Ethernet, Vxlan};
use twill_testbed::wait::wait_until;
use twill_testbed::world::{STRANGER, UPLINK, UPLINK_MAC_A, VNI, uplink_mac};
use twill_tests::required;

use crate::arena::{A, Arena, SECONDS};
use crate::kinds::{Forged, SOURCE_PORT, VXLAN_PORT};
use crate::watch::Watch;

const VICTIM: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const MALLORY: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x66);
/// VNI of somebody's overlay over IPv6 on the victim, at the same port.
const OTHERS_VNI: u32 = VNI + 5;

/// VXLAN to the victim's pod in an IPv6 packet (RFC 8200, 3), without a UDP checksum (RFC 6935).
fn over_ipv6(arena: &Arena, vni: u32, word: &str) -> Result<Vec<u8>> {
    let mut forged = Forged::new(&arena.target());
    forged.vxlan = Vxlan::new(vni);
    let vxlan = forged.vxlan(word);
    let length = u16::try_from(8 + vxlan.len())?;
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([17, 64]);
    packet.extend(MALLORY.octets());
    packet.extend(VICTIM.octets());
    for word in [SOURCE_PORT, VXLAN_PORT, length, 0] {
        packet.extend(word.to_be_bytes());
    }
    packet.extend(vxlan);
    let ethernet = Ethernet {
        destination: UPLINK_MAC_A,
        source: uplink_mac(STRANGER),
        ether_type: ETHER_TYPE_IPV6,
    };
    Ok(ethernet.over(&packet))
}

/// Packets that a link of the victim's has received.
fn received(arena: &Arena, link: &str) -> Result<u64> {
    let link = arena.victim().node.namespace().link_json(link)?;
    link["stats64"]["rx"]["packets"]
        .as_u64()
        .context("no count")
}

#[test]
fn vxlan_over_ipv6_reaches_no_pod() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut arena = Arena::of(2, &["--guard=off"])?;
    // With a device of somebody's that takes VXLAN over IPv6 at our port, the packets are in
    // order and the port is open; only our VNI is not there.
    arena.victim().node.namespace().run_lines(&format!(
        "ip -6 address add {VICTIM}/64 dev {UPLINK} nodad
         ip link add six type vxlan id {OTHERS_VNI} local {VICTIM} dstport {VXLAN_PORT} nolearning udp6zerocsumrx
         ip link set six up"
    ))?;
    let watch = Watch::start(arena.pod(A))?;
    for flags in [&["--guard=off"][..], &["--guard=enforce"]] {
        if flags != ["--guard=off"] {
            arena.restart(flags)?;
        }
        let ours = over_ipv6(&arena, VNI, "six")?;
        let others = over_ipv6(&arena, OTHERS_VNI, "others")?;
        arena.send(&[ours])?;
        let before = received(&arena, "six")?;
        wait_until(
            "VXLAN over IPv6 is taken by whom it is for",
            SECONDS,
            || {
                arena.send(std::slice::from_ref(&others)).is_ok()
                    && received(&arena, "six").is_ok_and(|now| now > before)
            },
        )?;
        arena.settle(&watch)?;
        ensure!(
            watch.count("six") == 0,
            "{flags:?}: VXLAN over IPv6 arrived"
        );
        ensure!(watch.count("others") == 0, "{flags:?}: another overlay's");
    }
    Ok(())
}
