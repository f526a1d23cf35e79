//! What the agent says of itself: the status file, written when it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use tokio::sync::watch;
use tracing::{info, warn};
use twill_abi::{ABI_VERSION, FastPath, Guard, Program};
use twill_core::chain::chain;
use twill_core::condition::{Condition, Conditions};
use twill_core::config::NetworkConfig;
use twill_core::observed::ObservedKernel;
use twill_core::pods::{PodVeth, Wiring};
use twill_core::routing_rules::KernelRouted;
use twill_core::state::State;
use twill_core::subnet::Subnet;
use twill_core::uplink::Uplink;
use twill_core::vtep::MacAddr;

use super::acceptance::Acceptance;
use super::bpf::Bpf;
use super::conditions::uptime;
use super::failures::Failures;
use super::guard::Sentry;
use super::outlook::Allowed;
use super::pods::Pods;
use crate::args::AgentArgs;
use crate::complaint::Complaint;
use crate::datapath::operator::fast_path_name;
use crate::datapath::pins::Pins;
use crate::files::status::{
    self, ConditionStatus, FastPathStatus, GuardStatus, PodStatus, Status, StoreStatus,
};
use crate::store::Contact;

/// The kernel's UDP port for VXLAN, where the configuration names none.
const KERNEL_VXLAN_PORT: u16 = 8472;

/// What renewals of the lease that failed are counted as.
const LEASE_RENEWAL: &str = "lease_renewal";

/// How many leases of a kind are told.
const TOLD: usize = 20;

/// The status file's writer.
pub(super) struct Report {
    path: PathBuf,
    status: Status,
    written: Option<Status>,
    unwritten: Complaint,
    told: watch::Sender<Arc<Status>>,
}

