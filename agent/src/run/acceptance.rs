//! What permits rest on: the table that marks what netfilter has accepted, and the timeouts and
//! conntrack settings that let flows rest. Without the first there are no permits at all; without
//! the others none for TCP.

use std::time::Duration;

use ipnetwork::Ipv4Network;
use tracing::{info, warn};
use twill_abi::{Config, FastPath};
use twill_core::chain::chain;
use twill_core::config::NetworkConfig;
use twill_core::subnet::Subnet;

use super::failures::Failures;
use super::outlook::{Allowed, Outlook, Rest};
use crate::args::AgentArgs;
use crate::netfilter::{Conntrack, Keeper, Kept, PermitTable, TimeoutTable};

/// Why TCP has no permits where flows cannot have timeouts of their own.
const NO_TIMEOUTS: &str = "`nft` or the kernel knows no timeout policies (`ct timeout`, \
                           CONFIG_NF_CONNTRACK_TIMEOUT), without which a connection that was fast \
                           may end when it rests; UDP may be fast";

/// The netfilter side of the fast path.
pub(super) struct Acceptance {
    wanted: FastPath,
    permit_time: Duration,
    mark_bit: u32,
    exclude: Vec<Ipv4Network>,
    /// The name of our table.
    name: String,
    conntrack: Conntrack,
    table: Keeper<PermitTable>,
    timeouts: Keeper<TimeoutTable>,
    /// Whether flows are known to get timeouts of their own here.
    has_timeouts: bool,
    /// Whether a table of an earlier start was looked for, where none is wanted.
    cleared: bool,
    outlook: Outlook,
    /// Why nothing may be fast for now, though all is in order here.
    policy: Option<String>,
    /// Why nothing may skip the overlay's device, fast or not.
    overlay_policy: Option<String>,
    /// Why nothing can be fast: packets do not pass the uplink.
    astray: Option<String>,
}

impl Acceptance {
    pub(super) fn new(args: &AgentArgs, config: &NetworkConfig) -> Self {
        // Permits are for what the BPF programs carry.
        let carried = config.backend.vxlan().is_some();
        Self {
            wanted: if carried {
                args.fast_path.into()
            } else {
                FastPath::Off
            },
            permit_time: args.permit_time,
            mark_bit: args.mark_bit,
            exclude: args.exclude.clone(),
            name: args.instance.table(),
            conntrack: Conntrack::default(),
            table: Keeper::default(),
            timeouts: Keeper::default(),
            has_timeouts: false,
            cleared: false,
            outlook: Outlook::new(args.permit_time),
            policy: None,
            overlay_policy: None,
            astray: None,
        }
    }

    /// The bit of the packet mark that means "accepted as established".
    pub(super) fn mark_bit(&self) -> u32 {
        self.mark_bit
    }

    /// Why the fast path is off, or off for TCP, or will be, though it is wanted.
    pub(super) fn trouble(&self) -> Option<&str> {
        let reasons = [self.outlook.trouble(), self.astray.as_deref()];
        let first = reasons.into_iter().flatten().next();
        first
            .or(self.overlay_policy.as_deref())
            .or(self.policy.as_deref())
    }

    /// What the operator wants, whether or not it may be right now.
    pub(super) fn wanted(&self) -> FastPath {
        self.wanted
    }

    /// Whether what is wanted may not be: then nobody's word makes flows fast. Past somebody's
    /// policy the operator's word does.
    pub(super) fn is_stale(&self) -> bool {
        self.outlook.allowed().fast_path != self.wanted || self.astray.is_some()
    }

    /// Why packets to other nodes do not pass the uplink, or that they do. Without the programs
    /// there no flow can be fast; one-way flows in the mode `direct` would be half fast.
    pub(super) fn set_astray(&mut self, reason: Option<&str>) {
        let astray = reason.map(|reason| format!("the fast path is off: {reason}"));
        if astray != self.astray && self.wanted != FastPath::Off {
            if let Some(reason) = &astray {
                warn!(reason, "the uplink carries no packets to other nodes");
            } else {
                info!("the uplink carries packets to other nodes");
            }
        }
        self.astray = astray;
    }

    /// Somebody's policy on the uplink that fast packets would go past, or none.
    pub(super) fn set_policy(&mut self, reason: Option<String>) {
        let policy = reason.map(|reason| format!("the fast path is off: {reason}"));
        if policy != self.policy && self.wanted != FastPath::Off {
            tell("the uplink", policy.as_deref());
        }
        self.policy = policy;
    }

    /// Somebody's policy on the overlay's device, or none. Without a fast path as well it keeps
    /// packets from BPF, so it is told as well.
    pub(super) fn set_overlay_policy(&mut self, reason: Option<String>) {
        let policy = reason.map(|reason| {
            format!(
                "the fast path is off, and the kernel carries what goes to other nodes: {reason}"
            )
        });
        if policy != self.overlay_policy {
            tell("the overlay's device", policy.as_deref());
        }
        self.overlay_policy = policy;
    }

