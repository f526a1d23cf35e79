//! The state's one owner: takes events, observes, plans, carries out, tells.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use twill_core::condition::Conditions;
use twill_core::config::NetworkConfig;
use twill_core::event::Event;
use twill_core::lease::{Lease, LeaseAttrs};
use twill_core::leases::StoreEvent;
use twill_core::observed::Observed;
use twill_core::routing_rules::{KernelRouted, RoutingRule};
use twill_core::state::{Change, State};
use twill_core::subnet::Subnet;
use twill_core::subnet_env::SubnetEnv;
use twill_core::uplink::Uplink;
use twill_core::vtep::MacAddr;

use super::acceptance::Acceptance;
use super::bpf::Bpf;
use super::checkpoint::CheckpointFile;
use super::conditions::uptime;
use super::failures::Failures;
use super::guard::Sentry;
use super::memory::Memory;
use super::metrics::Meters;
use super::notice::Notice;
use super::patience::pauses;
use super::pods::Pods;
use super::report::Report;
use super::traffic::{self, Traffic};
use super::uplink::Finder;
use crate::admin::Readiness;
use crate::args::AgentArgs;
use crate::datapath::permits::VethUse;
use crate::datapath::place::Interfaces;
use crate::datapath::settings::Settings;
use crate::files::InstanceLock;
use crate::files::making::Making;
use crate::netlink::Netlink;
use crate::netlink::monitor::Monitor;
use crate::store::{Contact, Ended, Store};

/// How often the programs are looked after: putting them back takes no longer.
const GUARD: Duration = Duration::from_secs(2);
/// Events that are taken together: more than a node's worth of leases arrives as one list.
const BATCH: usize = 256;

/// The agent of a node.
pub(super) struct Agent {
    pub(super) args: AgentArgs,
    pub(super) netlink: Netlink,
    pub(super) finder: Finder,
    pub(super) making: Making,
    pub(super) state: State,
    pub(super) observed: Observed,
    pub(super) bpf: Bpf,
    pub(super) acceptance: Acceptance,
    pub(super) traffic: Traffic,
    pub(super) pods: Pods,
    pub(super) sentry: Sentry,
    pub(super) failures: Failures,
    pub(super) conditions: Conditions,
    /// What the store's client said last.
    pub(super) contact: Contact,
    pub(super) readiness: Readiness,
    pub(super) meters: Meters,
    pub(super) notice: Notice,
    pub(super) report: Report,
    /// What the next start is told.
    pub(super) memory: Memory,
    pub(super) checkpoint: CheckpointFile,
    pub(super) mac: Option<MacAddr>,
    pub(super) attrs: Option<watch::Sender<LeaseAttrs>>,
    /// What has been written to `subnet.env`.
    pub(super) told: Option<SubnetEnv>,
    /// What the programs know.
    pub(super) told_programs: Option<Told>,
    /// Whether the maps were complete once, so that programs may be attached.
    pub(super) may_attach: bool,
    /// Subnets for which the maps had no room.
    pub(super) unmapped: BTreeSet<Subnet>,
    pub(super) sources: Option<Sources>,
    /// Whether some route carries an MTU.
    pub(super) mtus_carried: bool,
    /// Where routes that carry an MTU lead by the overlay's device, and the MTU, bytes.
    pub(super) overlay_mtus: Vec<(Subnet, u32)>,
    /// The routing rules, once they were read.
    pub(super) routing_rules: Option<Vec<RoutingRule>>,
    /// What they leave to the kernel.
    pub(super) kernel_routed: KernelRouted,
    /// Whether the node has had another address since the store was told.
    pub(super) moved: bool,
    /// Held as long as the agent lives.
    pub(super) _lock: InstanceLock,
}

/// Interfaces, settings, and what each pod's veth may do: also of pods without programs.
pub(super) type Told = (Interfaces, Settings, Option<BTreeMap<u32, VethUse>>);

/// Where events come from.
pub(super) struct Sources {
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) monitor: Monitor,
    pub(super) store: Store,
    pub(super) keeper: JoinHandle<Ended>,
}

