//! Malformed packets: every prefix of a good one, and every length that lies.
//!
//! `BPF_PROG_TEST_RUN` refuses IPv4 that is shorter than its header, so prefixes start there; a
//! test below holds it to that, and `live` sends the shorter ones.

use twill_abi::{Program, Reason};
use twill_testbed::packet::{Ethernet, Ipv4, Udp, Vxlan};

use super::check::{Case, check};
use super::lab::{Lab, SHORTEST};
use super::packets::{Outer, TO_OVERLAY, datagram, from_pod_b, leaving, payload, to_pod_b};
use super::sk_buff::SkBuff;

const ETHERNET: usize = Ethernet::LENGTH;
/// End of the inner IPv4 header as `to_overlay` meets it.
const IP_END: usize = ETHERNET + Ipv4::LENGTH;
/// End of the inner Ethernet header: `from_uplink` reads from UDP to there in one piece.
const TAIL_END: usize = IP_END + Udp::LENGTH + Vxlan::LENGTH + ETHERNET;
/// End of the inner IPv4 header as `from_uplink` meets it.
const INNER_IP_END: usize = TAIL_END + Ipv4::LENGTH;

fn passed(lab: &Lab, name: &str, program: Program, frame: Vec<u8>, reason: Reason) {
    let tables = lab.tables();
    check(lab, &Case::passed(name, program, tables, frame, reason));
}

#[test]
fn the_kernel_runs_nothing_on_less_than_an_ipv4_header() {
    let Some(lab) = Lab::open() else { return };
    let tables = lab.tables();
    let frame = leaving(&datagram(&to_pod_b(), 64));
    for program in [Program::ToOverlay, Program::FromUplink] {
        for length in 0..SHORTEST {
            let result = lab.run(program, &tables, &frame[..length], SkBuff::default());
            assert!(result.is_err(), "{length} bytes were run");
        }
    }
}

#[test]
fn no_prefix_of_a_packet_is_encapsulated() {
    let Some(lab) = Lab::open() else { return };
    let frame = leaving(&datagram(&to_pod_b(), 30));
    for length in SHORTEST..frame.len() {
        let name = format!("{length} of {} bytes", frame.len());
        let prefix = frame[..length].to_vec();
        passed(&lab, &name, Program::ToOverlay, prefix, Reason::IpMalformed);
    }
}

#[test]
fn every_prefix_of_a_vxlan_packet_is_counted_for_what_it_lacks() {
    let Some(lab) = Lab::open() else { return };
    let frame = Outer::from_node_b().over(&datagram(&from_pod_b(), 30));
    for length in SHORTEST..frame.len() {
        let reason = if length < TAIL_END {
            Reason::Truncated
        } else {
            Reason::OuterMalformed
        };
        let name = format!("{length} of {} bytes", frame.len());
        passed(
            &lab,
            &name,
            Program::FromUplink,
            frame[..length].to_vec(),
            reason,
        );
    }
}

#[test]
fn every_prefix_of_the_inner_frame_is_counted_for_what_it_lacks() {
    // The outer lengths are right: the sender itself encapsulated too little.
    let Some(lab) = Lab::open() else { return };
    let outer = Outer::from_node_b();
    let whole = outer.inner.over(&datagram(&from_pod_b(), 30));
    for length in 0..whole.len() {
        let vxlan = outer.vxlan.over(&whole[..length]);
        let frame = outer.ethernet.over(&outer.ip.udp(&outer.udp, &vxlan));
        let reason = if frame.len() < INNER_IP_END {
            Reason::Truncated
        } else {
            Reason::IpMalformed
        };
        let name = format!("{length} of {} inner bytes", whole.len());
        passed(&lab, &name, Program::FromUplink, frame, reason);
    }
    for length in 0..Vxlan::LENGTH {
        let frame = outer.ip.udp(&outer.udp, &outer.vxlan.over(&[])[..length]);
        let name = format!("{length} bytes of VXLAN header");
        passed(
            &lab,
            &name,
            Program::FromUplink,
            outer.ethernet.over(&frame),
            Reason::Truncated,
        );
    }
}

