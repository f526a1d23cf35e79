//! Pods as the agent finds them: real CNI plugins and wiring by hand, what keeps them slow, and
//! how soon all of it is noticed.

#![expect(
    clippy::unwrap_used,
    reason = "what helps a test may panic as the test itself"
)]

mod bandwidth;
mod scale;
mod slow;
mod wiring;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::mpsc;
use tokio::time::timeout_at;
use twill_agent::netlink::Netlink;
use twill_agent::netlink::monitor::{Monitor, RECEIVE_BUFFER_BYTES, Watch};
use twill_core::event::Event;
use twill_core::pods::{self, Excluded, NeverFast, OurFilters, PodVeth, Rules};
use twill_testbed::netns::{Namespace, Prefix};
use twill_testbed::stock::{self, Peer};
use twill_testbed::subnet_env::SubnetEnv;
use twill_testbed::topology::{Node, Underlay};
use twill_testbed::world::{NETWORK, NODE_A, OVERLAY_LINK, SUBNET_A, UPLINK, VTEP_MAC_A};
use twill_tests::required;

/// A change must be seen within this time, by the monitor alone: nobody looks a second time.
const SOON: Duration = Duration::from_secs(1);
/// One change in a machine's worst moment; half of them must be seen soon all the same.
const AT_LAST: Duration = Duration::from_secs(5);
/// Time in which nothing may come: many times the monitor's own delays.
const QUIET: Duration = Duration::from_millis(500);

/// A stock flannel node and the agent's eyes on it.
struct Watched<'a> {
    node: &'a Node,
    env: SubnetEnv,
    netlink: Netlink,
    rules: Rules,
    monitor: Monitor,
    events: mpsc::Receiver<Event>,
    /// When the last change was done.
    changed: Instant,
    /// How long after each change it was seen.
    seen_after: Vec<Duration>,
}

/// Runs `work` on a stock node without pods. The monitor has a thread of its own: what it
/// notices, it notices while the plugins are still at work.
fn on_a_node(work: impl AsyncFnOnce(&mut Watched<'_>) -> Result<()> + Send) -> Result<()> {
    if !required() {
        #[expect(
            clippy::print_stderr,
            reason = "a test that was not run must not look like one"
        )]
        {
            eprintln!("not run: TWILL_TIERS is not set; use `cargo xtask test netns`");
        }
        return Ok(());
    }
    let underlay = Underlay::new()?;
    let node = underlay.join("a", NODE_A)?;
    let own = Peer::new(SUBNET_A, NODE_A, VTEP_MAC_A)?;
    let env = stock::set_up(&node, &own)?;
    node.namespace().enter(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let mut watched = Watched::new(&node, env).await?;
            work(&mut watched).await?;
            watched.saw_soon()
        })
    })?
}

impl<'a> Watched<'a> {
    async fn new(node: &'a Node, env: SubnetEnv) -> Result<Self> {
        let netlink = Netlink::connect()?;
        let uplink = netlink.device(UPLINK).await?.context("no uplink")?.ifindex;
        let (sender, events) = mpsc::channel(8);
        let watch = Watch {
            device: Some(OVERLAY_LINK.to_owned()),
            network: NETWORK.parse()?,
            every_route: false,
            receive_buffer: RECEIVE_BUFFER_BYTES,
        };
        let monitor = Monitor::start(netlink.clone(), watch, sender).await?;
        monitor.watch_uplink(Some(uplink));
        let rules = Rules {
            own_subnet: SUBNET_A.parse()?,
            uplink: Some(uplink),
            our_filters: OurFilters {
                priority: 50,
                handle: 1,
                ingress: "from_pod".to_owned(),
                egress: "to_pod".to_owned(),
            },
            foreign_programs: BTreeMap::new(),
            excluded: Excluded::default(),
        };
        Ok(Self {
            node,
            env,
            netlink,
            rules,
            monitor,
            events,
            changed: Instant::now(),
            seen_after: Vec::new(),
        })
    }

    /// A namespace for a pod that is wired by hand.
    fn empty_pod(&self, label: &str) -> Result<Namespace> {
        Namespace::under(&Prefix::fixed(self.node.namespace().name()), label)
    }

    /// The pods, read now.
    async fn pods(&self) -> Result<BTreeMap<u32, PodVeth>> {
        let host = self.netlink.host_links(self.rules.own_subnet).await?;
        Ok(pods::find(&host, &self.rules))
    }

    /// Name of the veth of one of the pods.
    async fn veth(&self) -> Result<String> {
        let pods = self.pods().await?;
        let veth = pods.into_values().next().context("no pod")?;
        Ok(veth.name)
    }

    /// Makes a change; how long it takes is no part of how long it takes to see it.
    fn change<T>(&mut self, change: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let done = change(self)?;
        self.changed = Instant::now();
        Ok(done)
    }

    /// Makes a change on the node by commands, one a line.
    fn run(&mut self, lines: &str) -> Result<()> {
        self.change(|watched| watched.node.namespace().run_lines(lines))
    }

    /// Waits until the pods are `expected`, each as `<wiring>` or `<wiring> <why it is slow>`, in
    /// any order. They are read only when the monitor says so, as the agent does it.
    async fn sees(&mut self, what: &str, expected: &[&str]) -> Result<()> {
        let deadline = (self.changed + AT_LAST).into();
        let mut last = None;
        loop {
            match timeout_at(deadline, self.events.recv()).await {
                Ok(Some(Event::PodsChanged)) => {}
                Ok(Some(_)) => continue,
                Ok(None) => bail!("{what}: the monitor is gone"),
                Err(elapsed) => {
                    bail!("{what}: {expected:?} not seen, but {last:?}: {elapsed}")
                }
            }
            let found = told(&self.pods().await?);
            if found == expected {
                let took = self.changed.elapsed();
                report(what, took);
                self.seen_after.push(took);
                return Ok(());
            }
            last = Some(found);
        }
    }

    /// Half of the changes or more were seen soon.
    fn saw_soon(mut self) -> Result<()> {
        self.seen_after.sort();
        let median = self.seen_after.get(self.seen_after.len() / 2);
        ensure!(
            median <= Some(&SOON),
            "changes were seen late: {:?}",
            self.seen_after
        );
        Ok(())
    }

    /// Nothing is heard, and the pods are still `expected`.
    async fn sees_no_change(&mut self, what: &str, expected: &[&str]) -> Result<()> {
        while let Ok(event) = timeout_at((Instant::now() + QUIET).into(), self.events.recv()).await
        {
            ensure!(event.is_some(), "{what}: the monitor is gone");
        }
        assert_eq!(told(&self.pods().await?), expected, "{what}");
        Ok(())
    }
}

fn told(pods: &BTreeMap<u32, PodVeth>) -> Vec<String> {
    let mut told: Vec<String> = pods
        .values()
        .map(|pod| {
            let why = pod.never_fast.as_ref().map(NeverFast::label);
            let text = format!("{:?} {}", pod.wiring, why.unwrap_or_default());
            text.trim_end().to_owned()
        })
        .collect();
    told.sort();
    told
}

fn report(what: &str, took: Duration) {
    #[expect(
        clippy::print_stdout,
        reason = "a figure for people, shown with --nocapture"
    )]
    {
        println!("pods: {what}: {:.1} ms", took.as_secs_f64() * 1e3);
    }
}
