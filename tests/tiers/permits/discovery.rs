//! What pods find out about the way by their own packets, in the midst of a fast flow: how much
//! fits, where a narrower part is, and who is on the way.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use twill_testbed::traffic::again;
use twill_testbed::wait::wait_for;
use twill_testbed::world::NODE_B;

use crate::lab::{A, B, Kind, Lab, Options, SECONDS, run};
use crate::rules::ONE;
use crate::talk::{ANSWER, Ends, Flow, Server};

/// What a datagram's payload may have on an overlay with an MTU of 1450, bytes.
const LARGEST: usize = 1450 - 20 - 8;
/// For what may be lost on any network.
const SHORT: Duration = Duration::from_millis(200);

/// The pods' devices take more than the overlay does: what is over comes back as an ICMP error,
/// and the sender makes its packets fit.
fn mtu_is_found(lab: &Lab) -> Result<()> {
    for node in [A, B] {
        let veth = lab.veth(node, 0)?;
        lab.on(node, &format!("ip link set {veth} mtu 1500"))?;
        let pod = lab.pod(node, 0).namespace();
        pod.run_lines("ip link set eth0 mtu 1500")?;
    }
    let pod = lab.pod(A, 0).namespace();
    let listener = Ends::listen(lab.pod(B, 0))?;
    for to in [Server::address(lab.pod(B, 0)), ONE] {
        let mut tcp = Ends::open(pod, 0, to, &listener)?;
        lab.make_fast(|| tcp.exchange())?;
        // Segments of 1460 bytes until the kernel has said that they do not fit.
        let long = tcp.exchange_long(200_000);
        long.with_context(|| format!("TCP to {to}"))?;
        lab.make_fast(|| tcp.exchange_long(20_000))?;
    }
    drop(listener);
    pod.run_lines("ip route flush cache")?;
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    for to in [Server::address(lab.pod(B, 0)), ONE] {
        let mut udp = Flow::udp(pod, 0, to)?;
        lab.until_fast(&mut udp)?;
        for length in [LARGEST - 1, LARGEST] {
            udp.pad_to(length, 0);
            lab.until_fast(&mut udp)
                .with_context(|| format!("{length} bytes to {to}"))?;
        }
        udp.pad_to(LARGEST + 1, 0);
        udp.set_patience(SHORT);
        wait_for("one byte more is answered", SECONDS, || udp.ask().map(Some))?;
        udp.set_patience(ANSWER);
        udp.ask_times(20)
            .with_context(|| format!("one byte more to {to}"))?;
        if lab.kind != Kind::Direct {
            let route = pod.run(&["ip", "route", "get", &to.ip().to_string()])?;
            ensure!(route.contains("mtu 1450"), "to {to}: {route}");
        }
    }
    Ok(())
}

#[test]
fn a_pod_finds_the_overlays_mtu_by_packets_that_do_not_fit() -> Result<()> {
    run(&Kind::ALL, Options::default(), |lab| mtu_is_found(lab)).map(drop)
}

/// Outer packets may be fragmented: a router on the way whose next link is narrower does so.
fn router_fragments(lab: &Lab) -> Result<()> {
    let switch = lab.cluster.underlay.switch();
    switch.set_sysctl("net.ipv4.ip_forward", "1")?;
    switch.set_sysctl("net.ipv4.conf.all.send_redirects", "0")?;
    switch.set_sysctl("net.ipv4.conf.switch.send_redirects", "0")?;
    switch.run_lines(&format!(
        "ip route add {NODE_B}/32 dev switch mtu lock 1400"
    ))?;
    lab.on(A, &format!("ip route add {NODE_B}/32 via 192.0.2.254"))?;
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    let to = Server::address(lab.pod(B, 0));
    let pod = lab.pod(A, 0).namespace();
    let mut udp = Flow::udp(pod, 6200, to)?;
    let mut tcp = Flow::tcp(pod, 6201, to)?;
    lab.until_fast(&mut udp)?;
    lab.until_fast(&mut tcp)?;
    let before = lab.count(B, "from_uplink", "fragment")?;
    // 1350 bytes of inner IP fit an outer packet of 1400.
    for size in [1350 - 28 - 1, 1350 - 28, 1350 - 28 + 1, LARGEST] {
        udp.pad_to(size, 0);
        udp.ask_times(10)
            .with_context(|| format!("datagrams of {size} bytes"))?;
    }
    tcp.pad_to(20_000, 20_000);
    tcp.ask_times(10).context("TCP")?;
    if lab.has_programs() {
        let fragments = lab.count(B, "from_uplink", "fragment")? - before;
        ensure!(fragments >= 40, "{fragments} fragments came");
    }
    udp.pad_to(0, 0);
    lab.until_fast(&mut udp)
}

#[test]
fn a_router_on_the_way_may_fragment_what_a_fast_flow_sends() -> Result<()> {
    run(&Kind::ALL, Options::default(), |lab| router_fragments(lab)).map(drop)
}

/// A fast flow's packets with a TTL that ends at the first and at the second hop: who says so,
/// by the error that comes back.
fn hops_are_told(lab: &Lab) -> Result<()> {
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    let to = Server::address(lab.pod(B, 0));
    let mut udp = Flow::udp(lab.pod(A, 0).namespace(), 6210, to)?;
    lab.until_fast(&mut udp)?;
    let socket = udp.datagrams()?;
    setsockopt(socket, sockopt::Ipv4RecvErr, &true)?;
    socket.set_read_timeout(Some(ANSWER))?;
    let (near, far) = (&lab.member(A).env, &lab.member(B).env);
    // The pod's gateway, and the other node by the address of its vxlan device.
    for (ttl, hop) in [(1, near.gateway()), (2, far.prefix().network())] {
        socket.set_ttl(ttl)?;
        socket.send(b"0 0\n")?;
        match again(|| socket.recv(&mut [0; 64])) {
            Err(error) if error.kind() == ErrorKind::HostUnreachable => {}
            other => bail!("instead of an error for a TTL of {ttl}: {other:?}"),
        }
        let said = offender(socket)?;
        ensure!(said == hop, "{said} is at hop {ttl} instead of {hop}");
    }
    socket.set_ttl(64)?;
    lab.until_fast(&mut udp)
}

/// Who has sent the error that is first in a socket's queue of errors.
fn offender(socket: &std::net::UdpSocket) -> Result<Ipv4Addr> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg};
    use std::os::fd::AsRawFd as _;

    let mut space = nix::cmsg_space!(nix::libc::sock_extended_err, nix::libc::sockaddr_in);
    let mut buffer = [0; 64];
    let mut parts = [std::io::IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<SockaddrIn>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_ERRQUEUE,
    )?;
    let offender = message.cmsgs()?.find_map(|control| {
        if let ControlMessageOwned::Ipv4RecvErr(_, Some(from)) = control {
            Some(SockaddrIn::from(from).ip())
        } else {
            None
        }
    });
    offender.context("the error has no sender")
}

#[test]
fn a_trace_over_a_fast_flow_shows_the_hops_of_stock_nodes() -> Result<()> {
    run(&Kind::ALL, Options::default(), |lab| hops_are_told(lab)).map(drop)
}