/// Headers that are not IPv4's, or shorter than one.
fn false_starts(honest: &Ipv4) -> Vec<(String, Ipv4)> {
    let versions = [0, 3, 5, 6, 15].map(|version| {
        let header = Ipv4 {
            version,
            ..honest.clone()
        };
        (format!("version {version}"), header)
    });
    let lengths = [0, 1, 2, 3, 4].map(|ihl| {
        let header = Ipv4 {
            ihl: Some(ihl),
            ..honest.clone()
        };
        (format!("IHL {ihl}"), header)
    });
    versions.into_iter().chain(lengths).collect()
}

/// Headers that say less than a header or more than there is, which is `length` bytes.
fn false_lengths(honest: &Ipv4, length: u16) -> Vec<(String, Ipv4)> {
    [
        0,
        1,
        19,
        length + 1,
        length + 2,
        length + 64,
        0x7fff,
        0xffff,
    ]
    .map(|total_length| {
        let header = Ipv4 {
            total_length: Some(total_length),
            ..honest.clone()
        };
        (format!("total length {total_length} of {length}"), header)
    })
    .into()
}

#[test]
fn a_lying_header_is_not_encapsulated() {
    let Some(lab) = Lab::open() else { return };
    let headers = [
        false_starts(&to_pod_b()),
        false_lengths(&to_pod_b(), 20 + 64),
    ]
    .concat();
    for (name, header) in headers {
        let frame = TO_OVERLAY.over(&header.over(&payload(64)));
        passed(&lab, &name, Program::ToOverlay, frame, Reason::IpMalformed);
    }
    // IHL 15 says 60 bytes of header where there are 20 and too little behind them.
    let header = Ipv4 {
        ihl: Some(15),
        ..to_pod_b()
    };
    let frame = TO_OVERLAY.over(&header.over(&payload(39)));
    passed(
        &lab,
        "IHL 15",
        Program::ToOverlay,
        frame,
        Reason::IpMalformed,
    );
}

#[test]
fn a_lying_outer_header_is_not_vxlan_to_us() {
    let Some(lab) = Lab::open() else { return };
    let outer = Outer::from_node_b();
    let inner = datagram(&from_pod_b(), 64);
    let length = u16::try_from(inner.len() + 50).expect("a small packet");
    let refused = |headers: Vec<(String, Ipv4)>, reason| {
        for (name, ip) in headers {
            let frame = Outer {
                ip,
                ..outer.clone()
            }
            .over(&inner);
            passed(&lab, &name, Program::FromUplink, frame, reason);
        }
    };
    refused(false_starts(&outer.ip), Reason::IpMalformed);
    refused(false_lengths(&outer.ip, length), Reason::OuterMalformed);
    let ip = Ipv4 {
        ihl: Some(15),
        ..outer.ip.clone()
    };
    let frame = Outer { ip, ..outer }.over(&inner);
    passed(
        &lab,
        "outer IHL 15",
        Program::FromUplink,
        frame,
        Reason::IpOptions,
    );
}

#[test]
fn a_lying_udp_length_is_malformed() {
    let Some(lab) = Lab::open() else { return };
    let inner = datagram(&from_pod_b(), 64);
    let right = u16::try_from(Udp::LENGTH + Vxlan::LENGTH + ETHERNET + inner.len()).expect("small");
    for length in [0, 1, 7, 8, 15, 16, right - 1, right + 1, right + 20, 0xffff] {
        let mut outer = Outer::from_node_b();
        outer.udp.length = Some(length);
        let name = format!("UDP length {length} instead of {right}");
        passed(
            &lab,
            &name,
            Program::FromUplink,
            outer.over(&inner),
            Reason::OuterMalformed,
        );
    }
}

#[test]
fn a_lying_inner_header_is_malformed() {
    let Some(lab) = Lab::open() else { return };
    let headers = [
        false_starts(&from_pod_b()),
        false_lengths(&from_pod_b(), 20 + 64),
    ]
    .concat();
    for (name, header) in headers {
        let frame = Outer::from_node_b().over(&header.over(&payload(64)));
        passed(&lab, &name, Program::FromUplink, frame, Reason::IpMalformed);
    }
    let header = Ipv4 {
        ihl: Some(15),
        ..from_pod_b()
    };
    let frame = Outer::from_node_b().over(&header.over(&payload(39)));
    passed(
        &lab,
        "inner IHL 15",
        Program::FromUplink,
        frame,
        Reason::IpMalformed,
    );
}
