//! What permits rest on: the table that marks what netfilter has accepted, and conntrack
//! settings that let flows rest. Without the first there are no permits at all; without the
//! second none for TCP.

use std::time::Duration;

use ipnetwork::Ipv4Network;
use tracing::{info, warn};
use twill_abi::FastPath;
use twill_core::subnet::Subnet;

use super::failures::Failures;
use crate::args::AgentArgs;
use crate::datapath::chain;
use crate::netfilter::{Conntrack, InForce, PermitTable};

/// What flows may do right now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Allowed {
    pub(super) fast_path: FastPath,
    pub(super) permit_time: Duration,
    pub(super) tcp_permits: bool,
}

/// The netfilter side of the fast path.
pub(super) struct Acceptance {
    wanted: FastPath,
    permit_time: Duration,
    mark_bit: u32,
    exclude: Vec<Ipv4Network>,
    conntrack: Conntrack,
    in_force: Option<(PermitTable, InForce)>,
    /// Whether a table of an earlier start was looked for, where none is wanted.
    cleared: bool,
    trouble: Option<String>,
    allowed: Allowed,
}

impl Acceptance {
    pub(super) fn new(args: &AgentArgs) -> Self {
        Self {
            wanted: args.fast_path.into(),
            permit_time: args.permit_time,
            mark_bit: args.mark_bit,
            exclude: args.exclude.clone(),
            conntrack: Conntrack::default(),
            in_force: None,
            cleared: false,
            trouble: None,
            allowed: Allowed {
                fast_path: FastPath::Off,
                permit_time: args.permit_time,
                tcp_permits: false,
            },
        }
    }

    /// The bit of the packet mark that means "accepted as established".
    pub(super) fn mark_bit(&self) -> u32 {
        self.mark_bit
    }

    /// Why the fast path is off, or off for TCP, though it is wanted.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// What the operator wants, whether or not it may be right now.
    pub(super) fn wanted(&self) -> FastPath {
        self.wanted
    }

    /// Whether what is wanted may not be: then nobody's word makes flows fast.
    pub(super) fn is_stale(&self) -> bool {
        self.allowed.fast_path != self.wanted
    }

    /// What flows may do, as it was found last.
    pub(super) fn allowed(&self) -> Allowed {
        self.allowed
    }

    /// Puts table and settings in force, or finds them so.
    pub(super) async fn assert(
        &mut self,
        network: Subnet,
        own_subnet: Subnet,
        failures: &mut Failures,
    ) {
        if self.wanted == FastPath::Off {
            self.clear().await;
            return;
        }
        let mut allowed = Allowed {
            fast_path: self.wanted,
            permit_time: self.permit_time,
            tcp_permits: false,
        };
        let mut trouble = None;
        if let Err(error) = self.assert_table(network, own_subnet).await {
            failures.count("permit_table");
            trouble = Some(format!("the fast path is off: {error}"));
            allowed.fast_path = FastPath::Off;
        } else {
            match permit_time(&self.conntrack, self.permit_time) {
                Ok(permit_time) => allowed.permit_time = permit_time,
                Err(error) => {
                    failures.count("conntrack");
                    trouble = Some(format!("the fast path is off: {error}"));
                    allowed.fast_path = FastPath::Off;
                }
            }
            match self.conntrack.assert() {
                Ok(()) => allowed.tcp_permits = true,
                Err(error) => {
                    failures.count("conntrack");
                    let error = chain(&error);
                    trouble.get_or_insert_with(|| format!("no permits for TCP: {error}"));
                }
            }
        }
        if trouble != self.trouble {
            if let Some(reason) = &trouble {
                warn!(reason, "flows stay slow");
            } else {
                info!("flows may be fast again");
            }
        }
        self.trouble = trouble;
        self.allowed = allowed;
    }

    async fn assert_table(&mut self, network: Subnet, own_subnet: Subnet) -> Result<(), String> {
        let table = PermitTable {
            network,
            own_subnet,
            mark_bit: self.mark_bit,
            exclude: self.exclude.clone(),
        };
        if let Some((written, in_force)) = &self.in_force
            && *written == table
        {
            if in_force.is_so().await.map_err(|error| chain(&error))? {
                return Ok(());
            }
            warn!("the nftables table inet twill was changed or removed; writing it again");
        }
        self.in_force = None;
        let in_force = table.write().await.map_err(|error| chain(&error))?;
        self.in_force = Some((table, in_force));
        Ok(())
    }

    /// Takes away the table of an earlier start: without a fast path nobody reads its marks.
    async fn clear(&mut self) {
        if self.cleared {
            return;
        }
        match PermitTable::remove().await {
            Ok(()) => self.cleared = true,
            // No nft, no table.
            Err(error) => tracing::debug!(error = %chain(&error), "remove the permit table"),
        }
    }
}

/// The permit time that conntrack's timeouts allow, of `wanted`: no permit may outlive its
/// conntrack entry.
fn permit_time(conntrack: &Conntrack, wanted: Duration) -> Result<Duration, String> {
    let smallest = conntrack
        .smallest_timeout()
        .map_err(|error| chain(&error))?;
    if smallest == 0 {
        return Err("a conntrack timeout is 0 s; give it 2 s or more".to_owned());
    }
    Ok(wanted.min(Duration::from_secs(smallest) / 2))
}
