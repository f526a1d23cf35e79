//! `twilld podcidr`: gives Nodes their podCIDR. What it decides is in `twill_core::podcidr`.

mod api;
pub mod args;
mod election;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::core::WatchEvent;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use twill_core::chain::chain;
use twill_core::podcidr::{CidrNode, Controller, Decision, Trouble};

use self::api::{Api, ApiError};
use self::args::{PodcidrArgs, PodcidrArgsError};
use self::election::Election;
use crate::random;

/// Between two attempts to list, and between two looks at Nodes that something went wrong with.
const PAUSE: Duration = Duration::from_secs(5);

/// Where a pod finds its namespace.
const NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// What this host, or pod, is called.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// Why it cannot run.
#[derive(Debug, Error)]
pub enum PodcidrError {
    /// Flags.
    #[error(transparent)]
    Args(#[from] PodcidrArgsError),
    /// The API server.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Runs until somebody stops it.
pub async fn run(args: PodcidrArgs, stop: CancellationToken) -> Result<(), PodcidrError> {
    let times = args.times()?;
    let pools = args.pools()?;
    for pool in &pools {
        info!(range = %pool.range(), subnets = pool.size(), "cluster CIDR");
    }
    let api = Api::connect(args.kubeconfig_file.as_deref()).await?;
    if !args.leader_elect {
        stop.run_until_cancelled(work(&api, &args))
            .await
            .transpose()?;
        return Ok(());
    }
    let namespace = namespace(&args).await;
    let name = &args.leader_elect_resource_name;
    let mut election = Election::new(api.clone(), &namespace, name, times, identity().await);
    loop {
        if stop.run_until_cancelled(election.win()).await.is_none() {
            return Ok(());
        }
        // Whichever ends first ends the other: a leader that was is not to change anything.
        tokio::select! {
            () = stop.cancelled() => {
                election.give_back().await;
                return Ok(());
            }
            () = election.keep() => {}
            ended = work(&api, &args) => ended?,
        }
    }
}

/// What is unlike that of every other one, and of our own last life.
async fn identity() -> String {
    let host = tokio::fs::read_to_string(HOST_NAME).await;
    let host = host.unwrap_or_default();
    format!("{}_{:016x}", host.trim(), random::number())
}

async fn namespace(args: &PodcidrArgs) -> String {
    if let Some(name) = &args.leader_elect_resource_namespace {
        return name.clone();
    }
    let own = tokio::fs::read_to_string(NAMESPACE).await;
    own.map_or_else(|_| "kube-system".to_owned(), |text| text.trim().to_owned())
}

/// Works as the only one: lists, watches, and lists again when the watch ends.
async fn work(api: &Api, args: &PodcidrArgs) -> Result<(), PodcidrError> {
    let mut worker = Worker {
        api,
        controller: Controller::new(
            args.pools()?,
            args.node_selector.clone(),
            args.taints(),
            args.rest,
        ),
        begun: Instant::now(),
        open: BTreeSet::new(),
        told: BTreeMap::new(),
    };
    loop {
        match worker.follow().await {
            Ok(()) => {}
            Err(error) => {
                warn!(error = chain(&error), "listing the Nodes again");
                sleep(PAUSE).await;
            }
        }
    }
}

struct Worker<'a> {
    api: &'a Api,
    controller: Controller,
    begun: Instant,
    /// Nodes that something went wrong with.
    open: BTreeSet<String>,
    /// What was said already.
    told: BTreeMap<String, Trouble>,
}

impl Worker<'_> {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Lists, and watches until the watch ends.
    async fn follow(&mut self) -> Result<(), ApiError> {
        let listed = self.api.list().await?;
        let names = listed.nodes.iter().map(|node| node.name.clone()).collect();
        let now = self.now();
        self.controller.only(&names, now);
        self.open.retain(|name| names.contains(name));
        self.told.retain(|name, _| names.contains(name));
        // All of them before the first decision.
        for node in &listed.nodes {
            self.controller.see(node, now);
        }
        self.controller.listed();
        for node in listed.nodes {
            self.treat(&node).await;
        }
        let events = self.api.watch(&listed.version).await?;
        let mut events = pin!(events);
        let mut again = interval(PAUSE);
        loop {
            tokio::select! {
                event = events.next() => match event {
                    None => return Ok(()),
                    Some(event) => self.event(event?).await?,
                },
                _ = again.tick() => self.look_again().await,
            }
        }
    }

