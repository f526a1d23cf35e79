//! The mode `direct` under attack: what NAT and the stack own stays theirs (B1 to B5), and ICMP
//! errors come through (A16).

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use twill_abi::PERMIT_FLAG_DIRECT;
use twill_testbed::traffic::ping;
use twill_testbed::wait::{pass, wait_for, wait_until};
use twill_tests::required;

use crate::lane::{Lane, PERMIT, PERMIT_TIME, PORT, SECONDS, SERVICE, Who, restore};
use crate::talk::{ANSWER, Server, Tcp, Udp, connect_from};

const DIRECT: Who = Who::Twill("direct");
/// The unused port of a `NodePort` Service, and of a closed socket.
const NODE_PORT: u16 = 30_080;

/// Runs `check` on stock nodes, with permits, and in the mode `direct`.
fn everywhere(check: impl Fn(&Lane) -> Result<()>) -> Result<()> {
    if !required() {
        return Ok(());
    }
    for who in [Who::Stock, PERMIT, DIRECT] {
        let lane = Lane::new(who)?;
        lane.explained(warm(&lane).and_then(|()| check(&lane)))?;
    }
    Ok(())
}

/// Programs are attached, and the stack has delivered to both pods: in the mode `direct` their
/// places are known.
fn warm(lane: &Lane) -> Result<()> {
    if lane.who != Who::Stock {
        lane.wait_attached()?;
    }
    for (from, to) in [(0, 1), (1, 0)] {
        let _server = Server::start(lane.pod(to).namespace(), "warm", 4000)?;
        let to = SocketAddrV4::new(lane.pod(to).address(), 4000);
        for _ in 0..3 {
            Udp::connect(lane.pod(from).namespace(), 0, to)?.ask()?;
            Tcp::connect(lane.pod(from).namespace(), 0, to)?.ask()?;
        }
    }
    Ok(())
}

/// Whether the flow from this port is of the mode `direct`, where the mode is on.
fn is_direct(lane: &Lane, side: usize, port: u16) -> Result<()> {
    if lane.who == DIRECT {
        let permit = lane.permit(side, port)?.context("no record")?;
        ensure!(
            permit.flags & PERMIT_FLAG_DIRECT != 0,
            "not direct: {permit:?}"
        );
    }
    Ok(())
}

#[test]
fn a16_port_unreachable_for_a_direct_flow_arrives_as_on_stock() -> Result<()> {
    everywhere(|lane| {
        let to = SocketAddrV4::new(lane.pod(1).address(), PORT);
        let server = Server::start(lane.pod(1).namespace(), "one", PORT)?;
        let mut udp = Udp::connect(lane.pod(0).namespace(), 5555, to)?;
        lane.make_fast(|| udp.ask().map(drop))?;
        is_direct(lane, 0, 5555)?;
        drop(server);
        // The next call on the socket tells of the error that came for the last one.
        wait_for("ECONNREFUSED", SECONDS, || {
            udp.socket
                .set_read_timeout(Some(Duration::from_millis(200)))?;
            let said = udp
                .socket
                .send(b"1 \n")
                .and_then(|_| udp.socket.recv(&mut [0; 64]));
            match said {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(Some(())),
                other => anyhow::bail!("{other:?}"),
            }
        })
    })
}

#[test]
fn a16_fragmentation_needed_behind_a_router_pod_arrives_as_on_stock() -> Result<()> {
    everywhere(|lane| {
        // A network behind the pod, with a smaller MTU; what comes to the pod's port goes there.
        let router = lane.pod(1).namespace();
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
        restore(
            router,
            "*nat\n-A PREROUTING -i eth0 -p udp --dport 8080 -j DNAT --to-destination 172.31.0.2:8080\nCOMMIT\n",
        )?;
        let _server = Server::start(&inner, "inner", PORT)?;
        let to = SocketAddrV4::new(lane.pod(1).address(), PORT);
        let mut udp = Udp::connect(lane.pod(0).namespace(), 5556, to)?;
        lane.make_fast(|| udp.ask().map(drop))?;
        is_direct(lane, 0, 5556)?;
        // Sockets set DF until they know better.
        let destination = to.ip().to_string();
        wait_for("the pod knows the path's MTU", SECONDS, || {
            udp.socket.send(&[b'x'; 1300])?;
            let route = ["ip", "route", "get", &destination];
            let route = lane.pod(0).namespace().run(&route)?;
            Ok(route.contains("mtu 1000").then_some(()))
        })
    })
}

