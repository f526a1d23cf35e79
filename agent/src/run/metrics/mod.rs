//! What `/metrics` tells, read when somebody asks: the agent's last word on itself, what it has
//! done, and what the programs have counted.
//!
//! Every label has a closed set of values, VTEPs aside, and of these so many have their own.

mod meters;
mod node;
mod programs;

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tracing::warn;

pub(super) use self::meters::Meters;
use self::node::Node;
use self::programs::Programs;
use crate::datapath::pins::Pins;
use crate::files::status::Status;

/// What the names of all metrics begin with.
const PREFIX: &str = "twill";

/// The metrics of one agent.
pub(super) struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Metrics of the agent that tells its `status`, counts with `meters` and pins its maps at
    /// `pins`.
    pub(super) fn new(status: watch::Receiver<Arc<Status>>, meters: &Meters, pins: Pins) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        meters.register(&mut registry);
        registry.register_collector(Box::new(Node(status)));
        registry.register_collector(Box::new(Programs(pins)));
        Self { registry }
    }

    /// The text of `OpenMetrics` 1.0. Reads maps: takes some milliseconds, more with many permits.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        if let Err(fmt::Error) = encode(&mut text, &self.registry) {
            warn!("metrics could not be written");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::files::status::{ConditionStatus, PodStatus, StoreStatus};

    fn text(status: Status) -> String {
        let (_keep, status) = watch::channel(Arc::new(status));
        let pins = Pins::new(Path::new("/nowhere"), &"default".parse().unwrap());
        let meters = Meters::default();
        meters.pass(std::time::Duration::from_millis(30), 7);
        Metrics::new(status, &meters, pins).text()
    }

    #[test]
    fn what_the_agent_says_of_itself_is_in_prometheus_words() {
        let pod = |never_fast: Option<&str>| PodStatus {
            never_fast: never_fast.map(str::to_owned),
            ..PodStatus::default()
        };
        let text = text(Status {
            version: "1.2.3".to_owned(),
            abi_version: 7,
            ready: true,
            mode: "bpf".to_owned(),
            peers: 3,
            pods: vec![pod(None), pod(Some("excluded")), pod(None)],
            store: StoreStatus {
                state: "connected".to_owned(),
                last_contact: Some(1_700_000_000),
                ..StoreStatus::default()
            },
            conditions: vec![ConditionStatus {
                kind: "lease_gone".to_owned(),
                ..ConditionStatus::default()
            }],
            errors: [("netlink".to_owned(), 4)].into(),
            ..Status::default()
        });
        for line in [
            "twill_build_info{version=\"1.2.3\",abi_version=\"7\"} 1",
            "twill_ready 1",
            "twill_mode{mode=\"bpf\"} 1",
            "twill_mode{mode=\"kernel\"} 0",
            "twill_peers 3",
            "twill_pods{fast=\"may_be\"} 2",
            "twill_pods{fast=\"never\"} 1",
            "twill_condition{kind=\"lease_gone\"} 1",
            "twill_condition{kind=\"lease_contradicted\"} 0",
            "twill_store_connected 1",
            "twill_store_last_contact_timestamp_seconds 1700000000",
            "twill_errors_total{kind=\"netlink\"} 4",
            "twill_reconcile_passes_total 1",
            "twill_reconcile_steps_total 7",
            "twill_reconcile_seconds_count 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|it| it == line), "no {line:?} in\n{text}");
        }
    }

    #[test]
    fn every_metric_has_help_and_type_and_bears_our_name() {
        let text = text(Status::default());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(name.starts_with("twill_"), "{line}");
            let family = ["_total", "_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(name);
            for kind in ["HELP", "TYPE"] {
                let known = [family, name].iter().any(|name| {
                    text.lines()
                        .any(|it| it.starts_with(&format!("# {kind} {name} ")))
                });
                assert!(known, "no {kind} of {name} in\n{text}");
            }
        }
    }
}
