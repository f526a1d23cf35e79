//! `twilld` and `twillctl` on nodes with pods: what they promise when things go wrong.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use twill_abi::ABI_VERSION;
use twill_testbed::agent::Agent;
use twill_testbed::cluster::{Cluster, Member};
use twill_testbed::netns::{Namespace, Prefix};
use twill_testbed::pod::Pod;
use twill_testbed::topology::UnderlayOptions;
use twill_testbed::traffic::{EchoServer, ping, tcp_echo, udp_echo};
use twill_testbed::wait::{wait_for, wait_until};
use twill_testbed::world::{NODE_A, NODE_B, OVERLAY_LINK, UPLINK};
use twill_tests::required;

/// "Within seconds", with room for a busy machine.
pub(crate) const SECONDS: Duration = Duration::from_secs(15);

fn pair() -> Result<Cluster> {
    Cluster::of(&[("a", NODE_A), ("b", NODE_B)])
}

fn pods(cluster: &Cluster) -> (&Pod, &Pod) {
    (&cluster.members[0].pods[0], &cluster.members[1].pods[0])
}

/// Waits until the agent says that the node is as it should be, in this mode.
pub(crate) fn wait_mode(agent: &Agent, mode: &str) -> Result<Value> {
    wait_for(&format!("the agent's mode is {mode}"), SECONDS, || {
        let status = agent.ctl(&["status"])?;
        let said = &status["status"];
        Ok((said["mode"] == mode && said["ready"] == true).then_some(status))
    })
}

fn encapsulated(agent: &Agent) -> Result<u64> {
    let counters = agent.ctl(&["counters", "--all"])?;
    let counters = counters["counters"].as_array().context("no counters")?;
    let fast = counters
        .iter()
        .find(|count| count["program"] == "to_overlay" && count["reason"] == "fast");
    fast.and_then(|count| count["packets"].as_u64())
        .context("no counter to_overlay fast")
}

/// Names of attached programs, by the pins.
fn attached(agent: &Agent) -> Result<Vec<String>> {
    let status = agent.ctl(&["status"])?;
    let pins = status["pins"]["attached"].as_array();
    let mut names: Vec<String> = pins
        .context("no pins in the status")?
        .iter()
        .filter_map(|pin| pin["program"].as_str().map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

/// Echo requests at a hundred a second while `work` is done; every one must be answered.
pub(crate) fn while_pinging(
    from: &Namespace,
    to: Ipv4Addr,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    std::thread::scope(|scope| {
        let pinging = scope.spawn(|| {
            let to = to.to_string();
            from.run(&["ping", "-q", "-i", "0.01", "-c", "600", "-W", "1", &to])
        });
        let done = work();
        let said = match pinging.join() {
            Ok(said) => said?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        done?;
        ensure!(said.contains("600 received"), "lost packets: {said}");
        Ok(())
    })
}

#[test]
fn bpf_carries_pods_traffic_between_nodes() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = pair()?;
    let (a, b) = pods(&cluster);
    let agent = &cluster.members[0].agent;
    cluster.explained((|| {
        wait_mode(agent, "bpf")?;
        wait_mode(&cluster.members[1].agent, "bpf")?;
        let _echo = EchoServer::start(b.namespace())?;
        for size in [1, 1400, 30_000] {
            ping(a.namespace(), b.address(), size)?;
            udp_echo(a.namespace(), b.address(), size)?;
        }
        for size in [1, 64 * 1024, 5_000_000] {
            tcp_echo(a.namespace(), b.address(), size)?;
        }
        let packets = encapsulated(agent)?;
        ensure!(packets > 10, "BPF carried {packets} packets");
        let vteps = agent.ctl(&["vteps"])?;
        let vtep = &vteps["vteps"][0];
        assert_eq!(vtep["underlay"], NODE_B.to_string());
        let counters = agent.counters()?;
        let carried = packets + counters.packets("from_pod", "fast")?;
        assert_eq!(vtep["encap_packets"], carried);
        Ok(())
    })())
}

#[test]
fn nothing_is_lost_when_agents_are_killed_and_started_again() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = pair()?;
    wait_mode(&cluster.members[0].agent, "bpf")?;
    for member in &mut cluster.members {
        member.agent.kill()?;
    }
    let (a, b) = pods(&cluster);
    let before = encapsulated(&cluster.members[0].agent)?;
    let _echo = EchoServer::start(b.namespace())?;
    tcp_echo(a.namespace(), b.address(), 1_000_000)?;
    udp_echo(a.namespace(), b.address(), 1000)?;
    let after = encapsulated(&cluster.members[0].agent)?;
    assert!(after > before, "BPF goes on without the agent");
    let status = cluster.members[0].agent.ctl(&["status"]);
    let text = format!("{:#}", status.expect_err("exit status 3"));
    assert!(text.contains("exit status: 3"), "{text}");

    let b = b.address();
    let Member { pods, agent, .. } = &mut cluster.members[0];
    while_pinging(pods[0].namespace(), b, || {
        agent.start_again()?;
        wait_mode(agent, "bpf")?;
        // Stopped in good order and started once more.
        agent.stop()?;
        agent.start_again()?;
        wait_mode(agent, "bpf").map(drop)
    })
}

#[test]
fn detached_by_hand_no_packet_is_lost_and_programs_come_back() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = pair()?;
    let (a, b) = pods(&cluster);
    let agent = &cluster.members[0].agent;
    wait_mode(agent, "bpf")?;
    let all = attached(agent)?;
    for program in ["from_uplink", "to_overlay", "to_uplink"] {
        assert!(all.iter().any(|name| name == program), "{all:?}");
    }
    while_pinging(a.namespace(), b.address(), || {
        for pin in fs::read_dir(agent.pins().join("v1"))? {
            let pin = pin?;
            if pin.file_name().to_string_lossy().starts_with("link_") {
                fs::remove_file(pin.path())?;
            }
        }
        assert_eq!(attached(agent)?, [] as [&str; 0]);
        wait_until("the programs are back", SECONDS, || {
            attached(agent).is_ok_and(|now| now == all)
        })
    })
}