impl Report {
    pub(super) fn new(args: &AgentArgs, lease_server: &str) -> Result<Self> {
        let pid = std::process::id();
        let pins = Pins::new(&args.bpffs, &args.instance);
        let path = status::path(&args.run_dir, args.instance.as_str());
        // Until it is known better, what an earlier start said of the node still holds.
        let before = status::read(&path).ok().flatten().unwrap_or_default();
        let attached = pins.attachments().is_ok_and(|pins| !pins.is_empty());
        let (mode, reason) = if attached {
            ("bpf", "starting; the programs of an earlier start go on")
        } else {
            ("kernel", "starting")
        };
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid,
            pid_started: status::process_started(pid).context("read /proc/self/stat")?,
            started: now(),
            stopped: false,
            instance: args.instance.to_string(),
            mode: mode.to_owned(),
            reason: Some(reason.to_owned()),
            ready: false,
            abi_version: ABI_VERSION,
            pins: pins.current(),
            store: StoreStatus {
                address: lease_server.to_owned(),
                state: "not asked yet".to_owned(),
                ..StoreStatus::default()
            },
            fast_path: FastPathStatus {
                wanted: fast_path_name(args.fast_path.into()).to_owned(),
                mode: "off".to_owned(),
                reason: Some("starting".to_owned()),
                mark_bit: format!("{:#x}", args.mark_bit),
                exclude: args.exclude.iter().map(ToString::to_string).collect(),
                ..before.fast_path
            },
            errors: BTreeMap::new(),
            failing: Vec::new(),
            conditions: Vec::new(),
            ..before
        };
        Ok(Self {
            path,
            told: watch::Sender::new(Arc::new(status.clone())),
            status,
            written: None,
            unwritten: Complaint::default(),
        })
    }

    /// The status, whenever it changes.
    pub(super) fn follow(&self) -> watch::Receiver<Arc<Status>> {
        self.told.subscribe()
    }

    /// The store did not answer, or not well.
    pub(super) fn store_failed(&mut self, error: &str) {
        error.clone_into(&mut self.status.store.state);
        self.write();
    }

    /// The store answered.
    pub(super) fn store_answered(&mut self) {
        "connected".clone_into(&mut self.status.store.state);
        self.status.store.last_contact = Some(now());
    }

    /// What waits, before the agent runs.
    pub(super) fn waiting(&mut self, failing: Vec<String>) {
        self.status.failing = failing;
        self.write();
    }

    pub(super) fn network(&mut self, config: &NetworkConfig) {
        self.status.network = config.network.to_string();
        config.backend.name().clone_into(&mut self.status.backend);
        let vxlan = config.backend.vxlan();
        self.status.vni = vxlan.map_or(0, |vxlan| vxlan.vni.get());
        self.status.port = vxlan.map_or(0, |vxlan| vxlan.port.unwrap_or(KERNEL_VXLAN_PORT));
        let link = config.backend.link_name();
        self.status.device = link.map(|name| name.to_string()).unwrap_or_default();
    }

    pub(super) fn uplink(&mut self, uplink: &Uplink) {
        self.status.uplink.clone_from(&uplink.name);
        self.status.uplink_address = uplink.address.to_string();
        self.status.public_ip = uplink.public_ip.to_string();
    }

    /// The overlay's link, if the backend has one, and the overlay's MTU; whether that is news.
    pub(super) fn link(&mut self, mac: Option<MacAddr>, mtu: u32) -> bool {
        self.status.mac = mac.map(|mac| mac.to_string()).unwrap_or_default();
        std::mem::replace(&mut self.status.mtu, mtu) != mtu
    }

    /// What is known of the store: why it is not heard, if it is not, and what its client says.
    pub(super) fn store(&mut self, lost: Option<&str>, contact: &Contact) {
        let store = &mut self.status.store;
        let state = lost.unwrap_or("connected");
        state.clone_into(&mut store.state);
        store.last_contact = contact.last.map(seconds).or(store.last_contact);
    }

    pub(super) fn subnet(&mut self, subnet: &str) {
        subnet.clone_into(&mut self.status.subnet);
    }

    /// How a pass ended.
    pub(super) fn pass(&mut self, outcome: &Outcome<'_>) {
        let Outcome {
            bpf,
            acceptance,
            pods,
            failures,
            conditions,
            failed_renewals,
            state,
            ready,
            unmapped,
            sentry,
            kernel_routed,
            kernel,
        } = outcome;
        self.fast_path(acceptance, sentry, state);
        self.guard(bpf, sentry, unmapped, state);
        self.status.guard.unwatched = unwatched(bpf, sentry, pods);
        self.status.pods = pods.known().iter().map(pod).collect();
        let (mode, reason) = bpf.mode();
        mode.clone_into(&mut self.status.mode);
        self.status.reason = reason;
        self.status.attached = bpf.attachments().to_vec();
        self.status.errors.clone_from(failures.by_kind());
        if *failed_renewals > 0 {
            let kind = LEASE_RENEWAL.to_owned();
            self.status.errors.insert(kind, *failed_renewals);
        }
        self.status.failing = failures.texts();
        let told = conditions.iter(uptime()).map(condition);
        self.status.conditions = told.take(TOLD).collect();
        self.status.ready = *ready;
        self.status.peers = state.peers().len();
        self.status.store.complete = state.is_complete();
        self.status.routing = kernel_routed.rules.iter().take(TOLD).cloned().collect();
        self.status.conflicts = conflicts(state, kernel);
        self.status.unmapped = unmapped.iter().take(TOLD).map(Subnet::to_string).collect();
        self.write();
    }

    fn fast_path(&mut self, acceptance: &Acceptance, sentry: &Sentry, state: &State) {
        let Allowed {
            fast_path,
            permit_time,
            tcp_permits,
        } = acceptance.allowed();
        let status = &mut self.status.fast_path;
        fast_path_name(fast_path).clone_into(&mut status.mode);
        if sentry.bare_uplink {
            "off".clone_into(&mut status.mode);
            status.tcp = false;
            status.reason = Some(format!(
                "{} has no Ethernet headers (TUN, WireGuard, PPP), which BPF needs to redirect: \
                 the kernel carries every packet",
                self.status.uplink
            ));
            return;
        }
        status.tcp = tcp_permits;
        status.permit_milliseconds = u64::try_from(permit_time.as_millis()).unwrap_or(u64::MAX);
        status.reason = match (acceptance.trouble(), fast_path) {
            (Some(trouble), _) => Some(trouble.to_owned()),
            (None, FastPath::Off) => {
                let backend = &state.config().backend;
                let uncarried = backend.without_bpf().filter(|_| backend.vxlan().is_none());
                Some(
                    uncarried
                        .map_or_else(|| format!("--fast-path {}", status.wanted), str::to_owned),
                )
            }
            (None, FastPath::Permit | FastPath::Direct) => None,
        };
    }

    fn guard(&mut self, bpf: &Bpf, sentry: &Sentry, unmapped: &BTreeSet<Subnet>, state: &State) {
        let waits = if !state.is_complete() {
            Some("the list of leases is not complete")
        } else if !unmapped.is_empty() {
            Some("the maps have no room for every node")
        } else if !sentry.hears() {
            Some("the store is not heard, so nodes may have joined")
        } else {
            None
        };
        let enforces = sentry.guard == Guard::Enforce;
        let mut place = bpf.guard();
        if let Some(astray) = sentry.ways.astray() {
            let blind = format!("{astray}: what comes there is not looked at");
            place.reason = Some(match place.reason.take() {
                Some(reason) => format!("{blind}; {reason}"),
                None => blind,
            });
        }
        self.status.guard = GuardStatus {
            wanted: guard_name(sentry.guard).to_owned(),
            drops: enforces && waits.is_none() && place.by != "nowhere",
            waits: waits.filter(|_| enforces).map(str::to_owned),
            unwatched: Vec::new(),
            place,
        };
    }

    /// The agent stops in good order.
    pub(super) fn stopped(&mut self) {
        self.status.stopped = true;
        self.status.ready = false;
        self.write();
    }

    /// Writes the file, if it would change.
    pub(super) fn write(&mut self) {
        if self.written.as_ref() == Some(&self.status) {
            return;
        }
        self.told.send_replace(Arc::new(self.status.clone()));
        // The node works without its status; whoever asks for it sees that it is old.
        match status::write(&self.path, &self.status) {
            Ok(()) => {
                self.written = Some(self.status.clone());
                if self.unwritten.is_over() {
                    info!("status written again");
                }
            }
            Err(error) => {
                let error = chain(&error);
                if self.unwritten.is_news(&error) {
                    warn!(error, "status not written; trying again");
                }
            }
        }
    }
}

