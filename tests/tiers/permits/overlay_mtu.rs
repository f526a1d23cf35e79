//! The overlay's own MTU, smaller than what the wire takes: by the network config, by hand on the
//! device, on the route to a node's subnet, and on the way to the pod. What is longer the stack
//! fragments or answers before any encapsulation, and so it is beside a fast flow.

use std::net::{SocketAddrV4, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use nix::libc::EMSGSIZE;
use twill_testbed::forge::RawIp;
use twill_testbed::packet::{Ipv4, Udp};
use twill_testbed::wait::{wait_for, wait_until};
use twill_testbed::world::OVERLAY_LINK;

use crate::lab::{A, B, Kind, Lab, Options, SECONDS, run};
use crate::talk::{ANSWER, Ends, Flow, Server};

/// What IP and UDP put before a datagram, bytes.
const HEADERS: usize = 28;
/// How many packets of a size are sent.
const TIMES: u64 = 5;
const PROBE_PORT: u16 = 6_300;
const PLAIN_PORT: u16 = 6_301;
const TCP_PORT: u16 = 6_302;

/// The flows that are fast while an MTU changes.
struct Flows {
    /// Never says "don't fragment".
    plain: Flow,
    /// Beside which packets are forged that do.
    probe: Flow,
    tcp: Ends,
    raw: RawIp,
    _server: Server,
}

/// Where a limit is: the node, and the program that knows of it.
type Place = (usize, &'static str);

/// On the way to the overlay, and on the way to the pod.
const OUT: Place = (A, "from_pod");
const IN: Place = (B, "from_uplink");

impl Flows {
    /// Opens them and makes them fast. The pods' links take more than the overlay does.
    fn open(lab: &Lab) -> Result<Self> {
        for node in [A, B] {
            let veth = lab.veth(node, 0)?;
            lab.on(node, &format!("ip link set {veth} mtu 1500"))?;
            let pod = lab.pod(node, 0).namespace();
            pod.run_lines("ip link set eth0 mtu 1500")?;
        }
        let pod = lab.pod(A, 0).namespace();
        let server = Server::backend(lab.pod(B, 0), "one")?;
        let to = Server::address(lab.pod(B, 0));
        let probe = Flow::udp(pod, PROBE_PORT, to)?;
        pod.set_sysctl("net.ipv4.ip_no_pmtu_disc", "1")?;
        let plain = Flow::udp(pod, PLAIN_PORT, to)?;
        pod.set_sysctl("net.ipv4.ip_no_pmtu_disc", "0")?;
        let listener = Ends::listen_on(lab.pod(B, 0).namespace(), TCP_PORT)?;
        let to_listener = SocketAddrV4::new(*to.ip(), TCP_PORT);
        let mut flows = Self {
            plain,
            probe,
            tcp: Ends::open(pod, 0, to_listener, &listener)?,
            raw: RawIp::open(pod)?,
            _server: server,
        };
        lab.until_fast(&mut flows.plain)?;
        lab.until_fast(&mut flows.probe)?;
        lab.make_fast(|| flows.tcp.exchange())?;
        Ok(flows)
    }

    /// `longest` is the longest IP packet that goes as it is, and `place` knows it.
    fn keep_to(&mut self, lab: &Lab, longest: usize, place: Place) -> Result<()> {
        self.know(lab, longest, place)?;
        let pod = lab.pod(A, 0).namespace();
        // What the pod has learned of the way, it would fragment to by itself.
        pod.run_lines("ip route flush cache")?;
        self.fragments(lab, longest, place)
            .context("without \"don't fragment\"")?;
        self.answers(lab, longest, place)
            .context("with \"don't fragment\"")?;
        let to = lab.pod(B, 0).address().to_string();
        let route = pod.run(&["ip", "route", "get", &to])?;
        ensure!(route.contains(&format!("mtu {longest}")), "{route}");
        pod.run_lines("ip route flush cache")?;
        // Segments of 1460 bytes until the kernel has said that they do not fit.
        self.tcp.exchange_long(100_000).context("TCP")?;
        lab.make_fast(|| self.tcp.exchange_long(10_000))
    }

    /// Waits until what is a byte too long is the stack's.
    fn know(&mut self, lab: &Lab, longest: usize, place: Place) -> Result<()> {
        let pod = lab.pod(A, 0).namespace();
        pod.run_lines("ip route flush cache")?;
        self.plain.pad_to(longest - HEADERS + 1, 0);
        wait_until("what is too long is the stack's", SECONDS, || {
            let before = over(lab, place).unwrap_or_default();
            self.plain.ask().is_ok()
                && (!lab.has_programs() || over(lab, place).is_ok_and(|now| now > before))
        })
    }

    /// What fits is fast. What does not comes in fragments that the stack has made.
    fn fragments(&mut self, lab: &Lab, longest: usize, place: Place) -> Result<()> {
        self.plain.pad_to(longest - HEADERS, 0);
        lab.until_fast(&mut self.plain)
            .with_context(|| format!("{longest} bytes"))?;
        let over_before = over(lab, place)?;
        self.plain.ask_times(TIMES)?;
        ensure!(over(lab, place)? == over_before, "too long, and fits");
        for size in too_long(longest, place) {
            self.plain.pad_to(size - HEADERS, 0);
            self.plain
                .ask_times(TIMES)
                .with_context(|| format!("{size} bytes"))?;
        }
        if lab.has_programs() {
            let seen = over(lab, place)? - over_before;
            ensure!(seen == 3 * TIMES, "{seen} were the stack's for that");
        }
        Ok(())
    }

    /// What fits is answered, and what does not is refused by ICMP.
    fn answers(&mut self, lab: &Lab, longest: usize, place: Place) -> Result<()> {
        self.probe.pad_to(longest - HEADERS, 0);
        lab.until_fast(&mut self.probe)?;
        let over_before = over(lab, place)?;
        let (from, to) = (lab.pod(A, 0).address(), Server::address(lab.pod(B, 0)));
        let (pod, socket) = (lab.pod(A, 0).namespace(), self.probe.datagrams()?);
        socket.set_read_timeout(Some(ANSWER))?;
        for size in too_long(longest, place) {
            let packet = Ipv4::new(from, *to.ip()).udp(
                &Udp::new(PROBE_PORT, to.port()),
                &vec![b' '; size - HEADERS],
            );
            for _ in 0..TIMES {
                // Else the pod itself says so from the second on.
                pod.run_lines("ip route flush cache")?;
                self.raw.send(*to.ip(), &packet)?;
                refused(socket).with_context(|| format!("{size} bytes"))?;
            }
        }
        if lab.has_programs() {
            let seen = over(lab, place)? - over_before;
            ensure!(seen == 3 * TIMES, "{seen} were the stack's for that");
        }
        Ok(())
    }
}

/// Sizes that are too long at this place, and nowhere before it.
fn too_long(longest: usize, place: Place) -> [usize; 3] {
    let largest = if place == OUT { 1_500 } else { longest + 40 };
    [longest + 1, longest + 20, largest]
}

/// Waits for the ICMP error that a datagram is too long, as the socket tells it.
fn refused(socket: &UdpSocket) -> Result<()> {
    wait_for(
        "the answer is that it is too long",
        SECONDS,
        || match socket.recv(&mut [0; 2_048]) {
            Ok(length) => anyhow::bail!("{length} bytes came instead"),
            Err(error) if error.raw_os_error() == Some(EMSGSIZE) => Ok(Some(())),
            Err(error) => Err(error.into()),
        },
    )
}

fn over(lab: &Lab, (node, program): Place) -> Result<u64> {
    lab.count(node, program, "over_path_mtu")
}

/// The device's MTU is changed by hand, while flows are fast, and back.
fn by_hand(lab: &Lab) -> Result<()> {
    let mut flows = Flows::open(lab)?;
    for mtu in [1_300, 1_200, 1_450] {
        lab.on(A, &format!("ip link set {OVERLAY_LINK} mtu {mtu}"))?;
        flows
            .keep_to(lab, mtu, OUT)
            .with_context(|| format!("a device of {mtu} bytes"))?;
        let link = lab.host(A).link_json(OVERLAY_LINK)?;
        ensure!(link["mtu"] == mtu, "{link}");
    }
    Ok(())
}

#[test]
fn an_mtu_set_on_the_device_is_kept_to_as_on_stock() -> Result<()> {
    run(&Kind::ALL, Options::default(), |lab| by_hand(lab)).map(drop)
}

/// A person's route in the place of ours.
fn by_route(lab: &Lab) -> Result<()> {
    let mut flows = Flows::open(lab)?;
    let subnet = lab.member(B).env.prefix();
    let set = |mtu: &str| {
        let via = subnet.network();
        lab.on(
            A,
            &format!("ip route replace {subnet} via {via} dev {OVERLAY_LINK} onlink {mtu}"),
        )
    };
    for (words, longest) in [("mtu 1250", 1_250), ("mtu lock 1200", 1_200), ("", 1_450)] {
        set(words)?;
        flows
            .keep_to(lab, longest, OUT)
            .with_context(|| format!("a route with {words:?}"))?;
    }
    Ok(())
}

#[test]
fn an_mtu_of_the_route_to_a_subnet_is_kept_to_as_on_stock() -> Result<()> {
    run(&Kind::ALL, Options::default(), |lab| by_route(lab)).map(drop)
}

/// The network config says less than the uplink takes, and the other node's bridge is narrower.
fn by_config(lab: &Lab) -> Result<()> {
    let mut flows = Flows::open(lab)?;
    flows.keep_to(lab, 1_350, OUT).context("the config's MTU")?;
    for mtu in [1_250, 1_200] {
        lab.on(B, &format!("ip link set cni0 mtu {mtu}"))?;
        flows
            .keep_to(lab, mtu, IN)
            .with_context(|| format!("a bridge of {mtu} bytes"))?;
    }
    Ok(())
}

#[test]
fn the_configs_mtu_and_that_of_the_way_to_the_pod_are_kept_to_as_on_stock() -> Result<()> {
    let options = Options {
        backend_mtu: Some(1_400),
        ..Options::default()
    };
    run(&Kind::ALL, options, |lab| by_config(lab)).map(drop)
}
