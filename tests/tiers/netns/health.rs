//! What the agent tells those who watch it: health and metrics over HTTP, and systemd.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use nix::sys::signal::{Signal, kill};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use twill_abi::{ABI_VERSION, Be16, FlowTuple, Permit};
use twill_testbed::agent::Agent;
use twill_testbed::cluster::Cluster;
use twill_testbed::netns::{Namespace, Prefix};
use twill_testbed::topology::{Node, UnderlayOptions};
use twill_testbed::traffic::{EchoServer, again, tcp_echo};
use twill_testbed::wait::{wait_for, wait_until};
use twill_testbed::world::{NODE_A, NODE_B, NODE_C};
use twill_tests::required;

/// "Within seconds", with room for a busy machine.
const SECONDS: Duration = Duration::from_secs(20);
const PORT: u16 = 10_245;
const FLAGS: [&str; 3] = ["-healthz-port=10245", "-healthz-ip=127.0.0.1", "-ip-masq"];

/// Two nodes that know each other, with a pod each.
fn two_nodes() -> Result<Cluster> {
    let mut cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    for (label, address) in [("a", NODE_A), ("b", NODE_B)] {
        cluster
            .add_node_with(label, address, &FLAGS)?
            .add_pod("1")?;
    }
    cluster.wait_mesh()?;
    Ok(cluster)
}

/// Status line and body.
fn ask(node: &Namespace, path: &str) -> Result<(String, String)> {
    let text = node.enter(|| -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", PORT))?;
        stream.set_read_timeout(Some(SECONDS))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })??;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    Ok((status.to_owned(), body.to_owned()))
}

/// The value of a series, as it is written.
fn metric(text: &str, series: &str) -> Result<f64> {
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let value = found.with_context(|| format!("no {series} in\n{text}"))?;
    Ok(value.parse()?)
}

#[test]
fn readiness_and_metrics_tell_what_is_so() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = two_nodes()?;
    let [a, b] = &mut cluster.members[..] else {
        unreachable!("two nodes were added");
    };
    let (from, to) = (a.pods[0].namespace(), b.pods[0].address());
    let node = a.node.namespace();
    let ready = || ask(node, "/readyz");
    wait_until("the node is ready", SECONDS, || {
        ready().is_ok_and(|(status, body)| {
            status.contains("200") && body.contains("flanneld is ready")
        })
    })?;
    let _echo = EchoServer::start(b.pods[0].namespace())?;
    let fast = "twill_packets_total{program=\"from_pod\",reason=\"fast\"}";
    let text = wait_for("fast packets are counted", SECONDS, || {
        tcp_echo(from, to, 1 << 20)?;
        let (_, text) = ask(node, "/metrics")?;
        Ok((metric(&text, fast)? > 0.0).then_some(text))
    })?;
    for (series, least) in [
        ("twill_ready", 1.0),
        ("twill_mode{mode=\"bpf\"}", 1.0),
        ("twill_fast_path{mode=\"permit\"}", 1.0),
        ("twill_peers", 1.0),
        ("twill_pods{fast=\"may_be\"}", 1.0),
        ("twill_attached_programs", 5.0),
        ("twill_store_connected", 1.0),
        ("twill_store_complete", 1.0),
        ("twill_permits{state=\"tombstone\"}", 1.0),
        ("twill_reconcile_passes_total", 1.0),
        ("twill_reconcile_steps_total", 1.0),
        ("twill_reconcile_seconds_count", 1.0),
    ] {
        let value = metric(&text, series)?;
        ensure!(value >= least, "{series} is {value}");
    }
    let sent = format!("twill_vtep_sent_packets_total{{vtep=\"{NODE_B}\"}}");
    ensure!(metric(&text, &sent)? > 0.0, "{sent}");
    ensure!(text.ends_with("# EOF\n"), "{text}");

    // The lease server is away: the node is as it should be, and says what is missing.
    cluster.lease_server.kill()?;
    wait_until("metrics tell that the store is away", SECONDS, || {
        let connected = |text: String| metric(&text, "twill_store_connected");
        ask(node, "/metrics").is_ok_and(|(_, text)| connected(text).is_ok_and(|it| it == 0.0))
    })?;
    ensure!(ready()?.0.contains("200"), "{:?}", ready()?);
    // The uplink that was asked for is gone.
    node.run(&["ip", "link", "set", "eth0", "name", "eth9"])?;
    wait_until("the node is not ready", SECONDS, || {
        ready().is_ok_and(|(status, body)| {
            status.contains("503") && body.contains("flanneld is not ready yet")
        })
    })?;
    Ok(())
}

