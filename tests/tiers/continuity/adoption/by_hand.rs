//! Nodes set up by hand as flannel 0.28.9 does it, with masquerading by nftables. What a handover
//! leaves is compared with that, word for word.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use twill_agent::store::server::ServerStore;
use twill_core::lease::LeaseAttrs;
use twill_core::vtep::{MacAddr, Vni};
use twill_testbed::agent::Agent;
use twill_testbed::lease_server::LeaseServer;
use twill_testbed::netns::Namespace;
use twill_testbed::stock::{Pair, Peer};
use twill_testbed::topology::{Node, UnderlayOptions};
use twill_testbed::traffic::{EchoServer, Load};
use twill_testbed::world::{NETWORK, OVERLAY_LINK, PORT, VNI};
use twill_tests::required;

use crate::scene::{Alone, BY_FILTERS, Scene, wait_fast};

/// As flannel writes them (0.28.9, `pkg/trafficmngr/nftables/nftables.go`).
fn masquerading(subnet: &str) -> String {
    format!(
        "table ip flannel-ipv4 {{
           comment \"rules for flannel-ipv4\"
           chain postrtg {{
             comment \"chain to manage traffic masquerading by flannel\"
             type nat hook postrouting priority srcnat; policy accept;
             meta mark 0x4000 return
             ip saddr {subnet} ip daddr {NETWORK} return
             ip saddr {NETWORK} ip daddr {subnet} return
             ip saddr != {subnet} ip daddr {NETWORK} return
             ip saddr {NETWORK} ip daddr != 224.0.0.0/4 masquerade fully-random
             ip saddr != {NETWORK} ip daddr {NETWORK} masquerade fully-random
           }}
           chain forward {{
             comment \"chain to accept flannel traffic\"
             type filter hook forward priority filter; policy accept;
             ip saddr {NETWORK} accept
             ip daddr {NETWORK} accept
           }}
         }}"
    )
}

/// Everything of a node that flannel, or Twill, may have written.
fn state(node: &Namespace) -> Result<Vec<String>> {
    [
        format!("ip -d link show {OVERLAY_LINK}"),
        format!("ip -4 addr show {OVERLAY_LINK}"),
        "ip -4 route show table all".to_owned(),
        format!("ip neigh show dev {OVERLAY_LINK}"),
        format!("bridge fdb show dev {OVERLAY_LINK}"),
        "nft list ruleset".to_owned(),
        "tc qdisc show".to_owned(),
    ]
    .iter()
    .map(|words| node.run(&words.split_whitespace().collect::<Vec<_>>()))
    .collect()
}

/// Registers the node's lease, as flannel has done on a node where it runs.
fn register(node: &Node, url: &str, peer: &Peer) -> Result<()> {
    let attrs = LeaseAttrs::vxlan(peer.underlay, Vni::new(VNI.into())?, MacAddr(peer.vtep_mac));
    let subnet = peer.subnet.to_string().parse()?;
    let lease = node.namespace().enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let store = ServerStore::new(url)?;
        let lease = runtime.block_on(store.acquire(&attrs, Some(subnet)))?;
        anyhow::Ok(lease)
    })??;
    ensure!(lease.subnet == subnet, "{lease:?}");
    Ok(())
}

/// Nodes of flannel, with the load that goes on between their pods.
pub(super) struct Flannel {
    pub(super) agents: Vec<Agent>,
    before: Vec<Vec<String>>,
    server: LeaseServer,
    _echo: EchoServer,
    pub(super) pair: Pair,
    _alone: Alone,
}

impl Flannel {
    pub(super) fn new() -> Result<Self> {
        let alone = Alone::wait();
        let pair = Pair::new(UnderlayOptions::default())?;
        let config = json!({
            "Network": NETWORK,
            "EnableNFTables": true,
            "Backend": { "Type": "vxlan", "VNI": VNI, "Port": PORT },
        });
        let server = LeaseServer::start_with(&pair.underlay, &config.to_string())?;
        let mut before = Vec::new();
        let mut agents = Vec::new();
        for (node, peer) in pair.nodes.iter().zip(&pair.peers) {
            let rules = node.directory().path().join("flannel.nft");
            std::fs::write(&rules, masquerading(&peer.subnet.to_string()))?;
            let rules = rules.display().to_string();
            node.namespace().run(&["nft", "-f", &rules])?;
            register(node, &server.url(), peer)?;
            before.push(state(node.namespace())?);
            agents.push(Agent::new(node, &server.url(), &["--ip-masq"]));
        }
        Ok(Self {
            agents,
            before,
            _echo: EchoServer::start(pair.pods[1].namespace())?,
            server,
            pair,
            _alone: alone,
        })
    }

