//! The mode `direct` under attack: what NAT and the stack own stays theirs (B1 to B5), and ICMP
//! errors come through (A16).

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use twill_abi::{PERMIT_FLAG_DIRECT, Permit};
use twill_testbed::pod::Pod;
use twill_testbed::traffic::{again, ping};
use twill_testbed::wait::{pass, wait_for, wait_until};

use crate::lab::{A, B, Kind, Lab, Options, PERMIT_TIME, SECONDS, run};
use crate::rules::{ECHO, ONE};
use crate::talk::{ANSWER, Ends, Flow, Server, connect_from, receive};

/// The unused port of a `NodePort` Service.
const NODE_PORT: u16 = 30_080;

/// Runs `check` on stock nodes, with permits, and in the mode `direct`.
fn everywhere(check: impl Fn(&Lab) -> Result<()> + Sync) -> Result<()> {
    let scenario = |lab: &mut Lab| warm(lab).and_then(|()| check(lab));
    run(&Kind::ALL, Options::default(), scenario).map(drop)
}

/// The stack has delivered to both pods: in the mode `direct` their places are known.
fn warm(lab: &Lab) -> Result<()> {
    for (from, to) in [(A, B), (B, A)] {
        let _server = Server::start(lab.pod(to, 0).namespace(), "warm", 4000)?;
        let to = SocketAddrV4::new(lab.pod(to, 0).address(), 4000);
        for _ in 0..3 {
            Flow::udp(lab.pod(from, 0).namespace(), 0, to)?.ask()?;
            Flow::tcp(lab.pod(from, 0).namespace(), 0, to)?.ask()?;
        }
    }
    Ok(())
}

/// Whether the asking pod's flow from this port is of the mode `direct` on a node, where the mode
/// is on.
fn is_direct(lab: &Lab, node: usize, port: u16) -> Result<()> {
    if lab.kind == Kind::Direct {
        let asker = if node == A {
            |permit: &Permit| permit.pod.local_port.to_host()
        } else {
            |permit: &Permit| permit.pod.remote_port.to_host()
        };
        let permits = lab.permits(node)?;
        let permit = permits.iter().find(|permit| asker(permit) == port);
        let direct = permit.is_some_and(|permit| permit.flags & PERMIT_FLAG_DIRECT != 0);
        ensure!(direct, "not direct: {permit:?}");
    }
    Ok(())
}

fn a16_port_unreachable_for_a_direct_flow_arrives_as_on_stock(lab: &Lab) -> Result<()> {
    let to = Server::address(lab.pod(B, 0));
    let server = Server::backend(lab.pod(B, 0), "one")?;
    let mut udp = Flow::udp(lab.pod(A, 0).namespace(), 5555, to)?;
    lab.make_fast(|| udp.ask().map(drop))?;
    is_direct(lab, A, 5555)?;
    drop(server);
    // The next call on the socket tells of the error that came for the last one.
    wait_for("ECONNREFUSED", SECONDS, || {
        let socket = udp.datagrams()?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let said = socket.send(b"1 \n");
        let said = said.and_then(|_| again(|| socket.recv(&mut [0; 64])));
        match said {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(Some(())),
            other => anyhow::bail!("{other:?}"),
        }
    })
}

fn a16_fragmentation_needed_behind_a_router_pod_arrives_as_on_stock(lab: &Lab) -> Result<()> {
    // A network behind the pod, with a smaller MTU; what comes to the pod's port goes there.
    let router = lab.pod(B, 0).namespace();
    let inner = twill_testbed::netns::Namespace::new("inner")?;
    let name = inner.name();
    router.set_sysctl("net.ipv4.ip_forward", "1")?;
    router.run_lines(&format!(
        "ip link add in0 mtu 1000 type veth peer name in1 mtu 1000 netns {name}
             ip addr add 172.31.0.1/24 dev in0
             ip link set in0 up"
    ))?;
    inner.run_lines(
        "ip addr add 172.31.0.2/24 dev in1
             ip link set in1 up
             ip route add default via 172.31.0.1",
    )?;
    router.run_lines(&format!(
            "iptables -t nat -A PREROUTING -i eth0 -p udp --dport {ECHO} -j DNAT --to-destination 172.31.0.2:{ECHO}"
        ))?;
    let _server = Server::start(&inner, "inner", ECHO)?;
    let to = Server::address(lab.pod(B, 0));
    let mut udp = Flow::udp(lab.pod(A, 0).namespace(), 5556, to)?;
    lab.make_fast(|| udp.ask().map(drop))?;
    is_direct(lab, A, 5556)?;
    // Sockets set DF until they know better.
    let destination = to.ip().to_string();
    wait_for("the pod knows the path's MTU", SECONDS, || {
        udp.datagrams()?.send(&[b'x'; 1300])?;
        let route = ["ip", "route", "get", &destination];
        let route = lab.pod(A, 0).namespace().run(&route)?;
        Ok(route.contains("mtu 1000").then_some(()))
    })
}

