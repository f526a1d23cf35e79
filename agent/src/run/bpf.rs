//! Whether BPF carries packets, and if not, why and when to try again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};
use twill_abi::{Config, Mode};
use twill_core::chain::chain;
use twill_core::config::NetworkConfig;
use twill_core::observed::ObservedMaps;
use twill_core::plan::MapOp;

use super::failures::Failures;
use crate::args::{AgentArgs, DatapathChoice};
use crate::crash;
use crate::datapath::attach::Attachment;
use crate::datapath::guard::GuardPlace;
use crate::datapath::permits::VethUse;
use crate::datapath::pins::Pins;
use crate::datapath::place::{Interface, Interfaces};
use crate::datapath::pod_lock::PodLock;
use crate::datapath::settings::Settings;
use crate::datapath::source_ports::LastPort;
use crate::datapath::{Datapath, DatapathError, Options, detach_all};

/// How long until what did not work is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// How long CNI plugins that enter pods are waited for.
const PLUGINS: Duration = Duration::from_millis(500);

/// What the maps of a start have been given so far.
#[derive(Clone, Copy, Debug, Default)]
struct Filled {
    peers: bool,
    settings: bool,
}

/// The BPF side of the node.
pub(super) struct Bpf {
    options: Options,
    /// Why BPF shall not carry packets at all, if it shall not.
    unwanted: Option<&'static str>,
    vni: u32,
    common_prefix: u8,
    datapath: Option<Datapath>,
    /// Whether the maps once held all that there is to know, and the settings: before that,
    /// programs that are attached to them would leave the kernel packets that those of an earlier
    /// start carry.
    filled: Filled,
    /// Why BPF does not carry packets, or not all it should.
    trouble: Option<String>,
    retry_at: Instant,
    /// Where programs could not be attached: other interfaces are tried at once.
    refused_by: Option<Interfaces>,
    /// Why it is not known what is attached, if it is not.
    doubt: Option<String>,
    /// Whether what earlier starts attached is gone, where BPF is not available.
    cleared: bool,
    operator: Option<Mode>,
    last_port: LastPort,
}

impl Bpf {
    pub(super) fn new(args: &AgentArgs, config: &NetworkConfig) -> Self {
        Self {
            options: args.datapath_options(),
            unwanted: unwanted(args.datapath, config),
            vni: config.backend.vxlan().map_or(0, |vxlan| vxlan.vni.get()),
            common_prefix: config.subnet_len,
            datapath: None,
            filled: Filled::default(),
            trouble: None,
            retry_at: Instant::now(),
            refused_by: None,
            doubt: None,
            cleared: false,
            last_port: LastPort::default(),
            operator: None,
        }
    }

    /// Whether programs are attached by filters of traffic control, which need a qdisc.
    pub(super) fn attaches_by_filter(&self) -> bool {
        self.options.attach_by.is_by_filter()
    }

    /// Which ports the kernel's device sends from, and so do the programs.
    pub(super) fn last_port(&self) -> LastPort {
        self.last_port
    }

    /// Loads the programs, if they are wanted, not loaded, and it is time to try.
    pub(super) fn load(&mut self, failures: &mut Failures) {
        if self.datapath.is_some() {
            return;
        }
        if let Some(reason) = self.unwanted {
            self.trouble = Some(reason.to_owned());
            return;
        }
        if Instant::now() < self.retry_at {
            return;
        }
        match Datapath::open(&self.options, self.vni, self.common_prefix) {
            Ok(datapath) => {
                info!(instance = %self.options.instance, "BPF programs loaded");
                self.datapath = Some(datapath);
                crash::point("load");
                self.filled = Filled::default();
                self.trouble = None;
                match LastPort::find() {
                    Ok(last_port) => self.last_port = last_port,
                    // One port of thousands: a flow may change its way as it becomes fast.
                    Err(error) => info!(error = chain(&error), "vxlan's source ports not tried"),
                }
            }
            Err(error) => self.failed(&error, failures),
        }
    }

    /// What the programs are told; nothing without BPF.
    pub(super) fn told(&self, failures: &mut Failures) -> Option<Config> {
        match self.datapath.as_ref()?.told() {
            Ok(config) => Some(config),
            Err(error) => {
                failures.add(error.label(), &error);
                None
            }
        }
    }