/// As many as there is room for by default.
#[test]
fn metrics_with_many_permits_do_not_take_long() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = two_nodes()?;
    let [a, b] = &mut cluster.members[..] else {
        unreachable!("two nodes were added");
    };
    let (from, to) = (a.pods[0].namespace(), b.pods[0].address());
    let _echo = EchoServer::start(b.pods[0].namespace())?;
    let pin = a.agent.pins().join(format!("v{ABI_VERSION}/permits_pod"));
    let map = Map::from_map_data(MapData::from_pin(&pin)?)?;
    let mut map: HashMap<MapData, FlowTuple, Permit> = map.try_into()?;
    let (tuple, permit) = wait_for("a flow has a permit", SECONDS, || {
        tcp_echo(from, to, 1 << 16)?;
        Ok(map.iter().next().transpose()?)
    })?;
    for port in 1024..u16::MAX {
        let pod = FlowTuple {
            local_port: Be16::from_host(port),
            ..tuple
        };
        map.insert(pod, Permit { pod, ..permit }, 0)?;
    }

    let begin = Instant::now();
    let (status, text) = ask(a.node.namespace(), "/metrics")?;
    let took = begin.elapsed();
    #[expect(clippy::print_stdout, reason = "a figure for people")]
    {
        println!("health: metrics with 64,511 permits in {took:?}");
    }
    ensure!(status.contains("200"), "{status}");
    let states = ["live", "half", "expired", "tombstone", "garbage"];
    let counted = states.map(|state| metric(&text, &format!("twill_permits{{state=\"{state}\"}}")));
    let counted: f64 = counted.into_iter().filter_map(Result::ok).sum();
    ensure!(counted > 50_000.0, "{counted} of 64,511");
    ensure!(took < Duration::from_secs(10), "{took:?}");
    Ok(())
}

fn wait_readiness(node: &Namespace, what: &str, status: &str) -> Result<()> {
    wait_until(&format!("{what}: {status}"), 3 * SECONDS, || {
        ask(node, "/readyz").is_ok_and(|(told, _)| told.contains(status))
    })
}

/// The kernel carries what BPF does not, but somebody has to act.
#[test]
fn a_node_with_maps_that_are_too_small_is_not_ready() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    let flags = [&FLAGS[..], &["--max-vteps=1"]].concat();
    cluster.add_node_with("a", NODE_A, &flags)?;
    cluster.add_node("b", NODE_B)?;
    cluster.wait_mesh()?;
    let node = cluster.members[0].node.namespace().clone();
    wait_readiness(&node, "one other node", "200")?;
    cluster.add_node("c", NODE_C)?;
    cluster.wait_mesh()?;
    wait_readiness(&node, "two other nodes", "503")?;
    let told = cluster.members[0].agent.status()?;
    let unmapped = told["status"]["unmapped"].as_array().map(Vec::len);
    assert_eq!(unmapped, Some(1), "{told}");
    Ok(())
}

#[test]
fn a_node_whose_programs_cannot_be_attached_is_not_ready() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    let node = cluster.underlay.join("a", NODE_A)?;
    node.namespace().run_lines(
        "ip link add br9 type bridge
         tc qdisc add dev eth0 clsact
         tc filter add dev eth0 ingress prio 50 protocol all u32 match u32 0 0 action mirred egress mirror dev br9",
    )?;
    let flags = [&FLAGS[..], &["--attach-by=netlink"]].concat();
    let mut agent = Agent::new(&node, &cluster.lease_server.url(), &flags);
    agent.start_again()?;
    wait_for("the agent says why", SECONDS, || {
        let told = agent.status()?;
        let reason = told["status"]["reason"].as_str().unwrap_or_default();
        let written = !told["status"]["subnet"]
            .as_str()
            .unwrap_or_default()
            .is_empty();
        Ok((written && reason.contains("--tc-priority")).then_some(()))
    })?;
    wait_readiness(node.namespace(), "the slot is taken", "503")?;
    node.namespace().run(&[
        "tc", "filter", "del", "dev", "eth0", "ingress", "prio", "50",
    ])?;
    wait_readiness(node.namespace(), "the slot is free", "200")
}

