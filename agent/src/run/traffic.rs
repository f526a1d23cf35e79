//! Flannel's rules in netfilter, kept in force by a task of their own: `iptables` may have to wait
//! for its lock longer than a lease may wait for its route.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::info;
use twill_core::condition::Overruled;
use twill_core::config::NetworkConfig;
use twill_core::subnet::Subnet;

use super::failures::Failures;
use crate::args::AgentArgs;
use crate::files::subnet_env;
use crate::netfilter::{Keeper, Tool, TrafficError, TrafficRules, tool_of_kube_proxy};

/// How long pods wait for the rules. They are for what leaves the overlay: pods reach each other
/// without them.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the rules of others are looked at, while nothing is wrong with them.
const LOOK_AROUND: Duration = Duration::from_secs(30);

/// Rules that are to be in force.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Wanted {
    rules: TrafficRules,
    /// Whether nobody has said what they are to be written with, so that kube-proxy's tool is
    /// theirs, where that can be told.
    follows: bool,
}

/// How many looks at our rules there are for each look at kube-proxy's.
const LOOK_AT_KUBE_PROXY: u32 = 6;

/// The rules that are wanted, and what became of them.
pub(super) struct Traffic {
    wanted: watch::Sender<Option<Wanted>>,
    found: watch::Receiver<Found>,
}

/// How the last look ended.
#[derive(Clone, Debug, Default)]
struct Found {
    /// The rules that it was for.
    rules: Option<Wanted>,
    trouble: Option<Arc<TrafficError>>,
    /// Whose rules drop what ours accept.
    overruled: Option<Overruled>,
}

impl Traffic {
    /// Looks at the rules every `period`, as soon as there are any to look at. Ends with what is
    /// given.
    pub(super) fn start(period: Duration) -> Self {
        let (wanted, asked) = watch::channel(None);
        let (told, found) = watch::channel(Found::default());
        tokio::spawn(keep(asked, told, period));
        Self { wanted, found }
    }

    /// The rules that are to be in force from now on.
    pub(super) fn want(&self, rules: Wanted) {
        self.wanted.send_if_modified(|wanted| {
            let differs = *wanted != Some(rules);
            *wanted = Some(rules);
            differs
        });
    }

    /// Waits until what is wanted was tried, though not for long.
    pub(super) async fn tried(&mut self) {
        let wanted = *self.wanted.borrow();
        let tried = self.found.wait_for(|found| found.rules == wanted);
        // What did not come to an end is told by `trouble`, later.
        drop(timeout(PATIENCE, tried).await);
    }

    /// Whose rules drop what ours accept, if somebody's do.
    pub(super) fn overruled(&self) -> Option<Overruled> {
        self.found.borrow().overruled.clone()
    }

    /// Tells why the rules are not in force, if they are not.
    pub(super) fn trouble(&self, failures: &mut Failures) {
        let found = self.found.borrow();
        if let Some(trouble) = &found.trouble {
            failures.add("traffic_rules", &**trouble);
        }
    }
}

/// What the flags and the network config ask for.
pub(super) fn rules(args: &AgentArgs, config: &NetworkConfig, own_subnet: Subnet) -> Wanted {
    let rules = TrafficRules {
        tool: if config.nftables == Some(true) {
            Tool::Nftables
        } else {
            Tool::Iptables
        },
        network: config.network,
        own_subnet,
        former: subnet_env::previous_network(&args.subnet_file)
            .filter(|former| *former != config.network),
        masquerade: args.ip_masq,
        forward: args.iptables_forward_rules,
        random_fully: !args.ip_masq_fully_random_disable,
    };
    Wanted {
        rules,
        follows: config.nftables.is_none(),
    }
}

/// kube-proxy's tool, as it was seen last.
#[derive(Default)]
struct Followed {
    tool: Option<Tool>,
    looked: Option<Instant>,
}

impl Followed {
    /// Looks now and then. A tool that is not seen any more is still the one: kube-proxy may be
    /// between two starts.
    async fn look(&mut self, period: Duration) -> Option<Tool> {
        if self.looked.is_none_or(|at| at.elapsed() >= period) {
            let seen = tool_of_kube_proxy().await;
            if seen.is_some() && seen != self.tool {
                let tool = match seen {
                    Some(Tool::Nftables) => "nftables",
                    Some(Tool::Iptables) | None => "iptables",
                };
                info!(
                    tool,
                    "flannel's rules are written as kube-proxy's are; EnableNFTables in the \
                     network config decides otherwise"
                );
            }
            self.tool = seen.or(self.tool);
            self.looked = Some(Instant::now());
        }
        self.tool
    }
}

async fn keep(
    mut asked: watch::Receiver<Option<Wanted>>,
    told: watch::Sender<Found>,
    period: Duration,
) {
    let mut keeper = Keeper::default();
    let mut followed = Followed::default();
    let (mut overruled, mut looked) = (None, None);
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = asked.changed() => if changed.is_err() {
                return;
            },
            _ = tick.tick() => {}
        }
        let Some(wanted) = *asked.borrow_and_update() else {
            continue;
        };
        let mut rules = wanted.rules;
        if wanted.follows
            && let Some(tool) = followed.look(LOOK_AT_KUBE_PROXY * period).await
        {
            rules.tool = tool;
        }
        let trouble = keeper.keep(rules).await.err().map(Arc::new);
        // Tens of thousands of kube-proxy's rules may have to be read for it.
        let is_due = looked.is_none_or(|at: Instant| at.elapsed() >= LOOK_AROUND);
        if !rules.forward {
            overruled = None;
        } else if is_due || overruled.is_some() {
            overruled = rules.overruled().await;
            looked = Some(Instant::now());
        }
        told.send_replace(Found {
            rules: Some(wanted),
            trouble,
            overruled: overruled.clone(),
        });
    }
}
