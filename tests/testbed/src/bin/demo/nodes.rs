//! Building three nodes with two pods each.

use anyhow::{Context, Result, bail};
use twill_testbed::cluster::{Cluster, Member};
use twill_testbed::netns::Prefix;
use twill_testbed::pod::Pod;
use twill_testbed::topology::UnderlayOptions;
use twill_testbed::world::{
    LEASE_SERVER, NETWORK, NODE_A, NODE_B, NODE_C, OVERLAY_LINK, PORT, VNI,
};

use crate::findings::{Findings, NodeFinding};
use crate::voice::Voice;

const PODS: [&str; 2] = ["1", "2"];

pub(crate) fn build(voice: &Voice, prefix: Prefix, findings: &mut Findings) -> Result<Cluster> {
    voice.heading("Building three nodes as network namespaces");
    voice.built(format_args!(
        "underlay 192.0.2.0/24, a bridge in the namespace {}",
        prefix.name("switch")
    ));
    voice.built(format_args!(
        "lease server at {LEASE_SERVER}: network {NETWORK}, vxlan, VNI {VNI}, UDP port {PORT}"
    ));
    let mut cluster = Cluster::new(prefix, UnderlayOptions::default())?;
    for (label, address) in [("a", NODE_A), ("b", NODE_B), ("c", NODE_C)] {
        voice.built(format_args!(
            "node {label} at {address}: starting its agent"
        ));
        let env = cluster.add_node(label, address)?.env;
        voice.built(format_args!(
            "node {label} leased {}, pods get MTU {}",
            env.prefix(),
            env.mtu_bytes
        ));
    }
    let known = cluster.wait_mesh();
    cluster.explained(known)?;
    voice.built("pods, wired by the CNI plugins bridge and host-local");
    for member in &mut cluster.members {
        for label in PODS {
            member.add_pod(label)?;
        }
    }
    findings.nodes = cluster.members.iter().map(found).collect::<Result<_>>()?;
    voice.heading("Nodes, subnets and VTEPs");
    voice.table(&rows(&findings.nodes));
    for node in &findings.nodes {
        if let Some(reason) = &node.reason {
            bail!("BPF is not in use on node {}: {reason}", node.node);
        }
    }
    Ok(cluster)
}

fn found(member: &Member) -> Result<NodeFinding> {
    let link = member.node.namespace().link_json(OVERLAY_LINK)?;
    let mac = link["address"].as_str();
    let told = member.agent.status()?;
    let said = |key: &str| told["status"][key].as_str().map(str::to_owned);
    Ok(NodeFinding {
        node: member.node.label().to_owned(),
        underlay: member.node.address(),
        subnet: member.env.prefix().to_string(),
        vtep_mac: mac.context("a link without a MAC address")?.to_owned(),
        mode: said("mode").with_context(|| format!("no mode in {told}"))?,
        reason: said("reason"),
        pods: member.pods.iter().map(Pod::address).collect(),
    })
}

fn rows(nodes: &[NodeFinding]) -> Vec<Vec<String>> {
    let head = ["node", "underlay", "subnet", "VTEP MAC", "mode", "pods"].map(str::to_owned);
    let rows = nodes.iter().map(|node| {
        let pods: Vec<_> = node.pods.iter().map(ToString::to_string).collect();
        vec![
            node.node.clone(),
            node.underlay.to_string(),
            node.subnet.clone(),
            node.vtep_mac.clone(),
            node.mode.clone(),
            pods.join(" "),
        ]
    });
    std::iter::once(head.to_vec()).chain(rows).collect()
}
