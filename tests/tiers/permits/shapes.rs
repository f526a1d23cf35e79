//! Packets of every shape, in the name of a fast flow or beside it: sizes around the MTU,
//! fragments, IP options, a protocol that nobody knows, GSO packets beyond 64 KiB.

use anyhow::{Context as _, Result, ensure};
use twill_testbed::forge::RawIp;
use twill_testbed::gso::set_gso_ipv4_max_size;
use twill_testbed::packet::{Ipv4, Udp, sctp_init};
use twill_testbed::traffic::EchoServer;
use twill_testbed::traffic::echo::tcp_echo_on;
use twill_testbed::wait::wait_for;

use crate::lab::{A, B, Kind, Lab, Options, SECONDS, run};
use crate::rules::{ECHO, ONE};
use crate::talk::{ANSWER, Flow, Server, receive};

const PORT: u16 = 6700;
/// What a datagram's payload may have on an overlay with an MTU of 1450, bytes.
const LARGEST: usize = 1450 - 20 - 8;
/// Few: the stock path, too, has long pauses with such packets over vxlan.
const BIG_BYTES: usize = 2_000_000;
const SCTP_PACKETS: u64 = 20;

fn shapes(lab: &Lab) -> Result<u64> {
    let server = Server::backend(lab.pod(B, 0), "one")?;
    sizes(lab).context("sizes")?;
    options(lab).context("IP options")?;
    drop(server);
    big_tcp(lab).context("GSO beyond 64 KiB")?;
    sctp(lab).context("SCTP")
}

/// One byte under, at and over the overlay's MTU, and far over it, both ways, from sockets that
/// set DF on what fits and from such that never do; what is over comes in fragments.
fn sizes(lab: &Lab) -> Result<()> {
    let pod = lab.pod(A, 0).namespace();
    for to in [Server::address(lab.pod(B, 0)), ONE] {
        for never in ["0", "1"] {
            pod.set_sysctl("net.ipv4.ip_no_pmtu_disc", never)?;
            let mut flow = Flow::udp(pod, 0, to)?;
            lab.until_fast(&mut flow)?;
            for length in [LARGEST - 1, LARGEST] {
                flow.pad_to(length, length);
                lab.until_fast(&mut flow)
                    .with_context(|| format!("{length} bytes to {to}"))?;
            }
            let fast = lab.fast_counts()?;
            for length in [LARGEST + 1, 4000] {
                flow.pad_to(length, length);
                flow.ask_times(10)
                    .with_context(|| format!("{length} bytes to {to} in fragments"))?;
            }
            ensure!(lab.fast_counts()? == fast, "fragments were fast");
        }
    }
    if lab.has_programs() {
        for (node, program) in [(A, "from_pod"), (B, "from_uplink"), (B, "from_pod")] {
            let fragments = lab.count(node, program, "fragment")?;
            ensure!(fragments >= 40, "{fragments} fragments at {program}");
        }
    }
    Ok(())
}

/// Packets with options in a fast flow's name are answered, by the stack's way.
fn options(lab: &Lab) -> Result<()> {
    let (pod, to) = (lab.pod(A, 0), Server::address(lab.pod(B, 0)));
    let mut flow = Flow::udp(pod.namespace(), PORT, to)?;
    lab.until_fast(&mut flow)?;
    let raw = RawIp::open(pod.namespace())?;
    let header = Ipv4 {
        // No operation, four times.
        options: vec![1; 4],
        ..Ipv4::new(pod.address(), *to.ip())
    };
    let socket = flow.datagrams()?;
    socket.set_read_timeout(Some(ANSWER))?;
    let before = lab.count(A, "from_pod", "ip_options")?;
    for number in 0..20 {
        let question = format!("{number}\n");
        raw.send(
            *to.ip(),
            &header.udp(&Udp::new(PORT, ECHO), question.as_bytes()),
        )?;
        let mut buffer = [0; 256];
        let (length, _) = receive(socket, &mut buffer)?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        ensure!(text.ends_with(&format!(" {question}")), "{text}");
    }
    let seen = lab.count(A, "from_pod", "ip_options")? - before;
    ensure!(!lab.has_programs() || seen == 20, "{seen} had options");
    lab.until_fast(&mut flow)
}

/// IPv4 packets of more than 64 KiB have a total length of zero: the kernel cuts them.
fn big_tcp(lab: &Lab) -> Result<()> {
    let (from, to) = (lab.pod(A, 0), lab.pod(B, 0));
    let _echo = EchoServer::start_on(to.namespace(), ECHO)?;
    let veth = lab.veth(A, 0)?;
    set_gso_ipv4_max_size(from.namespace(), "eth0", 180_000)?;
    set_gso_ipv4_max_size(lab.host(A), &veth, 180_000)?;
    let before = lab.count(A, "from_pod", "ip_malformed")?;
    for to in [Server::address(to), ONE] {
        tcp_echo_on(from.namespace(), to, BIG_BYTES)?;
    }
    let big = lab.count(A, "from_pod", "ip_malformed")? - before;
    ensure!(!lab.has_programs() || big > 0, "none was beyond 64 KiB");
    Ok(())
}

/// How many packets of a protocol that no program knows arrive.
fn sctp(lab: &Lab) -> Result<u64> {
    let (from, to) = (lab.pod(A, 0), lab.pod(B, 0));
    to.namespace()
        .run_lines("iptables -t raw -I PREROUTING -p sctp -j DROP")?;
    let before = lab.count(A, "from_pod", "not_transport")?;
    let raw = RawIp::open(from.namespace())?;
    for port in 0..SCTP_PACKETS {
        let packet = sctp_init(from.address(), to.address(), u16::try_from(7000 + port)?, 7);
        raw.send(to.address(), &packet)?;
    }
    let seen = lab.count(A, "from_pod", "not_transport")? - before;
    ensure!(!lab.has_programs() || seen == SCTP_PACKETS, "{seen} seen");
    let counted = || -> Result<u64> {
        let rules = to
            .namespace()
            .run(&["iptables", "-t", "raw", "-vxnL", "PREROUTING", "1"])?;
        let count = rules.split_whitespace().next().context("no counter")?;
        Ok(count.parse()?)
    };
    wait_for("all of them arrive", SECONDS, || {
        let arrived = counted()?;
        Ok((arrived == SCTP_PACKETS).then_some(arrived))
    })
}

#[test]
fn packets_of_every_shape_arrive_as_on_stock() -> Result<()> {
    run(&Kind::ALL, Options::default(), |lab| shapes(lab)).map(drop)
}
