//! What `BPF_PROG_TEST_RUN` cannot do: VLAN tags beside the packet, GSO packets, where a
//! redirect leads to, and the kernel's own vxlan device for comparison.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use aya::programs::TcAttachType;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;
use twill_abi::{Counter, Mode, Program, Reason, counter_index};
use twill_agent::datapath::source_ports::LastPort;
use twill_testbed::packet::{
    DONT_FRAGMENT, ETHER_TYPE_VLAN, Ethernet, Ipv4, MORE_FRAGMENTS, Tcp, Udp, side_by_side,
};

use super::lab::{Lab, OVERLAY, SHORTEST, UPLINK, WIRE, counter_name, ip};
use super::packets::{Outer, datagram, echo, from_pod_b, leaving, numbered_as, payload, to_pod_b};
use super::world::{NODE_B, OVERLAY_A, POD_B1, VTEP_B, VTEP_MAC_B, mac_text, pod_of};

/// How long a frame may take across a veth.
const DEADLINE: Duration = Duration::from_secs(5);
/// Longest frame that is received, bytes.
const LONGEST_FRAME: usize = 70_000;
/// The kernel's default range of source ports, `net.ipv4.ip_local_port_range`.
const DEFAULT_PORTS: (u16, u16) = (32_768, 60_999);

/// A socket for whole frames on one interface.
struct Frames(OwnedFd);

impl Frames {
    fn on(interface: &str) -> Self {
        let family = AddressFamily::Packet;
        let socket = socket(
            family,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        );
        let socket = socket.expect("open a packet socket");
        let address = nix::ifaddrs::getifaddrs()
            .expect("list the interfaces")
            .filter(|entry| entry.interface_name == interface)
            .filter_map(|entry| entry.address)
            .find_map(|address| address.as_link_addr().copied())
            .unwrap_or_else(|| panic!("{interface} has no link address"));
        bind(socket.as_raw_fd(), &address).expect("bind to the interface");
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 50_000)).expect("a timeout");
        Self(socket)
    }

    fn send(&self, frame: &[u8]) {
        let sent = send(self.0.as_raw_fd(), frame, MsgFlags::empty()).expect("send a frame");
        assert_eq!(sent, frame.len());
    }

    /// The next frame for which `wanted` holds.
    fn receive(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let deadline = Instant::now() + DEADLINE;
        let mut buffer = vec![0; LONGEST_FRAME];
        while Instant::now() < deadline {
            // A timeout is no error here, the deadline is.
            if let Ok(length) = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())
                && wanted(&buffer[..length])
            {
                return buffer[..length].to_vec();
            }
        }
        panic!("no such frame arrived within {DEADLINE:?}");
    }
}

/// Whether a frame is VXLAN, as these tests send it.
fn is_vxlan(frame: &[u8]) -> bool {
    frame.get(36..38) == Some(&[0x21, 0x18])
}

fn attach(lab: &Lab, program: Program, interface: &str, direction: TcAttachType) {
    let link = lab.program(program).attach(interface, direction);
    link.unwrap_or_else(|error| panic!("attach {} to {interface}: {error}", program.label()));
}

/// Waits until this counter moved by one packet, and no other. The packet is met on another CPU
/// than this test's, perhaps, so a first look may come too early.
fn check_counted(lab: &Lab, program: Program, reason: Reason, bytes: usize) {
    let counter = Counter {
        packets: 1,
        bytes: bytes as u64,
    };
    let wanted = vec![(counter_name(counter_index(program, reason)), counter)];
    let deadline = Instant::now() + DEADLINE;
    loop {
        let moved: Vec<_> = lab
            .counted()
            .into_iter()
            .map(|(place, counter)| (counter_name(place), counter))
            .collect();
        if moved == wanted {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "expected {wanted:?}\n found   {moved:?}"
        );
    }
}

