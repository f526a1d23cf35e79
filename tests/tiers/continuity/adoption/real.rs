//! A real flanneld with a real etcd, and Twill in its place: the flows that flanneld's node carried
//! go on, become fast, and go on when flanneld is back.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use twill_testbed::agent::Agent;
use twill_testbed::etcd::Etcd;
use twill_testbed::flanneld::Flanneld;
use twill_testbed::netns::Prefix;
use twill_testbed::pod::Pod;
use twill_testbed::topology::{Node, Underlay, UnderlayOptions};
use twill_testbed::traffic::{EchoServer, Load};
use twill_testbed::wait::wait_until;
use twill_testbed::world::{NETWORK, NODE_A, NODE_B, OVERLAY_LINK, PORT, VNI};
use twill_tests::required;

use crate::rules::tables_but_timeouts;
use crate::scene::{Alone, PATIENCE, wait_fast};

const FLAGS: [&str; 1] = ["--ip-masq"];

/// A node, who looks after it now, and who may.
struct Host {
    // Pods go first, then daemons, then their node: fields are dropped in order.
    pod: Pod,
    flanneld: Option<Flanneld>,
    agent: Agent,
    node: Node,
}

/// Two nodes of flanneld with a pod each.
struct Hosts {
    _echo: EchoServer,
    both: [Host; 2],
    etcd: Etcd,
    _underlay: Underlay,
    _alone: Alone,
}

impl Hosts {
    fn new(nftables: bool) -> Result<Self> {
        let alone = Alone::wait();
        let underlay = Underlay::with(Prefix::unique(), UnderlayOptions::default())?;
        let etcd = Etcd::start(&underlay, 1)?;
        let config = json!({
            "Network": NETWORK,
            "EnableNFTables": nftables,
            "Backend": { "Type": "vxlan", "VNI": VNI, "Port": PORT },
        });
        etcd.configure(&config.to_string())?;
        let host = |label: &str, address| -> Result<Host> {
            let node = underlay.join(label, address)?;
            let flanneld = Flanneld::start(&node, &etcd.endpoints(), &FLAGS)?;
            let pod = Pod::add(&node, "1", &flanneld.subnet_env()?)?;
            let agent = Agent::on_etcd(&node, &etcd.endpoints(), &FLAGS);
            Ok(Host {
                pod,
                flanneld: Some(flanneld),
                agent,
                node,
            })
        };
        let both = [host("a", NODE_A)?, host("b", NODE_B)?];
        for host in &both {
            wait_until("flanneld knows its peer", PATIENCE, || {
                let routes = ["ip", "route", "show", "dev", OVERLAY_LINK];
                let routes = host.node.namespace().run(&routes).unwrap_or_default();
                routes.contains(" onlink")
            })?;
        }
        Ok(Self {
            _echo: EchoServer::start(both[1].pod.namespace())?,
            both,
            etcd,
            _underlay: underlay,
            _alone: alone,
        })
    }

    fn unnoticed(
        &mut self,
        event: &str,
        work: impl Fn(&mut Host, &str) -> Result<()>,
    ) -> Result<()> {
        let [a, b] = &self.both;
        let load = Load::start(a.pod.namespace(), b.pod.address())?;
        let endpoints = self.etcd.endpoints();
        let done = (self.both.iter_mut()).try_for_each(|host| work(host, &endpoints));
        let logs = || {
            let agents = self.both.iter().map(|host| host.agent.log_tail());
            agents.collect::<Vec<_>>().join("\n\n")
        };
        let report = super::measured(event, load, done, logs)?;
        report.check().with_context(logs)
    }
}

impl Host {
    /// Everything that a flanneld, or Twill, wrote for other nodes, and its rules.
    fn state(&self, rules: bool) -> Result<Vec<String>> {
        let words = [
            format!("ip -d -o link show {OVERLAY_LINK}"),
            format!("ip -4 -o addr show {OVERLAY_LINK}"),
            format!("ip -4 route show dev {OVERLAY_LINK}"),
            format!("ip neigh show dev {OVERLAY_LINK}"),
            format!("bridge fdb show dev {OVERLAY_LINK}"),
        ];
        let node = self.node.namespace();
        let mut state = (words.iter())
            .map(|words| node.run(&words.split_whitespace().collect::<Vec<_>>()))
            .collect::<Result<Vec<_>>>()?;
        if rules {
            state.extend(tables_but_timeouts(node)?);
        }
        Ok(state)
    }
}

/// There, back, and there again: what Twill finds may be what it left.
fn there_and_back(nftables: bool, rules: &str) -> Result<()> {
    let mut hosts = Hosts::new(nftables)?;
    let before = [hosts.both[0].state(true)?, hosts.both[1].state(true)?];
    let leases = hosts.etcd.leases()?;
    for round in ["", ", again"] {
        let event = format!("a real flanneld's nodes adopted, {rules}{round}");
        hosts.unnoticed(&event, |host, _| {
            host.flanneld.take().context("no flanneld")?.stop()?;
            let state = host.state(false)?;
            host.agent.start_again()?;
            host.agent.wait_ready()?;
            wait_fast(&host.agent, "under Twill")?;
            let now = host.state(false)?;
            ensure!(now == state, "was {state:#?}, is {now:#?}");
            Ok(())
        })?;
        ensure!(hosts.etcd.leases()? == leases, "other leases");
        let event = format!("handover, and flanneld starts again, {rules}{round}");
        hosts.unnoticed(&event, |host, endpoints| {
            wait_fast(&host.agent, "under Twill")?;
            host.agent.stop()?;
            host.agent.ctl_text(&["handover"])?;
            ensure!(!host.agent.pins().exists(), "pins are left");
            host.flanneld = Some(Flanneld::start(&host.node, endpoints, &FLAGS)?);
            // Long enough for the flows to need what the kernel remembers of them.
            twill_testbed::wait::pass(std::time::Duration::from_secs(2))
        })?;
        ensure!(hosts.etcd.leases()? == leases, "other leases");
        for (host, before) in hosts.both.iter().zip(&before) {
            let now = host.state(true)?;
            ensure!(now == *before, "was {before:#?}, is {now:#?}");
        }
    }
    Ok(())
}

#[test]
fn nobody_notices_a_real_flanneld_s_replacement_or_return_with_iptables() -> Result<()> {
    if !required() {
        return Ok(());
    }
    there_and_back(false, "iptables")
}

#[test]
fn nobody_notices_a_real_flanneld_s_replacement_or_return_with_nftables() -> Result<()> {
    if !required() {
        return Ok(());
    }
    there_and_back(true, "nftables")
}