    pub(super) fn unnoticed(
        &mut self,
        event: &str,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let [a, b] = &self.pair.pods;
        let load = Load::start(a.namespace(), b.address())?;
        let done = work(self);
        super::unnoticed(event, load, done, || {
            let agents = self.agents.iter().map(Agent::log_tail);
            let logs: Vec<_> = agents.chain([self.server.log_tail()]).collect();
            logs.join("\n\n")
        })
    }

    pub(super) fn ensure_as_before(&self, parts: std::ops::Range<usize>) -> Result<()> {
        for (node, before) in self.pair.nodes.iter().zip(&self.before) {
            let now = state(node.namespace())?;
            ensure!(
                now[parts.clone()] == before[parts.clone()],
                "was {before:#?}, is {now:#?}"
            );
        }
        Ok(())
    }
}

#[test]
fn nobody_notices_that_twill_takes_over_from_flannel_or_hands_back() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut flannel = Flannel::new()?;
    flannel.unnoticed("flannel's nodes adopted", |flannel| {
        for agent in &mut flannel.agents {
            agent.start_again()?;
            agent.wait_ready()?;
        }
        wait_fast(&flannel.agents[0], "under Twill")
    })?;
    // Device, addresses, routes, neighbours and FDB are flannel's, untouched.
    flannel.ensure_as_before(0..5)?;

    flannel.unnoticed("handover back to flannel", |flannel| {
        wait_fast(&flannel.agents[0], "under Twill")?;
        for agent in &mut flannel.agents {
            agent.stop()?;
            let said = agent.ctl(&["handover"])?;
            let steps = said["steps"].as_array().context("no steps")?;
            ensure!(steps.iter().all(|step| step["error"].is_null()), "{said}");
            let kept = said["kept"]["settings"]
                .as_object()
                .map(serde_json::Map::len);
            ensure!(kept == Some(4), "conntrack settings: {said}");
            ensure!(!agent.pins().exists(), "pins are left");
        }
        // Long enough for the flows to need what the kernel remembers of them.
        twill_testbed::wait::pass(std::time::Duration::from_secs(3))
    })?;
    flannel.ensure_as_before(0..7)
}

#[test]
fn what_twill_made_is_left_to_flannel_and_taken_back() -> Result<()> {
    if !required() {
        return Ok(());
    }
    left_and_taken_back(&[], "")
}

#[test]
fn what_twill_made_is_left_to_flannel_and_taken_back_without_tcx() -> Result<()> {
    if !required() {
        return Ok(());
    }
    left_and_taken_back(BY_FILTERS, ", by tc filters")
}

fn left_and_taken_back(flags: &[&str], how: &str) -> Result<()> {
    let mut scene = Scene::new(flags)?;
    let node = scene.node().node.namespace().clone();
    let event = format!("handover of Twill's own device, and back{how}");
    scene.unnoticed(&event, |cluster| {
        let link = node.link_json(OVERLAY_LINK)?;
        ensure!(link["ifalias"].is_string(), "no mark on {link}");
        let before = state(&node)?;
        let agent = &mut cluster.members[0].agent;
        ensure!(agent.ctl(&["handover"]).is_err(), "while twilld runs");
        agent.stop()?;
        agent.ctl(&["handover"])?;
        let left = node.link_json(OVERLAY_LINK)?;
        ensure!(left["ifalias"].is_null(), "the mark stays on {left}");
        ensure!(left["ifindex"] == link["ifindex"], "another device");
        ensure!(state(&node)?[1..5] == before[1..5], "entries were removed");
        agent.start_again()?;
        agent.wait_ready().map(drop)
    })?;
    // It is nobody's now: whoever takes Twill away leaves it.
    let agent = &mut scene.node().agent;
    agent.stop()?;
    agent.ctl(&["teardown"])?;
    node.link_json(OVERLAY_LINK).map(drop)
}