#[test]
fn b1_one_port_to_a_service_and_straight_to_its_backend_keeps_replies_apart() -> Result<()> {
    everywhere(|lane| {
        let _server = Server::start(lane.pod(1).namespace(), "one", PORT)?;
        let backend = SocketAddrV4::new(lane.pod(1).address(), PORT);
        for (port, order) in [(5601, [SERVICE, backend]), (5602, [backend, SERVICE])] {
            let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port));
            let socket = lane.pod(0).namespace().enter(bind)??;
            socket.set_read_timeout(Some(ANSWER))?;
            let mut number = 0;
            let mut ask = |to: SocketAddrV4| -> Result<()> {
                number += 1;
                socket.send_to(format!("{number}\n").as_bytes(), to)?;
                let mut buffer = [0; 256];
                let (length, from) = socket.recv_from(&mut buffer).context("no answer")?;
                let text = String::from_utf8_lossy(&buffer[..length]);
                ensure!(
                    from == SocketAddr::V4(to),
                    "asked {to}, {from} answered {text}"
                );
                ensure!(text.trim_end().ends_with(&format!(" {number}")), "{text}");
                Ok(())
            };
            for _ in 0..50 {
                ask(order[0])?;
            }
            for _ in 0..50 {
                ask(order[1]).with_context(|| format!("{} after {}", order[1], order[0]))?;
            }
            for _ in 0..200 {
                ask(order[0])?;
                ask(order[1])?;
            }
        }
        Ok(())
    })
}

#[test]
fn b2_nat_on_the_repliers_node_changes_replies_back() -> Result<()> {
    everywhere(|lane| {
        let _server = Server::start(lane.pod(1).namespace(), "one", PORT)?;
        let pod = lane.pod(1).address();
        let [a, b, c, _] = pod.octets();
        let gateway = Ipv4Addr::new(a, b, c, 1);
        // A hostPort, or a NodePort with externalTrafficPolicy=Local: the source is kept.
        let mut rules = String::from("*nat\n");
        for protocol in ["tcp", "udp"] {
            rules.extend([format!("-A PREROUTING -d {gateway} -p {protocol} --dport {NODE_PORT} -j DNAT --to-destination {pod}:{PORT}\n")]);
        }
        restore(lane.host(1), &(rules + "COMMIT\n"))?;
        let to = SocketAddrV4::new(gateway, NODE_PORT);
        let mut udp = Udp::connect(lane.pod(0).namespace(), 5701, to)?;
        let mut tcp = Tcp::connect(lane.pod(0).namespace(), 5702, to)?;
        for number in 0..200 {
            let seen = udp.ask().with_context(|| format!("UDP {number}"))?.seen;
            ensure!(
                seen == SocketAddrV4::new(lane.pod(0).address(), 5701),
                "{seen}"
            );
            tcp.ask().with_context(|| format!("TCP {number}"))?;
        }
        Ok(())
    })
}

#[test]
fn b3_a_service_flow_whose_record_was_evicted_goes_on() -> Result<()> {
    everywhere(|lane| {
        let _server = Server::start(lane.pod(1).namespace(), "one", PORT)?;
        let listen = || TcpListener::bind(("0.0.0.0", PORT + 1));
        let listener = lane.pod(1).namespace().enter(listen)??;
        let plain = SocketAddrV4::new(lane.pod(1).address(), PORT + 1);
        let mut service = Tcp::connect(lane.pod(0).namespace(), 5801, SERVICE)?;
        let mut client = connect_from(lane.pod(0).namespace(), 5802, plain)?;
        let (mut server, _) = listener.accept()?;
        let mut byte = [0; 1];
        lane.make_fast(|| service.ask().map(drop))?;
        lane.make_fast(|| {
            client.write_all(b"x")?;
            server.read_exact(&mut byte)?;
            server.write_all(b"y")?;
            Ok(client.read_exact(&mut byte)?)
        })?;
        if lane.who != Who::Stock {
            lane.evict(0)?;
            lane.evict(1)?;
        }
        for _ in 0..100 {
            service.ask().context("the Service's")?;
        }
        if lane.who == PERMIT || lane.who == Who::Stock {
            // The server speaks first after the eviction.
            server.write_all(b"y")?;
            client.read_exact(&mut byte)?;
        }
        lane.make_fast(|| service.ask().map(drop))
            .context("relearned")
    })
}

