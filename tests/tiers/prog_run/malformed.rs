//! Malformed packets: every prefix of a good one, and every length that lies.
//!
//! `BPF_PROG_TEST_RUN` refuses what is shorter than an Ethernet header, so prefixes start
//! there; a test below holds it to that.

use twill_abi::{Program, Reason};
use twill_testbed::packet::{Ethernet, Ipv4, Udp, Vxlan};

use super::check::{Case, check};
use super::lab::Lab;
use super::packets::{Outer, TO_OVERLAY, datagram, from_pod_b, leaving, payload, to_pod_b};
use super::sk_buff::SkBuff;

const ETHERNET: usize = Ethernet::LENGTH;
/// End of the inner IPv4 header as `to_overlay` meets it.
const IP_END: usize = ETHERNET + Ipv4::LENGTH;
/// End of the outer UDP header.
const UDP_END: usize = IP_END + Udp::LENGTH;
/// End of the inner IPv4 header as `from_uplink` meets it.
const INNER_IP_END: usize = UDP_END + Vxlan::LENGTH + Ethernet::LENGTH + Ipv4::LENGTH;

fn passed(lab: &mut Lab, name: &str, program: Program, frame: Vec<u8>, reason: Reason) {
    let tables = lab.tables();
    check(lab, &Case::passed(name, program, tables, frame, reason));
}

#[test]
fn the_kernel_refuses_less_than_an_ethernet_header() {
    let Some(mut lab) = Lab::open() else { return };
    let tables = lab.tables();
    let frame = leaving(&datagram(&to_pod_b(), 64));
    for program in [Program::ToOverlay, Program::FromUplink] {
        for length in 0..ETHERNET {
            let result = lab.run(program, &tables, &frame[..length], SkBuff::default());
            assert!(result.is_err(), "{length} bytes were run");
        }
    }
}

#[test]
fn no_prefix_of_a_packet_is_encapsulated() {
    let Some(mut lab) = Lab::open() else { return };
    let frame = leaving(&datagram(&to_pod_b(), 30));
    for length in ETHERNET..frame.len() {
        let reason = if length < IP_END {
            Reason::Truncated
        } else {
            Reason::IpMalformed
        };
        let name = format!("{length} of {} bytes", frame.len());
        passed(
            &mut lab,
            &name,
            Program::ToOverlay,
            frame[..length].to_vec(),
            reason,
        );
    }
}

#[test]
fn every_prefix_of_a_vxlan_packet_is_counted_for_what_it_lacks() {
    let Some(mut lab) = Lab::open() else { return };
    let frame = Outer::from_node_b().over(&datagram(&from_pod_b(), 30));
    for length in ETHERNET..frame.len() {
        let reason = if length < UDP_END {
            Reason::Truncated
        } else {
            Reason::OuterMalformed
        };
        let name = format!("{length} of {} bytes", frame.len());
        passed(
            &mut lab,
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
    let Some(mut lab) = Lab::open() else { return };
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
        passed(&mut lab, &name, Program::FromUplink, frame, reason);
    }
    for length in 0..Vxlan::LENGTH {
        let frame = outer.ip.udp(&outer.udp, &outer.vxlan.over(&[])[..length]);
        let name = format!("{length} bytes of VXLAN header");
        passed(
            &mut lab,
            &name,
            Program::FromUplink,
            outer.ethernet.over(&frame),
            Reason::Truncated,
        );
    }
}

/// Headers that contradict themselves or what is behind them.
fn lies(honest: &Ipv4, length: u16) -> Vec<(String, Ipv4)> {
    let mut lies = Vec::new();
    for version in [0, 3, 5, 6, 15] {
        lies.push((
            format!("version {version}"),
            Ipv4 {
                version,
                ..honest.clone()
            },
        ));
    }
    for ihl in 0..5 {
        lies.push((
            format!("IHL {ihl}"),
            Ipv4 {
                ihl: Some(ihl),
                ..honest.clone()
            },
        ));
    }
    let lengths = [
        0,
        1,
        19,
        length + 1,
        length + 2,
        length + 64,
        0x7fff,
        0xffff,
    ];
    for total_length in lengths {
        let name = format!("total length {total_length} of {length}");
        lies.push((
            name,
            Ipv4 {
                total_length: Some(total_length),
                ..honest.clone()
            },
        ));
    }
    lies
}

#[test]
fn a_lying_header_is_not_encapsulated() {
    let Some(mut lab) = Lab::open() else { return };
    for (name, header) in lies(&to_pod_b(), 20 + 64) {
        let frame = TO_OVERLAY.over(&header.over(&payload(64)));
        passed(
            &mut lab,
            &name,
            Program::ToOverlay,
            frame,
            Reason::IpMalformed,
        );
    }
    // IHL 15 says 60 bytes of header where there are 20 and too little behind them.
    let header = Ipv4 {
        ihl: Some(15),
        ..to_pod_b()
    };
    let frame = TO_OVERLAY.over(&header.over(&payload(39)));
    passed(
        &mut lab,
        "IHL 15",
        Program::ToOverlay,
        frame,
        Reason::IpMalformed,
    );
}

#[test]
fn a_lying_outer_header_is_not_vxlan_to_us() {
    let Some(mut lab) = Lab::open() else { return };
    let outer = Outer::from_node_b();
    let inner = datagram(&from_pod_b(), 64);
    let length = u16::try_from(inner.len() + 50).expect("a small packet");
    for (name, header) in lies(&outer.ip, length) {
        let frame = Outer {
            ip: header,
            ..outer.clone()
        }
        .over(&inner);
        passed(
            &mut lab,
            &name,
            Program::FromUplink,
            frame,
            Reason::OuterMalformed,
        );
    }
    let ip = Ipv4 {
        ihl: Some(15),
        ..outer.ip.clone()
    };
    let frame = Outer { ip, ..outer }.over(&inner);
    passed(
        &mut lab,
        "outer IHL 15",
        Program::FromUplink,
        frame,
        Reason::IpOptions,
    );
}

#[test]
fn a_lying_udp_length_is_malformed() {
    let Some(mut lab) = Lab::open() else { return };
    let inner = datagram(&from_pod_b(), 64);
    let right = u16::try_from(Udp::LENGTH + Vxlan::LENGTH + ETHERNET + inner.len()).expect("small");
    for length in [0, 1, 7, 8, 15, 16, right - 1, right + 1, right + 20, 0xffff] {
        let mut outer = Outer::from_node_b();
        outer.udp.length = Some(length);
        let name = format!("UDP length {length} instead of {right}");
        passed(
            &mut lab,
            &name,
            Program::FromUplink,
            outer.over(&inner),
            Reason::OuterMalformed,
        );
    }
}

#[test]
fn a_lying_inner_header_is_malformed() {
    let Some(mut lab) = Lab::open() else { return };
    for (name, header) in lies(&from_pod_b(), 20 + 64) {
        let frame = Outer::from_node_b().over(&header.over(&payload(64)));
        passed(
            &mut lab,
            &name,
            Program::FromUplink,
            frame,
            Reason::IpMalformed,
        );
    }
    let header = Ipv4 {
        ihl: Some(15),
        ..from_pod_b()
    };
    let frame = Outer::from_node_b().over(&header.over(&payload(39)));
    passed(
        &mut lab,
        "inner IHL 15",
        Program::FromUplink,
        frame,
        Reason::IpMalformed,
    );
}