#[test]
fn a_device_that_somebody_deletes_comes_back_with_all_peers() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = pair()?;
    let (a, b) = pods(&cluster);
    let node = &cluster.members[0].node;
    let agent = &cluster.members[0].agent;
    wait_mode(agent, "bpf")?;
    let mac = node.namespace().link_json(OVERLAY_LINK)?["address"].clone();
    node.namespace()
        .run(&["ip", "link", "del", "dev", OVERLAY_LINK])?;
    wait_until("the pods reach each other again", SECONDS, || {
        ping(a.namespace(), b.address(), 100).is_ok()
    })?;
    let link = node.namespace().link_json(OVERLAY_LINK)?;
    assert_eq!(link["address"], mac, "peers know this one");
    let index = &link["ifindex"];
    wait_until("the program is on the new device", SECONDS, || {
        let status = agent.ctl(&["status"]).unwrap_or_default();
        let attached = status["status"]["attached"].as_array().cloned();
        attached.is_some_and(|all| {
            all.iter()
                .any(|one| one["program"] == "to_overlay" && one["ifindex"] == *index)
        })
    })?;
    let before = encapsulated(agent)?;
    wait_until("BPF carries packets again", SECONDS, || {
        ping(a.namespace(), b.address(), 100).is_ok()
            && encapsulated(agent).is_ok_and(|now| now > before)
    })
}

#[test]
fn without_bpf_the_kernel_carries_everything_and_the_status_says_why() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut cluster = pair()?;
    let url = cluster.lease_server.url();
    for member in &mut cluster.members {
        member.agent.stop()?;
        member.agent = Agent::new(&member.node, &url, &["--bpffs", "/proc/nothing"]);
        member.agent.start_again()?;
    }
    let (a, b) = pods(&cluster);
    let status = wait_mode(&cluster.members[0].agent, "kernel")?;
    let reason = status["status"]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("/proc/nothing"), "{reason}");
    let _echo = EchoServer::start(b.namespace())?;
    tcp_echo(a.namespace(), b.address(), 1_000_000)?;
    ping(a.namespace(), b.address(), 1)?;
    Ok(())
}