fn b1_one_port_to_a_service_and_straight_to_its_backend_keeps_replies_apart(
    lab: &Lab,
) -> Result<()> {
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    let backend = Server::address(lab.pod(B, 0));
    for (port, order) in [(5601, [ONE, backend]), (5602, [backend, ONE])] {
        let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port));
        let socket = lab.pod(A, 0).namespace().enter(bind)??;
        socket.set_read_timeout(Some(ANSWER))?;
        let mut number = 0;
        let mut ask = |to: SocketAddrV4| -> Result<()> {
            number += 1;
            socket.send_to(format!("{number}\n").as_bytes(), to)?;
            let mut buffer = [0; 256];
            let (length, from) = receive(&socket, &mut buffer)?;
            let text = String::from_utf8_lossy(&buffer[..length]);
            ensure!(
                from == SocketAddr::V4(to),
                "asked {to}, {from} answered {text}"
            );
            ensure!(text.trim_end().ends_with(&format!(" {number}")), "{text}");
            Ok(())
        };
        lab.make_fast(|| ask(order[0]))?;
        for _ in 0..50 {
            ask(order[1]).with_context(|| format!("{} after {}", order[1], order[0]))?;
        }
        for _ in 0..200 {
            ask(order[0])?;
            ask(order[1])?;
        }
    }
    Ok(())
}

fn b2_nat_on_the_repliers_node_changes_replies_back(lab: &Lab) -> Result<()> {
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    let pod = lab.pod(B, 0).address();
    let [a, b, c, _] = pod.octets();
    let gateway = Ipv4Addr::new(a, b, c, 1);
    // A hostPort, or a NodePort with externalTrafficPolicy=Local: the source is kept.
    for protocol in ["tcp", "udp"] {
        lab.on(B, &format!("iptables -t nat -I PREROUTING -d {gateway} -p {protocol} --dport {NODE_PORT} -j DNAT --to-destination {pod}:{ECHO}"))?;
    }
    let to = SocketAddrV4::new(gateway, NODE_PORT);
    let mut udp = Flow::udp(lab.pod(A, 0).namespace(), 5701, to)?;
    let mut tcp = Flow::tcp(lab.pod(A, 0).namespace(), 5702, to)?;
    // The replier's node has to change replies back; the asker's may skip its stack.
    lab.make_fast_on(&[A], || {
        tcp.ask()?;
        udp.ask().map(drop)
    })?;
    for number in 0..200 {
        let seen = udp.ask().with_context(|| format!("UDP {number}"))?.seen;
        ensure!(
            seen == SocketAddrV4::new(lab.pod(A, 0).address(), 5701),
            "{seen}"
        );
        tcp.ask().with_context(|| format!("TCP {number}"))?;
    }
    Ok(())
}

fn b3_a_service_flow_whose_record_was_evicted_goes_on(lab: &Lab) -> Result<()> {
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    let listener = Ends::listen_on(lab.pod(B, 0).namespace(), ECHO + 1)?;
    let plain = SocketAddrV4::new(lab.pod(B, 0).address(), ECHO + 1);
    let pod = lab.pod(A, 0).namespace();
    let mut service = Flow::tcp(pod, 5801, ONE)?;
    let mut ends = Ends::open(pod, 5802, plain, &listener)?;
    lab.until_fast(&mut service)?;
    lab.make_fast(|| ends.exchange())?;
    lab.evict(A)?;
    lab.evict(B)?;
    service.ask_times(100).context("the Service's")?;
    if lab.kind != Kind::Direct {
        // The server speaks first after the eviction.
        ends.server_speaks()?;
    }
    lab.until_fast(&mut service).context("relearned")
}

fn b3_the_server_of_an_evicted_service_flow_may_speak_first(lab: &Lab) -> Result<()> {
    let listener = Ends::listen(lab.pod(B, 0))?;
    let mut ends = Ends::open(lab.pod(A, 0).namespace(), 5803, ONE, &listener)?;
    lab.make_fast(|| ends.exchange())?;
    for _ in 0..20 {
        lab.evict(A)?;
        ends.server_speaks().context("after the eviction")?;
    }
    Ok(())
}