/// The kernel's own way to node B: FDB, neighbour and route on the vxlan device.
fn teach_the_kernel() {
    let mac = mac_text(VTEP_MAC_B);
    let gateway = pod_of(VTEP_B, 0);
    ip(&format!(
        "neighbour add {gateway} lladdr {mac} dev {OVERLAY} nud permanent
route add 10.244.2.0/24 via {gateway} dev {OVERLAY} onlink
"
    ));
    let output = std::process::Command::new("bridge")
        .args([
            "fdb",
            "append",
            &mac,
            "dev",
            OVERLAY,
            "dst",
            &NODE_B.to_string(),
        ])
        .args(["self", "permanent"])
        .output()
        .expect("start bridge");
    assert!(
        output.status.success(),
        "bridge: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_vlan_tag_beside_the_packet_keeps_it_from_both_programs() {
    let Some(lab) = Lab::open() else { return };
    let tables = lab.tables();
    let wire = Frames::on(WIRE);
    // The kernel takes the tag off before TC ingress and keeps it beside the packet, on every
    // device: so the program for an egress hook is put on an ingress hook here.
    let inner = datagram(&to_pod_b(), 64);
    let frames = [
        (
            Program::FromUplink,
            Outer::from_node_b().over(&datagram(&from_pod_b(), 64)),
        ),
        (Program::ToOverlay, leaving(&inner)),
    ];
    for (program, frame) in frames {
        let link = lab
            .program(program)
            .attach(UPLINK, TcAttachType::Ingress)
            .expect("attach");
        lab.prepare(&tables);
        let ether_type = ETHER_TYPE_VLAN;
        let [destination, source] = [0, 6].map(|at| frame[at..at + 6].try_into().expect("a MAC"));
        let tagged = [&[0x00, 0x64], &frame[12..]].concat();
        wire.send(
            &Ethernet {
                destination,
                source,
                ether_type,
            }
            .over(&tagged),
        );
        check_counted(&lab, program, Reason::VlanTag, frame.len());
        lab.program(program).detach(link).expect("detach");
    }
}

#[test]
fn frames_that_end_before_the_ipv4_header_does_are_truncated() {
    let Some(lab) = Lab::open() else { return };
    let tables = lab.tables();
    let wire = Frames::on(WIRE);
    let frames = [
        (
            Program::FromUplink,
            Outer::from_node_b().over(&datagram(&from_pod_b(), 64)),
        ),
        (Program::ToOverlay, leaving(&datagram(&to_pod_b(), 64))),
    ];
    for (program, frame) in frames {
        let link = lab
            .program(program)
            .attach(UPLINK, TcAttachType::Ingress)
            .expect("attach");
        for length in Ethernet::LENGTH + 1..SHORTEST {
            lab.prepare(&tables);
            wire.send(&frame[..length]);
            check_counted(&lab, program, Reason::Truncated, length);
        }
        lab.program(program).detach(link).expect("detach");
    }
}

#[test]
fn an_encapsulated_packet_leaves_by_the_uplink() {
    let Some(lab) = Lab::open() else { return };
    attach(&lab, Program::ToOverlay, OVERLAY, TcAttachType::Egress);
    let (overlay, wire) = (Frames::on(OVERLAY), Frames::on(WIRE));
    let tables = lab.tables();
    for inner in [
        datagram(&to_pod_b(), 1),
        datagram(&to_pod_b(), 1_400),
        echo(&to_pod_b(), 56),
    ] {
        lab.prepare(&tables);
        overlay.send(&leaving(&inner));
        let found = wire.receive(is_vxlan);
        let wanted = numbered_as(&found, Outer::to_node_b().over(&inner));
        assert!(
            found == wanted,
            "{}",
            side_by_side("expected", &wanted, "on the wire", &found)
        );
        check_counted(
            &lab,
            Program::ToOverlay,
            Reason::Fast,
            leaving(&inner).len(),
        );
    }
}

#[test]
fn the_wire_cannot_tell_bpf_from_the_kernels_device() {
    let Some(lab) = Lab::open() else { return };
    teach_the_kernel();
    attach(&lab, Program::ToOverlay, OVERLAY, TcAttachType::Egress);
    let (overlay, wire) = (Frames::on(OVERLAY), Frames::on(WIRE));
    let (lowest, last) = DEFAULT_PORTS;
    let last_port = LastPort::find().expect("try the kernel's source ports");
    let mut bpf = lab.tables();
    (bpf.config.source_port_min, bpf.config.source_port_max) = (lowest, last_port.end(last));
    let kernel = bpf.clone().with_mode(Mode::Kernel);

    for (name, inner) in flows() {
        // The stack has put the neighbour's MAC address there already.
        let frame = Ethernet {
            destination: VTEP_MAC_B,
            ..super::packets::TO_OVERLAY
        }
        .over(&inner);
        let across = |tables| {
            lab.prepare(tables);
            overlay.send(&frame);
            wire.receive(is_vxlan)
        };
        let by_bpf = across(&bpf);
        let by_kernel = numbered_as(&by_bpf, across(&kernel));
        assert!(
            by_kernel == by_bpf,
            "{name}, {last_port:?}\n{}",
            side_by_side("kernel", &by_kernel, "BPF", &by_bpf)
        );
    }
}

/// Flows of every kind, among them those whose hash has no ports in it, and every TOS.
fn flows() -> Vec<(String, Vec<u8>)> {
    let ip = to_pod_b();
    let mut flows = Vec::new();
    for flow in 0..16 {
        let bytes = payload(32);
        flows.push((
            format!("UDP {flow}"),
            ip.udp(&Udp::new(40_000 + flow, 53), &bytes),
        ));
        flows.push((
            format!("TCP {flow}"),
            ip.tcp(&Tcp::new(50_000, 80 + flow), &bytes),
        ));
        let source = pod_of(0, u8::try_from(10 + flow).expect("small"));
        flows.push((
            format!("ICMP {flow}"),
            echo(
                &Ipv4 {
                    source,
                    ..ip.clone()
                },
                56,
            ),
        ));
    }
    for fragment in [MORE_FRAGMENTS, MORE_FRAGMENTS | 4, 8, DONT_FRAGMENT] {
        let header = Ipv4 {
            fragment,
            ..ip.clone()
        };
        flows.push((format!("fragment {fragment:#x}"), header.over(&payload(32))));
    }
    for tos in (0..4).chain([0x28, 0xb8, 0xbb]) {
        flows.push((
            format!("TOS {tos:#x}"),
            datagram(&Ipv4 { tos, ..ip.clone() }, 32),
        ));
    }
    flows.push((
        "options".into(),
        Ipv4 {
            options: vec![1; 8],
            ..ip
        }
        .over(&payload(32)),
    ));
    flows
}

#[test]
fn a_gso_packet_is_encapsulated_whole() {
    let Some(lab) = Lab::open() else { return };
    teach_the_kernel();
    attach(&lab, Program::ToOverlay, OVERLAY, TcAttachType::Egress);
    let wire = Frames::on(WIRE);
    let tables = lab.tables();
    lab.prepare(&tables);

    let (segment, all) = (1_000, 60_000);
    let socket = std::net::UdpSocket::bind((OVERLAY_A, 40_000)).expect("bind");
    setsockopt(&socket, sockopt::UdpGsoSegment, &segment).expect("UDP_SEGMENT");
    socket.send_to(&payload(all), (POD_B1, 53)).expect("send");

    let found = wire.receive(is_vxlan);
    let inner = 20 + 8 + all;
    assert_eq!(found.len(), 50 + 14 + inner);
    check_counted(&lab, Program::ToOverlay, Reason::Fast, 14 + inner);
}