/// What a pass has to look at.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Look {
    /// The last observation will do.
    Nowhere,
    /// The kernel's network configuration.
    Kernel,
    /// That, and the maps.
    Everywhere,
}

/// What an agent is made of.
pub(super) struct Parts {
    pub(super) args: AgentArgs,
    pub(super) netlink: Netlink,
    pub(super) config: NetworkConfig,
    pub(super) finder: Finder,
    pub(super) uplink: Uplink,
    /// MAC address for a device that is not there yet.
    pub(super) fallback_mac: MacAddr,
    pub(super) readiness: Readiness,
    pub(super) meters: Meters,
    pub(super) report: Report,
    pub(super) memory: Memory,
    pub(super) checkpoint: CheckpointFile,
    pub(super) lock: InstanceLock,
}

impl Agent {
    /// An agent without a lease.
    pub(super) fn new(parts: Parts) -> Self {
        let Parts {
            args,
            netlink,
            config,
            finder,
            uplink,
            fallback_mac,
            readiness,
            meters,
            mut report,
            memory,
            checkpoint,
            lock,
        } = parts;
        report.uplink(&uplink);
        let acceptance = Acceptance::new(&args, &config);
        let pods = Pods::new(&args);
        let sentry = Sentry::new(&args);
        let bpf = Bpf::new(&args, &config);
        let traffic = Traffic::start(args.iptables_resync);
        Self {
            state: State::new(config, uplink, fallback_mac),
            observed: Observed::default(),
            failures: Failures::default(),
            mac: None,
            attrs: None,
            told: None,
            making: Making::new(&args.instance_dir()),
            told_programs: None,
            may_attach: false,
            unmapped: BTreeSet::new(),
            sources: None,
            mtus_carried: false,
            overlay_mtus: Vec::new(),
            routing_rules: None,
            kernel_routed: KernelRouted::default(),
            moved: false,
            _lock: lock,
            args,
            netlink,
            finder,
            bpf,
            acceptance,
            traffic,
            pods,
            sentry,
            conditions: Conditions::default(),
            contact: Contact::default(),
            readiness,
            meters,
            notice: Notice::default(),
            report,
            memory,
            checkpoint,
        }
    }

    /// Whether the backend's link was there once, where it has one: before that there is nothing to
    /// publish.
    fn is_prepared(&self) -> bool {
        self.mac.is_some() || self.state.config().backend.link_name().is_none()
    }

    /// Tries until the backend's link is there and up: there is no lease without its MAC address.
    pub(super) async fn ensure_link(&mut self) {
        self.until_settled(Self::is_prepared).await;
    }

    /// Takes the lease as the node's own, and tries until its address is on the device and
    /// CNI plugins are told.
    pub(super) async fn own(&mut self, lease: &Lease) {
        self.state.set_own_subnet(Some(lease.subnet));
        self.report.subnet(&lease.subnet.to_string());
        let rules = traffic::rules(&self.args, self.state.config(), lease.subnet);
        self.traffic.want(rules);
        // Whoever reads subnet.env relies on them.
        self.traffic.tried().await;
        self.until_settled(|agent| agent.told.is_some()).await;
    }

    async fn until_settled(&mut self, settled: impl Fn(&Self) -> bool) {
        let mut pauses = pauses();
        loop {
            self.failures.begin();
            // Waiting may take long, and a device cannot be made on an uplink that is gone.
            self.look_for_uplink().await;
            self.reconcile(Look::Kernel, &BTreeSet::new()).await;
            self.tell_plugins(Look::Kernel);
            self.report.waiting(self.failures.texts());
            let second_look = self.finder.second_look();
            if self.failures.is_empty() && settled(self) && second_look.is_none() {
                return;
            }
            let pause = second_look.or_else(|| pauses.next());
            tokio::time::sleep(pause.unwrap_or_default()).await;
        }
    }

    /// Notes the lease as it was renewed last, for a start without the store.
    fn remember(&mut self) {
        if let (Some(until), Some(subnet), Some(attrs)) = (
            self.contact.lease_until,
            self.state.own_subnet(),
            self.lease_attrs(),
        ) {
            let lease = Lease {
                subnet,
                attrs,
                ttl_seconds: None,
            };
            self.memory.keep(lease, Some(until));
        }
    }

