//! Pods that come and go: what was remembered of one is not the next one's.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use twill_agent::store::server::ServerStore;
use twill_core::backend::vxlan;
use twill_core::vtep::{MacAddr, Vni};
use twill_testbed::netns::Namespace;
use twill_testbed::pod::Pod;
use twill_testbed::stock::{self, Peer};
use twill_testbed::traffic::ping;
use twill_testbed::wait::wait_for;
use twill_testbed::world::{NODE_A, NODE_B, NODE_C, OVERLAY_LINK, VNI, VTEP_MAC_C};

use crate::lab::{A, B, Kind, Lab, Options, PERMIT_TIME, SECONDS, run};
use crate::rules::ONE;
use crate::talk::{Flow, Server};

#[test]
fn a_pods_address_given_to_a_new_pod_is_the_new_pods_at_once() -> Result<()> {
    run(&Kind::ALL, Options::default(), replaced).map(drop)
}

fn replaced(lab: &mut Lab) -> Result<()> {
    let old = Server::backend(lab.pod(B, 0), "old")?;
    let to = Server::address(lab.pod(B, 0));
    let mut udp = Flow::udp(lab.pod(A, 0).namespace(), 5200, to)?;
    let mut tcp = Flow::tcp(lab.pod(A, 0).namespace(), 5201, to)?;
    lab.until_fast(&mut udp)?;
    lab.until_fast(&mut tcp)?;
    drop(old);
    lab.replace_pod(B, "new")?;
    let _new = Server::backend(lab.pod(B, 0), "new")?;
    udp.set_patience(Duration::from_millis(100));
    // The node still has the old pod's MAC address until the new one asks for the gateway's.
    announce(lab, B)?;
    let begin = Instant::now();
    wait_for("the new pod answers", SECONDS, || {
        let answer = udp.ask()?;
        ensure!(answer.name == "new", "the dead pod answers");
        Ok(Some(()))
    })?;
    ensure!(
        begin.elapsed() < Duration::from_secs(2),
        "after {:?}",
        begin.elapsed()
    );
    // The new pod knows nothing of the old one's connection.
    ensure!(
        tcp.ask().is_err(),
        "the new pod goes on with the old one's connection"
    );
    let mut again = Flow::tcp(lab.pod(A, 0).namespace(), 5202, to)?;
    ensure!(again.ask()?.name == "new");
    udp.set_patience(crate::talk::ANSWER);
    lab.until_fast(&mut again).context("TCP to the new pod")?;
    lab.until_fast(&mut udp).context("UDP to the new pod")?;

    // And the other way round: the asking pod is replaced, its successor uses the same port.
    drop((udp, tcp, again));
    lab.replace_pod(A, "heir")?;
    announce(lab, A)?;
    let mut udp = Flow::udp(lab.pod(A, 0).namespace(), 5200, to)?;
    udp.set_patience(Duration::from_millis(100));
    wait_for("the heir is answered", SECONDS, || udp.ask().map(Some))?;
    udp.set_patience(crate::talk::ANSWER);
    lab.until_fast(&mut udp).context("the heir")
}

/// Lets the node learn the new pod's MAC address, as the pod's first packet does.
pub(crate) fn announce(lab: &Lab, node: usize) -> Result<()> {
    let [a, b, c, _] = lab.pod(node, 0).address().octets();
    ping(lab.pod(node, 0).namespace(), [a, b, c, 1].into(), 8).map(drop)
}

#[test]
fn a_lease_that_moves_to_another_node_takes_its_flows_along() -> Result<()> {
    run(&Kind::ALL, Options::default(), lease_moves).map(drop)
}