    /// Reads the maps; nothing without BPF.
    pub(super) fn observe(&mut self, failures: &mut Failures) -> Option<ObservedMaps> {
        match self.datapath.as_ref()?.observe() {
            Ok(maps) => Some(maps),
            Err(error) => {
                failures.add(error.label(), &error);
                None
            }
        }
    }

    /// Writes one entry; whether that worked.
    pub(super) fn apply(&mut self, op: &MapOp, failures: &mut Failures) -> bool {
        let Some(datapath) = &mut self.datapath else {
            return true;
        };
        match datapath.apply(op) {
            Ok(()) => true,
            Err(error) => {
                failures.add(error.label(), &error);
                false
            }
        }
    }

    /// Every entry of a complete list of leases has been written.
    pub(super) fn peers_are_written(&mut self) {
        self.filled.peers = true;
    }

    /// Writes the settings with a new sign of life.
    pub(super) fn write_settings(&mut self, settings: &Settings, failures: &mut Failures) {
        let Some(datapath) = &mut self.datapath else {
            return;
        };
        match datapath.write_settings(settings) {
            Ok(()) => self.filled.settings = true,
            Err(error) => failures.add(error.label(), &error),
        }
        self.hear_operator(failures);
    }

    /// Reads what the operator asks for, which may change at any moment.
    pub(super) fn hear_operator(&mut self, failures: &mut Failures) {
        if let Some(datapath) = &self.datapath {
            match datapath.operator_mode() {
                Ok(operator) => self.operator = operator,
                Err(error) => failures.add(error.label(), &error),
            }
        }
    }

    /// Tells the programs which veths are pods', and what each may do.
    pub(super) fn set_pods(&mut self, pods: &BTreeMap<u32, VethUse>, failures: &mut Failures) {
        if let Some(datapath) = &mut self.datapath
            && let Err(error) = datapath.set_pods(pods)
        {
            failures.add(error.label(), &error);
        }
    }

    /// The veths that the maps know as pods', whoever entered them.
    pub(super) fn entered_pods(&self, failures: &mut Failures) -> BTreeSet<u32> {
        let Some(datapath) = &self.datapath else {
            return BTreeSet::new();
        };
        datapath.pods().unwrap_or_else(|error| {
            failures.add(error.label(), &error);
            BTreeSet::new()
        })
    }

    /// Keeps CNI plugins from entering pods until the lock is dropped. One that does not end must
    /// not keep the daemon.
    pub(super) async fn lock_pods(&self) -> Option<PodLock> {
        self.datapath.as_ref()?;
        let pins = Pins::new(&self.options.bpffs, &self.options.instance);
        match PodLock::take(&pins, PLUGINS).await {
            Ok(lock) => lock,
            Err(error) => {
                debug!(%error, "lock the pins");
                None
            }
        }
    }

    /// Programs of others on the TCX hooks of these interfaces, where they could be looked at.
    pub(super) fn foreign_programs(
        &self,
        interfaces: &[Interface],
    ) -> BTreeMap<u32, Option<String>> {
        let datapath = self.datapath.as_ref();
        datapath.map_or_else(BTreeMap::new, |datapath| {
            datapath.foreign_programs(interfaces)
        })
    }

    /// Makes sure that the programs are where they belong. Nothing before the maps are filled:
    /// until then what an earlier start attached goes on with what that start knew. Nothing else
    /// has to be in order for it: the kernel carries what BPF does not.
    pub(super) async fn attach(&mut self, interfaces: &Interfaces, failures: &mut Failures) {
        let Some(datapath) = &mut self.datapath else {
            self.clear(failures).await;
            return;
        };
        if !(self.filled.peers && self.filled.settings) {
            return;
        }
        let tried = self.refused_by.as_ref() == Some(interfaces);
        if self.trouble.is_some() && tried && Instant::now() < self.retry_at {
            return;
        }
        match datapath.attach(interfaces).await {
            Ok(()) => {
                self.refused_by = None;
                self.doubt = None;
                if self.trouble.take().is_some() {
                    info!("BPF carries packets again");
                }
            }
            // What is attached stays so, and the next look is soon.
            Err(error) if error.says_nothing() => {
                failures.count(error.label());
                let doubt = chain(&error);
                if self.doubt.as_ref() != Some(&doubt) {
                    warn!(
                        error = doubt,
                        "what is attached is not known; looking again"
                    );
                }
                self.doubt = Some(doubt);
            }
            Err(error) => {
                self.refused_by = Some(interfaces.clone());
                self.failed(&error, failures);
            }
        }
    }