/// How a pass ended.
pub(super) struct Outcome<'a> {
    pub(super) bpf: &'a Bpf,
    pub(super) acceptance: &'a Acceptance,
    pub(super) pods: &'a Pods,
    pub(super) failures: &'a Failures,
    pub(super) conditions: &'a Conditions,
    pub(super) failed_renewals: u64,
    pub(super) state: &'a State,
    pub(super) ready: bool,
    pub(super) unmapped: &'a BTreeSet<Subnet>,
    pub(super) sentry: &'a Sentry,
    pub(super) kernel_routed: &'a KernelRouted,
    pub(super) kernel: &'a ObservedKernel,
}

fn guard_name(guard: Guard) -> &'static str {
    match guard {
        Guard::Off => "off",
        Guard::Count => "count",
        Guard::Enforce => "enforce",
    }
}

/// Pods without the program that keeps them from the nodes' VXLAN port, where it is wanted.
fn unwatched(bpf: &Bpf, sentry: &Sentry, pods: &Pods) -> Vec<String> {
    if sentry.guard != Guard::Enforce || sentry.pod_vxlan || bpf.attachments().is_empty() {
        return Vec::new();
    }
    let name = Program::FromPod.label();
    let watched = bpf
        .attachments()
        .iter()
        .filter(|there| there.program == name);
    let watched: BTreeSet<u32> = watched.map(|there| there.ifindex).collect();
    let bare = pods
        .known()
        .iter()
        .filter(|(veth, _)| !watched.contains(veth));
    bare.take(TOLD)
        .map(|(&ifindex, pod)| {
            let why = pods.barred(ifindex).unwrap_or("twilld's log says why");
            format!("{}: {why}", pod.name)
        })
        .collect()
}

fn pod((&ifindex, pod): (&u32, &PodVeth)) -> PodStatus {
    let PodVeth {
        name,
        wiring,
        up,
        never_fast,
    } = pod;
    let wiring = match wiring {
        Wiring::Bridge => "bridge",
        Wiring::Routed => "routed",
    };
    PodStatus {
        interface: name.clone(),
        ifindex,
        wiring: wiring.to_owned(),
        up: *up,
        never_fast: never_fast.as_ref().map(ToString::to_string),
    }
}

fn condition((condition, bars): (&Condition, bool)) -> ConditionStatus {
    ConditionStatus {
        kind: condition.kind().label().to_owned(),
        text: condition.to_string(),
        not_ready: bars,
    }
}

/// Leases that are not peers, and why; those that contradict our own are conditions.
fn conflicts(state: &State, kernel: &ObservedKernel) -> Vec<String> {
    let contested = state
        .conflicts()
        .filter(|conflict| !conflict.objection.is_about_us())
        .map(|conflict| format!("lease of {}: {}", conflict.subnet, conflict.objection));
    let rejected = state.rejected().values().map(|error| chain(error));
    let unreachable = state.unreachable(&kernel.on_link).map(|(subnet, node)| {
        format!(
            "lease of {subnet}: {node} is not on a link of the uplink, and host-gw has no other way \
             to it; connect the nodes by one layer 2 network, or use vxlan"
        )
    });
    contested
        .chain(rejected)
        .chain(unreachable)
        .take(TOLD)
        .collect()
}

fn now() -> u64 {
    seconds(SystemTime::now())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::args::Twilld;

    #[test]
    fn a_status_that_cannot_be_written_is_told_to_those_who_follow_and_tried_again() {
        let root = tempfile::tempdir().unwrap();
        let run_dir = root.path().join("run");
        let flag = format!("--run-dir={}", run_dir.display());
        let (parsed, _) = Twilld::read(&[flag.into()], &[]).unwrap();
        let mut report = Report::new(&parsed.agent, "nowhere").unwrap();
        let followed = report.follow();
        // A file where the folder is to be.
        fs::write(&run_dir, "").unwrap();
        report.store_failed("away");
        assert_eq!(followed.borrow().store.state, "away");
        let why = status::write(&report.path, &report.status).unwrap_err();
        assert!(!report.unwritten.is_news(&chain(&why)), "it was not said");
        report.write();
        assert!(
            !report.unwritten.is_news(&chain(&why)),
            "another text each time"
        );
        fs::remove_file(&run_dir).unwrap();
        report.write();
        assert!(!report.unwritten.is_over());
        assert!(status::read(&report.path).unwrap().is_some());
    }
}