    async fn event(&mut self, event: WatchEvent<CidrNode>) -> Result<(), ApiError> {
        match event {
            WatchEvent::Added(node) | WatchEvent::Modified(node) => self.treat(&node).await,
            WatchEvent::Deleted(node) => {
                let now = self.now();
                self.controller.gone(&node, now);
                self.open.remove(&node.name);
                self.told.remove(&node.name);
            }
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => {
                return Err(ApiError::WatchEnded(format!(
                    "{}: {}",
                    status.code, status.message
                )));
            }
        }
        Ok(())
    }

    /// Looks at Nodes that something went wrong with, as they are now.
    async fn look_again(&mut self) {
        for name in std::mem::take(&mut self.open) {
            match self.api.node(&name).await {
                Ok(Some(node)) => self.treat(&node).await,
                // The watch tells it.
                Ok(None) => {}
                Err(error) => self.failed(&name, &error),
            }
        }
    }

    /// Does what is decided about a Node.
    async fn treat(&mut self, node: &CidrNode) {
        let decision = self.controller.decide(node, self.now());
        self.tell(&node.name, decision.trouble.as_ref());
        for patch in patches(node, &decision) {
            match self.api.patch(&node.name, &patch).await {
                Ok(now) => {
                    info!(node = node.name, %patch, "patched");
                    let at = self.now();
                    self.controller.see(&now, at);
                }
                Err(error) => {
                    // It was not done. Of an error without a word of the server nobody knows.
                    if error.code().is_some() && patch.pointer("/spec/podCIDR").is_some() {
                        self.controller.refused(&node.name);
                    }
                    self.failed(&node.name, &error);
                }
            }
        }
        if matches!(decision.trouble, Some(Trouble::Exhausted { .. })) {
            self.open.insert(node.name.clone());
        }
    }

    fn failed(&mut self, name: &str, error: &ApiError) {
        if error.code() == Some(404) {
            return;
        }
        warn!(node = name, error = chain(error), "trying again");
        self.open.insert(name.to_owned());
    }

    fn tell(&mut self, name: &str, trouble: Option<&Trouble>) {
        let Some(trouble) = trouble else {
            self.told.remove(name);
            return;
        };
        if self.told.get(name) != Some(trouble) {
            error!("{trouble}");
            self.told.insert(name.to_owned(), trouble.clone());
        }
    }
}

/// As merge patches. The prefix by itself: it goes in whatever else was changed meanwhile, and the
/// API server lets nobody change one that is there. Taints as a list that nobody has changed since.
fn patches(node: &CidrNode, decision: &Decision) -> Vec<Value> {
    let cidrs = decision.cidrs.as_ref().map(|cidrs| {
        let texts: Vec<_> = cidrs.iter().map(ToString::to_string).collect();
        json!({ "spec": { "podCIDR": texts.first(), "podCIDRs": texts } })
    });
    // After the other patch this version is an old one: the next event brings the newer.
    let taints = decision
        .taints
        .as_ref()
        .filter(|_| cidrs.is_none())
        .map(|taints| {
            json!({
                "metadata": { "resourceVersion": node.version },
                "spec": { "taints": taints },
            })
        });
    cidrs.into_iter().chain(taints).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_say_no_more_than_is_decided() {
        let node = CidrNode {
            name: "a".to_owned(),
            version: "7".to_owned(),
            ..CidrNode::default()
        };
        assert!(patches(&node, &Decision::default()).is_empty());
        let cidrs = ["10.0.1.0/24", "fd00::/64"].map(|text| text.parse().unwrap());
        let decision = Decision {
            cidrs: Some(cidrs.to_vec()),
            taints: Some(Vec::new()),
            trouble: None,
        };
        let expected = json!({ "spec": {
            "podCIDR": "10.0.1.0/24", "podCIDRs": ["10.0.1.0/24", "fd00::/64"],
        }});
        assert_eq!(patches(&node, &decision), [expected]);
        let decision = Decision {
            cidrs: None,
            ..decision
        };
        let expected = json!({ "metadata": { "resourceVersion": "7" }, "spec": { "taints": [] } });
        assert_eq!(patches(&node, &decision), [expected]);
    }
}