    /// Without BPF: detaches what an earlier start left attached, for its maps are looked
    /// after by nobody. The kernel's device is complete by now, so no packet is lost.
    pub(super) async fn clear(&mut self, failures: &mut Failures) {
        if self.cleared {
            return;
        }
        let pins = Pins::new(&self.options.bpffs, &self.options.instance);
        let mut cleared = true;
        for removal in detach_all(&pins).await {
            if let Err(error) = removal.result {
                failures.add(error.label(), &error);
                cleared = false;
            }
        }
        self.cleared = cleared;
    }

    fn failed(&mut self, error: &DatapathError, failures: &mut Failures) {
        let reason = chain(error);
        // Kernel mode is a way to work, not a failure of the pass: it is told by itself.
        failures.count(error.label());
        if self.trouble.as_ref() != Some(&reason) {
            warn!(
                reason,
                "BPF is not available: the kernel's vxlan device carries the packets"
            );
        }
        self.trouble = Some(reason);
        self.retry_at = Instant::now() + RETRY;
    }

    /// Where the guard is.
    pub(super) fn guard(&self) -> GuardPlace {
        let nowhere = || GuardPlace {
            by: "nowhere".to_owned(),
            reason: Some("BPF is not available, or not attached yet".to_owned()),
        };
        let place = self.datapath.as_ref().map(Datapath::guard);
        place
            .filter(|place| !place.by.is_empty())
            .map_or_else(nowhere, GuardPlace::clone)
    }

    /// Whether programs that this kernel takes could not all be attached.
    pub(super) fn is_refused(&self) -> bool {
        self.refused_by.is_some()
    }

    /// What is attached.
    pub(super) fn attachments(&self) -> &[Attachment] {
        self.datapath.as_ref().map_or(&[], Datapath::attachments)
    }

    /// Who carries packets, and why not BPF.
    pub(super) fn mode(&self) -> (&'static str, Option<String>) {
        let reason = if let Some(trouble) = &self.trouble {
            trouble.clone()
        } else if self.operator == Some(Mode::Kernel) {
            "the operator's override".to_owned()
        } else if self.attachments().is_empty()
            && let Some(doubt) = &self.doubt
        {
            doubt.clone()
        } else if self.attachments().is_empty() {
            "waiting for the first complete list of leases, and for the maps to hold it".to_owned()
        } else {
            return ("bpf", None);
        };
        ("kernel", Some(reason))
    }
}

/// Why BPF shall not carry packets, by the operator's word or by the network's config.
fn unwanted(wanted: DatapathChoice, config: &NetworkConfig) -> Option<&'static str> {
    if wanted == DatapathChoice::Kernel {
        Some("--datapath kernel")
    } else {
        config.backend.without_bpf()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_s_word_and_gbp_leave_packets_to_the_kernel() {
        let config = |backend: &str| {
            let text = format!(r#"{{"Network":"10.244.0.0/16","Backend":{backend}}}"#);
            NetworkConfig::parse(&text).unwrap()
        };
        let plain = config(r#"{"Type":"vxlan","GBP":false,"DirectRouting":true}"#);
        let gbp = config(r#"{"Type":"vxlan","GBP":true}"#);
        assert_eq!(unwanted(DatapathChoice::Bpf, &plain), None);
        let reason = unwanted(DatapathChoice::Kernel, &plain).unwrap();
        assert!(reason.contains("--datapath"), "{reason}");
        let reason = unwanted(DatapathChoice::Bpf, &gbp).unwrap();
        assert!(reason.contains("Backend.GBP is true"), "{reason}");
    }
}