/// The old holder of the lease is cut off from the lease server and knows nothing of it: its
/// pods go on and would answer.
fn lease_moves(lab: &mut Lab) -> Result<()> {
    let _old = Server::backend(lab.pod(B, 0), "old")?;
    let to = Server::address(lab.pod(B, 0));
    let mut udp = Flow::udp(lab.pod(A, 0).namespace(), 5210, to)?;
    let mut service = Flow::udp(lab.pod(A, 0).namespace(), 5211, ONE)?;
    lab.until_fast(&mut udp)?;
    lab.until_fast(&mut service)?;
    lab.cluster.members[B].agent.kill()?;

    let c = lab.cluster.underlay.join("c", NODE_C)?;
    let [near, far] = [A, B].map(|node| lab.member(node).env.prefix().to_string());
    let own = Peer::new(&far, NODE_C, VTEP_MAC_C)?;
    let env = stock::set_up(&c, &own)?;
    let mac = lab.host(A).link_json(OVERLAY_LINK)?["address"].clone();
    let mac = mac_of(mac.as_str().context("no MAC address")?)?;
    stock::add_peer(&c, &Peer::new(&near, NODE_A, mac)?)?;
    let heir = Pod::add(&c, "1", &env)?;
    ensure!(
        heir.address() == *to.ip(),
        "the heir has {}",
        heir.address()
    );
    let _new = Server::backend(&heir, "new")?;
    ping(heir.namespace(), env.gateway(), 8)?;

    let subnet = far.parse()?;
    let attrs = vxlan::attrs(NODE_C, Vni::new(VNI.into())?, MacAddr(VTEP_MAC_C));
    let url = lab.cluster.lease_server.url();
    c.namespace().enter(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(async {
                let store = ServerStore::new(&url)?;
                store.release(subnet, NODE_B).await?;
                let lease = store.acquire(&attrs, Some(subnet)).await?;
                ensure!(lease.subnet == subnet, "the lease of {}", lease.subnet);
                Ok(())
            })
    })??;
    for (name, flow) in [("plain", &mut udp), ("Service", &mut service)] {
        flow.set_patience(Duration::from_millis(100));
        let moved = wait_for("the heir answers", SECONDS, || {
            Ok((flow.ask()?.name == "new").then_some(()))
        });
        moved.with_context(|| format!("the {name} flow"))?;
        flow.set_patience(crate::talk::ANSWER);
        for _ in 0..100 {
            let name = flow.ask()?.name;
            ensure!(name == "new", "{name} answers");
        }
    }
    // Fast to the new holder, a stock node.
    for flow in [&mut udp, &mut service] {
        let nodes = lab.twill_nodes().iter().copied().filter(|node| *node == A);
        let nodes: Vec<_> = nodes.collect();
        lab.make_fast_on(&nodes, || flow.ask().map(drop))
            .context("to the new holder")?;
    }
    Ok(())
}

fn mac_of(text: &str) -> Result<[u8; 6]> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let bytes = bytes.collect::<Result<Vec<u8>, _>>()?;
    <[u8; 6]>::try_from(bytes).map_err(|_length| anyhow::anyhow!("{text} is no MAC address"))
}

#[test]
fn a_veth_with_a_dead_ones_index_gets_nothing_of_its_flows() -> Result<()> {
    run(&Kind::ALL, Options::default(), index_reused).map(drop)
}

/// The pod's veth goes, and another takes its index at once; who asks goes on asking.
fn index_reused(lab: &mut Lab) -> Result<()> {
    let server = Server::backend(lab.pod(B, 0), "one")?;
    let to = Server::address(lab.pod(B, 0));
    let mut udp = Flow::udp(lab.pod(A, 0).namespace(), 5220, to)?;
    lab.until_fast(&mut udp)?;
    let veth = lab.veth(B, 0)?;
    let index = lab.host(B).link_json(&veth)?["ifindex"].clone();
    drop(server);
    let thief = Namespace::new("thief")?;
    thief.set_sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    lab.host(B)
        .set_sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    lab.host(B).run_lines(&format!(
        "ip link del {veth}
         ip link add thief index {index} type veth peer name eth0 netns {}
         ip link set thief up",
        thief.name()
    ))?;
    thief.run_lines("ip link set eth0 up")?;
    udp.set_patience(Duration::from_millis(5));
    let end = Instant::now() + PERMIT_TIME;
    while Instant::now() < end {
        ensure!(udp.ask().is_err(), "somebody answers");
    }
    let stats = &thief.link_json("eth0")?["stats64"]["rx"]["packets"];
    let packets = stats.as_u64().context("no count of packets")?;
    ensure!(packets < 3, "{packets} packets of a dead pod's flow");
    Ok(())
}
