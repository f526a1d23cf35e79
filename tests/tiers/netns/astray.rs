//! Packets to other nodes that do not pass the uplink: the node's address is on an interface
//! without a wire, and a routing protocol leads to it.

use anyhow::{Result, ensure};
use serde_json::json;
use twill_testbed::agent::Agent;
use twill_testbed::cluster::Cluster;
use twill_testbed::netns::Prefix;
use twill_testbed::topology::UnderlayOptions;
use twill_testbed::traffic::{EchoServer, ping, tcp_echo, udp_echo};
use twill_testbed::wait::wait_for;
use twill_testbed::world::{NETWORK, NODE_A, NODE_B, OVERLAY_LINK, PORT, UPLINK, VNI};
use twill_tests::required;

use crate::agent_daemon::SECONDS;

/// The nodes' own addresses, and those of their wires.
const NODES: [(&str, &str, &str); 2] = [("a", "203.0.113.1", "lo"), ("b", "203.0.113.2", "node0")];

#[test]
fn a_node_whose_address_is_on_no_wire_loses_nothing_and_says_why_nothing_is_fast() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let config = json!({
        "Network": NETWORK,
        "Backend": { "Type": "vxlan", "VNI": VNI, "Port": PORT, "MTU": 1500 },
    });
    let options = UnderlayOptions::default();
    let mut cluster = Cluster::with_config(Prefix::unique(), options, &config.to_string())?;
    let url = cluster.lease_server.url();
    for ((label, own, interface), wire) in NODES.into_iter().zip([NODE_A, NODE_B]) {
        let node = cluster.underlay.join(label, wire)?;
        let (other, by) = if label == "a" {
            ("203.0.113.2", NODE_B)
        } else {
            ("203.0.113.1", NODE_A)
        };
        if interface != "lo" {
            // As good as a dummy device.
            node.namespace().run_lines(&format!(
                "ip link add name {interface} type bridge
                 ip link set dev {interface} up"
            ))?;
        }
        node.namespace().run_lines(&format!(
            "ip addr add {own}/32 dev {interface}
             ip route add {other} via {by} src {own}"
        ))?;
        // By name, and by address, in the mode that asks the stack least.
        let (iface, mode) = if label == "a" {
            (interface, "permit")
        } else {
            (own, "direct")
        };
        let mut agent = Agent::new(&node, &url, &["--fast-path", mode]);
        agent.set_iface(Some(iface));
        cluster.add_prepared(node, agent)?.add_pod("1")?;
    }
    cluster.wait_mesh()?;
    for (member, (_, own, interface)) in cluster.members.iter().zip(NODES) {
        let reason = format!(
            "the fast path is off: packets to other nodes leave by {UPLINK}, and not by the \
             uplink {interface}"
        );
        let told = wait_for("it is told", SECONDS, || {
            let told = member.agent.status()?;
            let said = &told["status"];
            let is_so = said["fast_path"]["reason"] == reason && said["ready"] == true;
            ensure!(is_so, "{said}");
            Ok(Some(told))
        });
        let said = &cluster.explained(told)?["status"];
        assert_eq!(said["fast_path"]["mode"], "off");
        assert_eq!([&said["public_ip"], &said["uplink"]], [own, interface]);
        let guard = said["guard"]["reason"].as_str().unwrap_or_default();
        ensure!(
            guard.contains("what comes there is not looked at"),
            "{said}"
        );
        // As flannel makes it.
        let device = member.node.namespace().link_json(OVERLAY_LINK)?;
        assert_eq!(device["mtu"], 1450);
        assert_eq!(member.agent.subnet_env()?.mtu_bytes, 1450);
        let shown = member
            .node
            .namespace()
            .run(&["ip", "-d", "link", "show", OVERLAY_LINK])?;
        ensure!(
            shown.contains(&format!("local {own} dev {interface} ")),
            "{shown}"
        );
    }
    for (from, to) in [(0, 1), (1, 0)] {
        let (from, to) = (&cluster.members[from].pods[0], &cluster.members[to].pods[0]);
        let _echo = EchoServer::start(to.namespace())?;
        for size in [64, 1400] {
            ping(from.namespace(), to.address(), size)?;
        }
        udp_echo(from.namespace(), to.address(), 1000)?;
        tcp_echo(from.namespace(), to.address(), 1 << 20)?;
    }
    Ok(())
}