    /// Notes for the next start which leases this one knows.
    pub(super) fn note(&mut self, listed: bool) {
        let checkpoint = self.state.checkpoint();
        let now = std::time::Instant::now();
        self.checkpoint.keep(checkpoint, listed, now);
    }

    /// Runs until somebody stops it, or the lease is lost.
    pub(super) async fn run(mut self, stop: &CancellationToken) -> Result<()> {
        let Some(mut sources) = self.sources.take() else {
            bail!("the agent has no sources of events");
        };
        Notice::ready();
        info!("Running backend.");
        let mut tick = interval(self.args.resync_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut guard = interval(GUARD);
        guard.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut backoff: Box<dyn Iterator<Item = Duration> + Send> = Box::new(pauses());
        let mut retry: Option<Instant> = None;
        loop {
            let mut batch = Batch::default();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                ended = &mut sources.keeper => match ended {
                    Ok(Ended::Stopped) => break,
                    Ok(Ended::Lost { subnet, why }) => {
                        self.memory.forget();
                        bail!("the lease of {subnet} is lost: {why}; start again for another")
                    }
                    Err(error) => bail!("the lease's keeper died: {error}"),
                },
                _ = tick.tick() => batch.look = Look::Everywhere,
                _ = guard.tick() => {
                    self.notice.alive();
                    self.contact = sources.store.contact();
                    self.look_again().await;
                    self.beat(self.state.store_lost().is_none()).await;
                    self.bpf.hear_operator(&mut self.failures);
                    self.guard_programs().await;
                    self.remember();
                    self.note(false);
                    self.report.store(self.state.store_lost(), &self.contact);
                    self.tell_people();
                    continue;
                }
                () = until(retry) => batch.look = Look::Everywhere,
                // Last: a steady stream of events must not starve what is due.
                event = sources.events.recv() => match event {
                    None => bail!("all sources of events are gone"),
                    Some(event) => {
                        batch.take(&mut self.state, event);
                        while batch.taken < BATCH && let Ok(event) = sources.events.try_recv() {
                            batch.take(&mut self.state, event);
                        }
                    }
                },
            }
            let thorough = batch.look == Look::Everywhere;
            self.pass(batch, &sources.monitor).await;
            if std::mem::take(&mut self.moved) {
                sources.store.moved();
            }
            let pause = if self.failures.is_empty() {
                backoff = Box::new(pauses());
                self.finder.second_look()
            } else {
                backoff.next()
            };
            let due = pause.map(|pause| Instant::now() + pause);
            // Only a look at everything makes good what failed before: no other puts it off.
            retry = if thorough {
                due
            } else {
                retry.into_iter().chain(due).min()
            };
        }
        self.readiness.set(false);
        Notice::stopping();
        self.report.stopped();
        info!("Exiting cleanly... The datapath goes on");
        Ok(())
    }
}

/// Events that are taken together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) look: Look,
    /// Subnets whose leases came or went.
    pub(super) subnets: BTreeSet<Subnet>,
    /// Whether pods may have come or gone.
    pub(super) pods: bool,
    /// Whether leases were listed.
    pub(super) listed: bool,
    taken: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            look: Look::Nowhere,
            subnets: BTreeSet::new(),
            pods: false,
            listed: false,
            taken: 0,
        }
    }
}

impl Batch {
    fn take(&mut self, state: &mut State, event: Event) {
        debug!(?event, "event");
        self.taken += 1;
        let look = match &event {
            Event::Store(StoreEvent::Listed(_)) => {
                self.listed = true;
                Look::Everywhere
            }
            Event::Store(_) | Event::KernelChanged => Look::Kernel,
            Event::PodsChanged => {
                self.pods = true;
                Look::Nowhere
            }
        };
        match state.apply(event, uptime()) {
            Change::Nothing => {}
            Change::Peer(subnet) => {
                self.subnets.insert(subnet);
            }
            Change::Everything => self.look = self.look.max(look),
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
