//! The pods of a lab, and their places on the nodes.

use anyhow::{Context as _, Result, ensure};
use twill_testbed::pod::Pod;

use super::Lab;

impl Lab {
    /// A pod of a node, 0 or 1.
    pub(crate) fn pod(&self, node: usize, pod: usize) -> &Pod {
        &self.member(node).pods[pod]
    }

    /// The name of a pod's host-side veth.
    pub(crate) fn veth(&self, node: usize, pod: usize) -> Result<String> {
        let index = &self.pod(node, pod).namespace().link_json("eth0")?["link_index"];
        let links: serde_json::Value = serde_json::from_str(&self.on(node, "ip -json link")?)?;
        let links = links.as_array().context("no list of links")?;
        let veth = links.iter().find(|link| link["ifindex"] == *index);
        let name = veth.and_then(|veth| veth["ifname"].as_str());
        Ok(name.context("the pod has no host-side veth")?.to_owned())
    }

    /// Deletes the first pod of a node and makes another with the same address.
    pub(crate) fn replace_pod(&mut self, node: usize, label: &str) -> Result<()> {
        // host-local goes on after the last address it gave; without a last one it starts anew.
        let last = "cni/cbr0/last_reserved_ip.0";
        let member = &mut self.cluster.members[node];
        let address = member.pods.remove(0).address();
        std::fs::remove_file(member.node.directory().join(last))?;
        let pod = Pod::add(&member.node, label, &member.env)?;
        ensure!(pod.address() == address, "another address");
        member.pods.insert(0, pod);
        Ok(())
    }
}