    /// Whether somebody's policy is on the overlay's device.
    pub(super) fn has_overlay_policy(&self) -> bool {
        self.overlay_policy.is_some()
    }

    /// What flows may do, as it was found last.
    pub(super) fn allowed(&self) -> Allowed {
        let mut allowed = self.outlook.allowed();
        let policy = self.policy.is_some() || self.overlay_policy.is_some();
        if policy || self.astray.is_some() {
            allowed.fast_path = FastPath::Off;
        }
        allowed
    }

    /// Whether it is time to look again at what was not in order.
    pub(super) fn is_due(&self) -> bool {
        self.outlook.is_due()
    }

    /// What the programs have been told by an earlier start, before anything was looked at.
    pub(super) fn remember(&mut self, config: &Config) {
        self.outlook.remember(self.wanted, Allowed::told(config));
    }

    /// Puts tables and settings in force, or finds them so.
    pub(super) async fn assert(
        &mut self,
        network: Subnet,
        own_subnet: Subnet,
        device: &str,
        failures: &mut Failures,
    ) {
        if self.wanted == FastPath::Off {
            self.clear().await;
            return;
        }
        let permit_time = longest_permit(&self.conntrack, self.permit_time);
        let table = PermitTable {
            name: self.name.clone(),
            network,
            own_subnet,
            mark_bit: self.mark_bit,
            exclude: self.exclude.clone(),
            permit_time: *permit_time.as_ref().unwrap_or(&self.permit_time),
        };
        // Before the first permit, of which the other table speaks.
        let tcp = self.let_tcp_rest(network, own_subnet, device).await;
        let table = match self.table.keep(table).await {
            Ok(_) => Ok(()),
            Err(error) => {
                failures.count("permit_table");
                Err(chain(&error))
            }
        };
        if permit_time.is_err() || tcp.is_err() {
            failures.count("conntrack");
        }
        let rest = Rest { permit_time, tcp };
        self.outlook.take(self.wanted, table, || rest);
    }

    /// Lets TCP flows rest while BPF carries them.
    async fn let_tcp_rest(
        &mut self,
        network: Subnet,
        own_subnet: Subnet,
        device: &str,
    ) -> Result<(), String> {
        self.conntrack.assert().map_err(|error| chain(&error))?;
        if !self.has_timeouts {
            let possible = TimeoutTable::is_possible().await;
            if !possible.map_err(|error| chain(&error))? {
                return Err(NO_TIMEOUTS.to_owned());
            }
            self.has_timeouts = true;
        }
        let times = self.conntrack.tcp_times().map_err(|error| chain(&error))?;
        let table = TimeoutTable {
            permits: self.name.clone(),
            network,
            own_subnet,
            device: device.to_owned(),
            mark_bit: self.mark_bit,
            exclude: self.exclude.clone(),
            times,
        };
        let kept = self.timeouts.keep(table).await;
        if kept.map_err(|error| chain(&error))? == Kept::Written {
            self.tell_former();
        }
        Ok(())
    }

    /// Connections that an earlier Twill made fast have no timeouts of their own and live by the
    /// settings, so these are not taken away under them.
    fn tell_former(&self) {
        let settings = self.conntrack.former().join(", ");
        if !settings.is_empty() {
            warn!(
                settings,
                "as long as the timeout of an established connection, which keeps dead ones of the \
                 whole node; an earlier Twill set them, and only its connections need them: set them \
                 to 300 when those have ended, or start the node again"
            );
        }
    }

    /// Takes away the table of an earlier start: without a fast path nobody reads its marks.
    async fn clear(&mut self) {
        if self.cleared {
            return;
        }
        let removed = async {
            PermitTable::remove(&self.name).await?;
            // What was fast before still needs its timeouts.
            TimeoutTable::detach(&self.name).await.map(drop)
        };
        match removed.await {
            Ok(()) => self.cleared = true,
            // No nft, no table.
            Err(error) => tracing::debug!(error = %chain(&error), "remove the permit table"),
        }
    }
}

/// Tells that somebody's policy has come, or gone.
fn tell(place: &str, policy: Option<&str>) {
    if let Some(reason) = policy {
        warn!(reason, "somebody else's policy is on {place}");
    } else {
        info!("nobody else's policy is on {place} any more");
    }
}

/// The permit time that conntrack's timeouts allow, of `wanted`: no permit may outlive its
/// conntrack entry.
fn longest_permit(conntrack: &Conntrack, wanted: Duration) -> Result<Duration, String> {
    let smallest = conntrack
        .smallest_timeout()
        .map_err(|error| chain(&error))?;
    if smallest == 0 {
        return Err("a conntrack timeout is 0 s; give it 2 s or more".to_owned());
    }
    Ok(wanted.min(Duration::from_secs(smallest) / 2))
}