#[test]
fn a_daemon_ends_in_order_by_sigint_and_a_second_signal_changes_nothing() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    let node = cluster.underlay.join("a", NODE_A)?;
    let mut agent = Agent::new(&node, &cluster.lease_server.url(), &[]);
    for signals in [
        &[Signal::SIGINT][..],
        // All of them wait for it at once.
        &[
            Signal::SIGSTOP,
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGCONT,
        ],
        &[Signal::SIGINT, Signal::SIGINT, Signal::SIGINT],
    ] {
        agent.start_again()?;
        agent.wait_ready()?;
        let daemon = agent.daemon()?;
        for &signal in signals {
            kill(daemon.pid()?, signal)?;
        }
        let ended = wait_for("the daemon ends", SECONDS, || daemon.ended())?;
        ensure!(ended.success(), "{ended} after {signals:?}");
        let last = agent.log_tail();
        let last = last.lines().last().unwrap_or_default();
        ensure!(last.contains("Exiting cleanly..."), "{last}");
        ensure!(agent.status()?["status"]["stopped"] == true, "not in order");
    }
    // Before there is anything to stop.
    cluster_away(&node)
}

fn cluster_away(node: &Node) -> Result<()> {
    let mut agent = Agent::new(node, "http://192.0.2.77:7890", &FLAGS);
    agent.start_again()?;
    wait_for("health is told", SECONDS, || {
        ask(node.namespace(), "/healthz").map(Some)
    })?;
    let daemon = agent.daemon()?;
    kill(daemon.pid()?, Signal::SIGINT)?;
    let ended = wait_for("the daemon ends", SECONDS, || daemon.ended())?;
    ensure!(ended.success(), "{ended}");
    Ok(())
}

#[test]
fn health_is_told_before_there_is_a_store() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    let node = cluster.underlay.join("a", NODE_A)?;
    let mut agent = Agent::new(&node, "http://192.0.2.77:7890", &FLAGS);
    agent.start_again()?;
    let (status, body) = wait_for("health is told", SECONDS, || {
        ask(node.namespace(), "/healthz").map(Some)
    })?;
    ensure!(status.contains("200"), "{status}");
    ensure!(body == "flanneld is running", "{body}");
    let (status, body) = ask(node.namespace(), "/readyz")?;
    ensure!(status.contains("503"), "{status}");
    ensure!(body == "flanneld is not ready yet", "{body}");
    Ok(())
}

#[test]
fn a_daemon_ends_by_sigquit() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    let node = cluster.underlay.join("a", NODE_A)?;
    // A shell in the background has its children ignore the signal, and they theirs; one that is
    // caught here is none of theirs.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let _caught = runtime.block_on(async { signal(SignalKind::quit()) })?;
    let mut agent = Agent::start(&node, &cluster.lease_server.url())?;
    let daemon = agent.daemon()?;
    kill(daemon.pid()?, Signal::SIGQUIT)?;
    let ended = wait_for("the daemon ends", SECONDS, || daemon.ended())?;
    ensure!(ended.signal() == Some(Signal::SIGQUIT as i32), "{ended}");
    Ok(())
}

#[test]
fn systemd_is_told_when_it_asks() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    let node = cluster.underlay.join("a", NODE_A)?;
    let path = node.directory().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut agent = Agent::new(&node, &cluster.lease_server.url(), &[]);
    agent.set_variable("NOTIFY_SOCKET", &path);
    // So that the agent takes the watchdog for its own.
    agent.set_variable("WATCHDOG_USEC", "3000000");
    agent.start_again()?;
    let mut heard = String::new();
    let mut hear = |what: &str| {
        let seen = |heard: &str| heard.lines().any(|line| line.starts_with(what));
        wait_until(&format!("{what} is heard"), SECONDS, || {
            let mut buffer = [0; 4096];
            match again(|| socket.recv(&mut buffer)) {
                Ok(length) => {
                    heard.push_str(&String::from_utf8_lossy(&buffer[..length]));
                    heard.push('\n');
                }
                Err(error) => assert!(
                    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                    "{error}"
                ),
            }
            seen(&heard)
        })
    };
    hear("READY=1")?;
    ensure!(agent.subnet_file().exists(), "ready without subnet.env");
    hear("WATCHDOG=1")?;
    hear("STATUS=10.244.")?;
    agent.stop()?;
    hear("STOPPING=1")
}
