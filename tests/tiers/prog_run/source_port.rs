//! The outer UDP source port: the kernel's formula over the hash of the inner flow,
//! `udp_flow_src_port()` in `include/net/udp.h`, v6.18.
//!
//! `BPF_PROG_TEST_RUN` neither takes nor shows `skb->hash`. So the widest range reads the
//! hash from the port, as far as 16 bits can tell it, and every other range must agree with
//! it. That the hash is the kernel's own is shown in [`super::live`].

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use twill_abi::Program;
use twill_testbed::packet::{Ipv4, Tcp, Udp};

use super::check::REDIRECT;
use super::lab::Lab;
use super::packets::{leaving, payload, to_pod_b};
use super::sk_buff::SkBuff;

/// A range of ports, its end not included.
type Range = (u16, u16);
/// The widest range: the port is the upper 16 bits of the hash, nearly.
const WIDEST: Range = (0, u16::MAX);

/// The source port of an encapsulated packet.
fn source_port(lab: &Lab, inner: &[u8], (min, max): Range) -> u16 {
    let mut tables = lab.tables();
    tables.config.source_port_min = min;
    tables.config.source_port_max = max;
    let output = lab.run(
        Program::ToOverlay,
        &tables,
        &leaving(inner),
        SkBuff::default(),
    );
    let output = output.expect("the kernel runs it");
    assert_eq!(output.verdict, REDIRECT, "range {min} to {max}");
    u16::from_be_bytes([output.packet[34], output.packet[35]])
}

/// The hashes for which the formula gives `port` in [`WIDEST`].
fn hashes(port: u16) -> RangeInclusive<u64> {
    let start = |port: u64| (port << 32).div_ceil(u64::from(WIDEST.1));
    start(u64::from(port))..=start(u64::from(port) + 1) - 1
}

/// What the formula makes of a hash.
pub(crate) fn port_of(hash: u64, (min, max): Range) -> u16 {
    let offset = (hash * u64::from(max - min)) >> 32;
    min + u16::try_from(offset).expect("below the width of the range")
}

fn flows() -> Vec<Vec<u8>> {
    let ip = to_pod_b();
    let udp = (0..40).map(|flow| ip.udp(&Udp::new(40_000 + flow, 53), &payload(32)));
    let tcp = (0..40).map(|flow| ip.tcp(&Tcp::new(50_000, 80 + flow), &payload(32)));
    let pods = (0..20u8).map(|pod| {
        let source = [10, 244, 1, 10 + pod].into();
        Ipv4 {
            source,
            ..to_pod_b()
        }
        .over(&payload(32))
    });
    udp.chain(tcp).chain(pods).collect()
}

#[test]
fn the_port_follows_the_kernels_formula() {
    let Some(lab) = Lab::open() else { return };
    let ranges = [
        (32_768, 60_999),
        (1, u16::MAX),
        (49_152, 49_168),
        (1_000, 1_003),
        (5_000, 5_001),
    ];
    let (mut exact, mut all) = (0, 0);
    for inner in flows() {
        let hashes = hashes(source_port(&lab, &inner, WIDEST));
        for range in ranges {
            let port = source_port(&lab, &inner, range);
            let wanted = port_of(*hashes.start(), range)..=port_of(*hashes.end(), range);
            assert!(
                wanted.contains(&port),
                "{port} is not in {wanted:?} of {range:?}"
            );
            exact += u32::from(wanted.start() == wanted.end());
            all += 1;
        }
    }
    // The comparison is worth something: it mostly leaves one port.
    assert!(exact * 10 > all * 6, "{exact} of {all} were exact");
}

#[test]
fn a_flow_keeps_its_port_and_flows_spread() {
    let Some(lab) = Lab::open() else { return };
    let flows = flows();
    let ports: Vec<u16> = flows
        .iter()
        .map(|inner| source_port(&lab, inner, WIDEST))
        .collect();
    let again: Vec<u16> = flows
        .iter()
        .map(|inner| source_port(&lab, inner, WIDEST))
        .collect();
    assert_eq!(ports, again);
    let distinct: BTreeSet<u16> = ports.iter().copied().collect();
    assert!(
        distinct.len() * 10 > ports.len() * 9,
        "{} ports for {} flows",
        distinct.len(),
        ports.len()
    );
}

#[test]
fn the_payload_does_not_move_the_port() {
    let Some(lab) = Lab::open() else { return };
    let ip = to_pod_b();
    let udp = Udp::new(40_000, 53);
    let port = source_port(&lab, &ip.udp(&udp, b"a"), WIDEST);
    for inner in [
        ip.udp(&udp, &payload(1_000)),
        Ipv4 {
            ttl: 3,
            tos: 0x2e,
            id: 9,
            ..ip
        }
        .udp(&udp, b"b"),
    ] {
        assert_eq!(source_port(&lab, &inner, WIDEST), port);
    }
}

#[test]
fn an_empty_range_is_its_first_port() {
    let Some(lab) = Lab::open() else { return };
    let inner = to_pod_b().udp(&Udp::new(40_000, 53), b"a");
    for range in [(4_789, 4_790), (4_789, 4_789)] {
        assert_eq!(source_port(&lab, &inner, range), 4_789, "{range:?}");
    }
}
