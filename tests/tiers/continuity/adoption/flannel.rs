//! Nodes set up by hand as flannel 0.28.9 does it, with masquerading by nftables.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use twill_agent::store::server::ServerStore;
use twill_core::backend::vxlan;
use twill_core::vtep::{MacAddr, Vni};
use twill_testbed::agent::Agent;
use twill_testbed::lease_server::LeaseServer;
use twill_testbed::netns::Namespace;
use twill_testbed::stock::{Pair, Peer};
use twill_testbed::topology::{Node, UnderlayOptions};
use twill_testbed::traffic::{EchoServer, Load, Report};
use twill_testbed::world::{NETWORK, OVERLAY_LINK, PORT, VNI};

use crate::rules::tables_but_timeouts;
use crate::scene::{Alone, wait_attached, wait_fast};

/// Devices of a node that have programs: the uplink, `flannel.1`, and a pod's veth.
const DEVICES: usize = 3;

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
pub(super) fn state(node: &Namespace) -> Result<Vec<String>> {
    let words = [
        format!("ip -d link show {OVERLAY_LINK}"),
        format!("ip -4 addr show {OVERLAY_LINK}"),
        "ip -4 route show table all".to_owned(),
        format!("ip neigh show dev {OVERLAY_LINK}"),
        format!("bridge fdb show dev {OVERLAY_LINK}"),
    ];
    let run = |words: &String| node.run(&words.split_whitespace().collect::<Vec<_>>());
    let mut state: Vec<_> = words.iter().map(run).collect::<Result<_>>()?;
    state.push(tables_but_timeouts(node)?.join("\n"));
    // The last: some compare all but it.
    state.push(run(&"tc qdisc show".to_owned())?);
    Ok(state)
}

/// Registers the node's lease, as flannel has done on a node where it runs.
fn register(node: &Node, url: &str, peer: &Peer) -> Result<()> {
    let attrs = vxlan::attrs(peer.underlay, Vni::new(VNI.into())?, MacAddr(peer.vtep_mac));
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
    /// Two of them, and agents with these further flags that are not started yet.
    pub(super) fn new(flags: &[&str]) -> Result<Self> {
        let flags = [&["--ip-masq"], flags].concat();
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
            agents.push(Agent::new(node, &server.url(), &flags));
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

    /// Does `work` in the middle of traffic: a line of the table.
    pub(super) fn measure(
        &mut self,
        event: &str,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Report> {
        let [a, b] = &self.pair.pods;
        let load = Load::start(a.namespace(), b.address())?;
        let done = work(self);
        super::measured(event, load, done, || self.logs())
    }

    /// [`Self::measure`] of what nobody may notice.
    pub(super) fn unnoticed(
        &mut self,
        event: &str,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let report = self.measure(event, work)?;
        report.check().with_context(|| self.logs())
    }

    fn logs(&self) -> String {
        let agents = self.agents.iter().map(Agent::log_tail);
        let logs: Vec<_> = agents.chain([self.server.log_tail()]).collect();
        logs.join("\n\n")
    }

    /// Starts Twill in flannel's place, and waits until it carries the traffic.
    pub(super) fn take_over(&mut self) -> Result<()> {
        for agent in &mut self.agents {
            agent.start_again()?;
            agent.wait_ready()?;
        }
        (self.agents.iter()).try_for_each(wait_attached)?;
        wait_fast(&self.agents[0], "under Twill")
    }

    /// Hands everything back.
    pub(super) fn hand_back(&mut self) -> Result<()> {
        wait_fast(&self.agents[0], "under Twill")?;
        for agent in &mut self.agents {
            agent.stop()?;
            let said = agent.ctl(&["handover"])?;
            let steps = said["steps"].as_array().context("no steps")?;
            ensure!(steps.iter().all(|step| step["error"].is_null()), "{said}");
            let kept = said["kept"]["settings"]
                .as_object()
                .map(serde_json::Map::len);
            ensure!(kept == Some(2), "conntrack settings: {said}");
            ensure!(!agent.pins().exists(), "pins are left");
        }
        // Long enough for the flows to need what the kernel remembers of them.
        twill_testbed::wait::pass(std::time::Duration::from_secs(3))
    }

    /// No device has a tc filter any more; those that had one have a qdisc for it still.
    pub(super) fn ensure_no_filters(&self) -> Result<()> {
        for node in &self.pair.nodes {
            let node = node.namespace();
            let qdiscs: Value =
                serde_json::from_str(&node.run(&["tc", "-json", "qdisc", "show"])?)?;
            let qdiscs = qdiscs.as_array().context("no list of qdiscs")?;
            let clsact = qdiscs.iter().filter(|qdisc| qdisc["kind"] == "clsact");
            let devices: Vec<_> = clsact.filter_map(|qdisc| qdisc["dev"].as_str()).collect();
            ensure!(devices.len() == DEVICES, "qdiscs of {devices:?}");
            for device in devices {
                for direction in ["ingress", "egress"] {
                    let show = ["tc", "filter", "show", "dev", device, direction];
                    let filters = node.run(&show)?;
                    ensure!(filters.is_empty(), "{direction} of {device}: {filters}");
                }
            }
        }
        Ok(())
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