fn b4_a_syn_ack_without_a_record_is_made_up_for_by_the_next_syn(lab: &Lab) -> Result<()> {
    let to = Server::address(lab.pod(B, 0));
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    let pod = lab.pod(B, 0).namespace();
    let hold = "OUTPUT -p tcp --tcp-flags SYN,ACK SYN,ACK -j DROP";
    pod.run_lines(&format!("iptables -A {hold}"))?;
    thread::scope(|scope| {
        let connecting = scope.spawn(|| {
            let mut flow = Flow::tcp(lab.pod(A, 0).namespace(), 5901, to)?;
            lab.until_fast(&mut flow)
        });
        wait_until("the SYN is there", SECONDS, || {
            pod.run(&["ss", "-Htn", "state", "syn-recv"])
                .is_ok_and(|text| text.contains("5901"))
        })?;
        is_direct(lab, A, 5901)?;
        is_direct(lab, B, 5901)?;
        lab.evict(A)?;
        lab.evict(B)?;
        pod.run_lines(&format!("iptables -D {hold}"))?;
        match connecting.join() {
            Ok(asked) => asked,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn b5_hosts_hairpins_and_dns_work_as_on_stock(lab: &Lab) -> Result<()> {
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    let backend = Server::address(lab.pod(B, 0));
    // What is asked for here is slow in part; that anything may be fast is said first.
    lab.until_fast(&mut Flow::udp(lab.pod(A, 0).namespace(), 0, backend)?)?;
    let from_node = |who: &str, to: SocketAddrV4| -> Result<()> {
        let mut tcp = Flow::tcp(lab.host(A), 0, to)?;
        let mut udp = Flow::udp(lab.host(A), 0, to)?;
        for _ in 0..50 {
            tcp.ask()
                .with_context(|| format!("TCP from the node to {who}"))?;
            udp.ask()
                .with_context(|| format!("UDP from the node to {who}"))?;
        }
        Ok(())
    };
    from_node("a pod", backend)?;
    from_node("a Service", ONE)?;
    // To oneself through the Service: masqueraded, local.
    let mut hairpin = Flow::tcp(lab.pod(B, 0).namespace(), 0, ONE)?;
    // DNS: a socket for every question.
    for _ in 0..50 {
        hairpin.ask().context("hairpin")?;
        let mut question = Flow::udp(lab.pod(A, 0).namespace(), 0, ONE)?;
        question.ask().context("a question to the Service")?;
    }
    ping(lab.pod(A, 0).namespace(), lab.pod(B, 0).address(), 1000).map(drop)
}

fn b5_both_sides_may_open_at_once(lab: &Lab) -> Result<()> {
    let (a, b) = (lab.pod(A, 0), lab.pod(B, 0));
    let open = |from: &Pod, to: Ipv4Addr| {
        // A SYN that finds no listener is refused: both try until they meet.
        let end = Instant::now() + SECONDS;
        loop {
            match connect_from(from.namespace(), 5950, SocketAddrV4::new(to, 5950)) {
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => {}
                Ok(stream) => return Ok(stream),
            }
        }
    };
    let (left, right) = thread::scope(|scope| {
        let left = scope.spawn(|| open(a, b.address()));
        let right = scope.spawn(|| open(b, a.address()));
        (left.join(), right.join())
    });
    let (Ok(left), Ok(right)) = (left, right) else {
        anyhow::bail!("a thread panicked");
    };
    let (mut left, mut right) = (left?, right?);
    let limit = TimeVal::new(3, 0);
    setsockopt(&right, sockopt::ReceiveTimeout, &limit)?;
    let mut byte = [0; 1];
    lab.make_fast(|| {
        left.write_all(b"x")?;
        right.read_exact(&mut byte)?;
        right.write_all(b"y")?;
        Ok(left.read_exact(&mut byte)?)
    })
}

fn after_silence_nobody_waits_for_the_outer_permit(lab: &Lab) -> Result<()> {
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    let to = Server::address(lab.pod(B, 0));
    for port in [5971, 5972] {
        // Nothing asks for the outer packet's way meanwhile, on either node.
        pass(PERMIT_TIME + Duration::from_millis(200))?;
        let begin = Instant::now();
        let mut tcp = Flow::tcp(lab.pod(A, 0).namespace(), port, to)?;
        tcp.ask()?;
        let took = begin.elapsed();
        ensure!(
            took < Duration::from_millis(800),
            "connected after {took:?}"
        );
        is_direct(lab, A, port)?;
        lab.make_fast(|| tcp.ask().map(drop))?;
    }
    Ok(())
}

#[test]
fn a16_icmp_errors_for_a_direct_flow_arrive_as_on_stock() -> Result<()> {
    everywhere(|lab| {
        a16_port_unreachable_for_a_direct_flow_arrives_as_on_stock(lab)
            .context("a16_port_unreachable_for_a_direct_flow_arrives_as_on_stock")?;
        a16_fragmentation_needed_behind_a_router_pod_arrives_as_on_stock(lab)
            .context("a16_fragmentation_needed_behind_a_router_pod_arrives_as_on_stock")?;
        Ok(())
    })
}

#[test]
fn b1_to_b5_what_nat_and_the_stack_own_stays_theirs() -> Result<()> {
    everywhere(|lab| {
        b1_one_port_to_a_service_and_straight_to_its_backend_keeps_replies_apart(lab)
            .context("b1_one_port_to_a_service_and_straight_to_its_backend_keeps_replies_apart")?;
        b2_nat_on_the_repliers_node_changes_replies_back(lab)
            .context("b2_nat_on_the_repliers_node_changes_replies_back")?;
        b3_a_service_flow_whose_record_was_evicted_goes_on(lab)
            .context("b3_a_service_flow_whose_record_was_evicted_goes_on")?;
        b3_the_server_of_an_evicted_service_flow_may_speak_first(lab)
            .context("b3_the_server_of_an_evicted_service_flow_may_speak_first")?;
        b4_a_syn_ack_without_a_record_is_made_up_for_by_the_next_syn(lab)
            .context("b4_a_syn_ack_without_a_record_is_made_up_for_by_the_next_syn")?;
        b5_hosts_hairpins_and_dns_work_as_on_stock(lab)
            .context("b5_hosts_hairpins_and_dns_work_as_on_stock")?;
        b5_both_sides_may_open_at_once(lab).context("b5_both_sides_may_open_at_once")?;
        after_silence_nobody_waits_for_the_outer_permit(lab)
            .context("after_silence_nobody_waits_for_the_outer_permit")?;
        Ok(())
    })
}

#[test]
fn one_way_datagrams_go_direct_on_both_nodes() -> Result<()> {
    everywhere(|lab| {
        let (a, b) = (lab.pod(A, 0), lab.pod(B, 0));
        let bind = |pod: &Pod, port| -> Result<UdpSocket> {
            let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port));
            Ok(pod.namespace().enter(bind)??)
        };
        let (sender, receiver) = (bind(a, 5981)?, bind(b, 5982)?);
        sender.connect((b.address(), 5982))?;
        receiver.set_read_timeout(Some(SECONDS))?;
        let mut buffer = [0; 16];
        let mut send = |datagram: &[u8]| -> Result<()> {
            sender.send(datagram)?;
            let (length, from) = receive(&receiver, &mut buffer)?;
            ensure!(buffer.get(..length) == Some(datagram), "another datagram");
            ensure!(from.ip() == a.address(), "from {from}");
            Ok(())
        };
        // The second node's stack delivers the first.
        wait_for("the flow is direct on both nodes", SECONDS, || {
            send(b"first")?;
            is_direct(lab, A, 5981)?;
            is_direct(lab, B, 5981).map(Some)
        })?;
        if lab.kind == Kind::Direct {
            let fast = || -> Result<[u64; 2]> {
                let out = lab.count(A, "from_pod", "fast")?;
                Ok([out, lab.count(B, "from_uplink", "fast")?])
            };
            let before = fast()?;
            (0..40).try_for_each(|_| send(b"next"))?;
            let after = fast()?;
            let most = before.iter().zip(&after).all(|(from, to)| to - from > 20);
            ensure!(most, "{before:?} before 40 datagrams, {after:?} after them");
        }
        Ok(())
    })
}

/// What comes from the other node comes by another interface than goes there: the stack alone sees
/// it, and takes the answer to a SYN that it has not seen for invalid.
fn b7_answers_by_another_interface_are_those_of_the_stacks_flows(lab: &Lab) -> Result<()> {
    let (a, b) = (lab.host(A), lab.host(B));
    let name = a.name();
    lab.cluster.underlay.switch().run_lines(&format!(
        "ip link add name second type veth peer name eth1 address 02:00:c0:00:02:11 netns {name}
         ip link set dev second master switch up"
    ))?;
    a.run_lines("ip link set dev eth1 up")?;
    for host in [a, b] {
        host.run_lines("iptables -I FORWARD -m conntrack --ctstate INVALID -j DROP")?;
    }
    b.run_lines("ip neigh replace 192.0.2.1 lladdr 02:00:c0:00:02:11 dev eth0 nud permanent")?;
    let _server = Server::backend(lab.pod(B, 0), "one")?;
    let to = Server::address(lab.pod(B, 0));
    for port in [5701, 5702] {
        let mut tcp = Flow::tcp(lab.pod(A, 0).namespace(), port, to)?;
        tcp.ask_times(20)?;
    }
    Flow::udp(lab.pod(A, 0).namespace(), 5703, to)?.ask_times(20)
}

#[test]
fn b7_flows_whose_answers_pass_no_hook_are_the_stacks() -> Result<()> {
    everywhere(b7_answers_by_another_interface_are_those_of_the_stacks_flows)
}