#[test]
fn what_others_made_survives_start_reconcile_stop_and_teardown() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    let node = cluster.underlay.join("a", NODE_A)?;
    node.namespace().run_lines(&format!(
        "ip link add vx9 type vxlan id 9 dev {UPLINK} dstport 4789
         ip link set vx9 up
         bridge fdb append 02:00:00:00:00:99 dev vx9 dst 192.0.2.99
         ip link add br9 type bridge
         ip addr add 10.244.200.1/24 dev br9
         ip link set br9 up
         ip route add 10.244.201.0/24 via 192.0.2.254
         tc qdisc add dev {UPLINK} clsact
         tc filter add dev {UPLINK} ingress prio 7 protocol ip u32 match u32 0 0 action mirred egress mirror dev br9"
    ))?;
    let state = || -> Result<Vec<String>> {
        [
            "ip -d link show vx9",
            "bridge fdb show dev vx9",
            "ip -4 addr show br9",
            "ip route show 10.244.201.0/24",
            "tc filter show dev eth0 ingress",
        ]
        .map(|words| {
            node.namespace()
                .run(&words.split_whitespace().collect::<Vec<_>>())
        })
        .into_iter()
        .collect()
    };
    let before = state()?;
    let mut agent = Agent::start(&node, &cluster.lease_server.url())?;
    wait_mode(&agent, "bpf")?;
    assert_eq!(state()?, before, "after the start");
    // Something to reconcile.
    node.namespace()
        .run(&["ip", "addr", "flush", "dev", OVERLAY_LINK])?;
    wait_until("the address is back", SECONDS, || {
        let shown = node
            .namespace()
            .run(&["ip", "-4", "addr", "show", OVERLAY_LINK]);
        shown.is_ok_and(|text| text.contains("/32"))
    })?;
    assert_eq!(state()?, before, "after reconciling");
    agent.stop()?;
    assert_eq!(state()?, before, "after the stop");
    let said = agent.ctl(&["teardown"])?;
    assert!(
        said["steps"]
            .as_array()
            .is_some_and(|steps| steps.iter().all(|step| step["error"].is_null())),
        "{said}"
    );
    assert_eq!(state()?, before, "after the teardown");
    assert!(!agent.pins().exists());
    assert!(node.namespace().link_json(OVERLAY_LINK).is_err());
    Ok(())
}

#[test]
fn a_device_that_flannel_made_is_adopted_and_left_at_teardown() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    let node = cluster.underlay.join("a", NODE_A)?;
    node.namespace().run_lines(&format!(
        "ip link add {OVERLAY_LINK} address 02:00:00:00:00:0a type vxlan id 1 local {NODE_A} dev {UPLINK} nolearning dstport 8472
         ip link set {OVERLAY_LINK} mtu 1450 up"
    ))?;
    let before = node.namespace().link_json(OVERLAY_LINK)?;
    let mut agent = Agent::start(&node, &cluster.lease_server.url())?;
    let status = wait_mode(&agent, "bpf")?;
    assert_eq!(status["status"]["mac"], "02:00:00:00:00:0a");
    agent.stop()?;
    agent.ctl(&["teardown"])?;
    let after = node.namespace().link_json(OVERLAY_LINK)?;
    assert_eq!(after["ifindex"], before["ifindex"], "the very same device");
    assert_eq!(attached(&agent).ok(), None, "no pins");
    Ok(())
}

#[test]
fn two_agents_do_not_share_an_instance() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    let node = cluster.underlay.join("a", NODE_A)?;
    let first = Agent::start(&node, &cluster.lease_server.url())?;
    let mut second = Agent::new(&node, &cluster.lease_server.url(), &[]);
    second.start_again()?;
    let status = wait_for("the second gives up", SECONDS, || second.daemon()?.ended())?;
    assert_eq!(status.code(), Some(1));
    let text = second.log_tail();
    assert!(text.contains("--instance"), "{text}");
    wait_mode(&first, "bpf")?;
    Ok(())
}

/// Names of the pins.
fn pinned(agent: &Agent) -> Result<Vec<String>> {
    let folder = agent.pins().join(format!("v{ABI_VERSION}"));
    let entries = fs::read_dir(&folder)?.map(|entry| Ok(entry?.file_name()));
    let names: std::io::Result<Vec<_>> = entries.collect();
    let names = names?.into_iter().map(|name| name.display().to_string());
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}

/// What cannot be opened for want of files is not taken for somebody else's.
#[test]
fn a_daemon_that_may_open_no_file_removes_no_pin() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let cluster = Cluster::new(Prefix::unique(), UnderlayOptions::default())?;
    let node = cluster.underlay.join("a", NODE_A)?;
    let mut agent = Agent::start(&node, &cluster.lease_server.url())?;
    wait_mode(&agent, "bpf")?;
    let pid = agent.daemon()?.pid()?;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let files: Vec<&str> = files.context("no limit")?.split_whitespace().collect();
    ensure!(files[3] == files[4], "the limit is not raised: {files:?}");
    let limit = |number: &str| {
        let number = format!("--nofile={number}");
        node.namespace()
            .run(&["prlimit", "--pid", &pid.to_string(), &number])
    };

    let before = pinned(&agent)?;
    let log = node.directory().join("twilld.log");
    limit("3:4096")?;
    wait_for("a pin cannot be opened", SECONDS, || {
        let said = fs::read_to_string(&log)?;
        let lines = said
            .lines()
            .filter(|line| line.contains("Too many open files"));
        Ok(lines
            .into_iter()
            .any(|line| line.contains("pin"))
            .then_some(()))
    })?;
    assert_eq!(pinned(&agent)?, before);
    limit("4096:4096")?;
    wait_mode(&agent, "bpf")?;
    assert_eq!(pinned(&agent)?, before);
    Ok(())
}