#[test]
fn b3_the_server_of_an_evicted_service_flow_may_speak_first() -> Result<()> {
    everywhere(|lane| {
        let listen = || TcpListener::bind(("0.0.0.0", PORT));
        let listener = lane.pod(1).namespace().enter(listen)??;
        let mut client = connect_from(lane.pod(0).namespace(), 5803, SERVICE)?;
        let (mut server, _) = listener.accept()?;
        let mut byte = [0; 1];
        lane.make_fast(|| {
            client.write_all(b"x")?;
            server.read_exact(&mut byte)?;
            server.write_all(b"y")?;
            Ok(client.read_exact(&mut byte)?)
        })?;
        for _ in 0..20 {
            if lane.who != Who::Stock {
                lane.evict(0)?;
            }
            server.write_all(b"y")?;
            client.read_exact(&mut byte).context("after the eviction")?;
        }
        Ok(())
    })
}

#[test]
fn b4_a_syn_ack_without_a_record_is_made_up_for_by_the_next_syn() -> Result<()> {
    everywhere(|lane| {
        let to = SocketAddrV4::new(lane.pod(1).address(), PORT);
        let _server = Server::start(lane.pod(1).namespace(), "one", PORT)?;
        let pod = lane.pod(1).namespace();
        let hold = "OUTPUT -p tcp --tcp-flags SYN,ACK SYN,ACK -j DROP";
        pod.run_lines(&format!("iptables -A {hold}"))?;
        thread::scope(|scope| {
            let connecting = scope.spawn(|| Tcp::connect(lane.pod(0).namespace(), 5901, to)?.ask());
            wait_until("the SYN is there", SECONDS, || {
                pod.run(&["ss", "-Htn", "state", "syn-recv"])
                    .is_ok_and(|text| text.contains("5901"))
            })?;
            if lane.who != Who::Stock {
                lane.evict(0)?;
                lane.evict(1)?;
            }
            pod.run_lines(&format!("iptables -D {hold}"))?;
            match connecting.join() {
                Ok(answer) => answer.map(drop),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    })
}

#[test]
fn b5_hosts_hairpins_and_dns_work_as_on_stock() -> Result<()> {
    everywhere(|lane| {
        let _server = Server::start(lane.pod(1).namespace(), "one", PORT)?;
        let backend = SocketAddrV4::new(lane.pod(1).address(), PORT);
        let from_node = |who: &str, to: SocketAddrV4| -> Result<()> {
            let mut tcp = Tcp::connect(lane.host(0), 0, to)?;
            let mut udp = Udp::connect(lane.host(0), 0, to)?;
            for _ in 0..50 {
                tcp.ask()
                    .with_context(|| format!("TCP from the node to {who}"))?;
                udp.ask()
                    .with_context(|| format!("UDP from the node to {who}"))?;
            }
            Ok(())
        };
        from_node("a pod", backend)?;
        from_node("a Service", SERVICE)?;
        // To oneself through the Service: masqueraded, local.
        let mut hairpin = Tcp::connect(lane.pod(1).namespace(), 0, SERVICE)?;
        // DNS: a socket for every question.
        for _ in 0..50 {
            hairpin.ask().context("hairpin")?;
            let mut question = Udp::connect(lane.pod(0).namespace(), 0, SERVICE)?;
            question.ask().context("a question to the Service")?;
        }
        ping(lane.pod(0).namespace(), lane.pod(1).address(), 1000).map(drop)
    })
}

#[test]
fn b5_both_sides_may_open_at_once() -> Result<()> {
    everywhere(|lane| {
        let (a, b) = (lane.pod(0), lane.pod(1));
        let open = |from: &twill_testbed::pod::Pod, to: Ipv4Addr| {
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
        for _ in 0..50 {
            left.write_all(b"x")?;
            right.read_exact(&mut byte)?;
            right.write_all(b"y")?;
            left.read_exact(&mut byte)?;
        }
        Ok(())
    })
}

#[test]
fn a_direct_connection_after_silence_does_not_wait_for_the_outer_permit() -> Result<()> {
    everywhere(|lane| {
        let _server = Server::start(lane.pod(1).namespace(), "one", PORT)?;
        let to = SocketAddrV4::new(lane.pod(1).address(), PORT);
        for port in [5971, 5972] {
            // Nothing asks for the outer packet's way meanwhile, on either node.
            pass(PERMIT_TIME + Duration::from_millis(200))?;
            let begin = Instant::now();
            let mut tcp = Tcp::connect(lane.pod(0).namespace(), port, to)?;
            tcp.ask()?;
            let took = begin.elapsed();
            ensure!(
                took < Duration::from_millis(800),
                "connected after {took:?}"
            );
            is_direct(lane, 0, port)?;
            lane.make_fast(|| tcp.ask().map(drop))?;
        }
        Ok(())
    })
}
