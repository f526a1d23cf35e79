//! The agent's last word on itself, as `status.json` has it.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::watch;
use twill_core::condition::ConditionKind;

use crate::files::status::Status;

const MODES: [&str; 2] = ["bpf", "kernel"];
const FAST_PATHS: [&str; 3] = ["permit", "direct", "off"];

/// The status that was told last.
#[derive(Debug)]
pub(super) struct Node(pub(super) watch::Receiver<Arc<Status>>);

impl Collector for Node {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = Arc::clone(&self.0.borrow());
        let version = status.version.as_str();
        let abi_version = status.abi_version.to_string();
        let build = [("version", version), ("abi_version", &abi_version)];
        let gauges = &mut encoder;
        family(gauges, "build_info", "Version of twilld", [(build, 1)])?;
        gauge(
            gauges,
            "start_time_seconds",
            "When twilld started, since 1970",
            whole(status.started),
        )?;
        gauge(
            gauges,
            "ready",
            "Whether the node is as it should be",
            status.ready.into(),
        )?;
        let mode = |mode| ([("mode", mode)], i64::from(status.mode == mode));
        family(gauges, "mode", "Who carries packets", MODES.map(mode))?;
        let fast_path = |mode| ([("mode", mode)], i64::from(status.fast_path.mode == mode));
        family(
            gauges,
            "fast_path",
            "Which flows may skip the host's stack",
            FAST_PATHS.map(fast_path),
        )?;
        gauge(
            gauges,
            "fast_path_tcp",
            "Whether TCP flows may have permits",
            status.fast_path.tcp.into(),
        )?;
        counts(gauges, &status)?;
        store(gauges, &status)?;
        let kinds = status.errors.iter();
        counters(
            gauges,
            "errors",
            "What failed and is tried again, by kind",
            kinds.map(|(kind, &count)| ([("kind", kind.as_str())], count)),
        )
    }
}

fn counts(encoder: &mut DescriptorEncoder<'_>, status: &Status) -> fmt::Result {
    gauge(encoder, "peers", "Other nodes", length(status.peers))?;
    gauge(
        encoder,
        "failures",
        "What failed when everything was tried last",
        length(status.failing.len()),
    )?;
    let count = |kind: ConditionKind| {
        let same = status.conditions.iter();
        let same = same.filter(|condition| condition.kind == kind.label());
        ([("kind", kind.label())], length(same.count()))
    };
    family(
        encoder,
        "condition",
        "What somebody has to act on; status.json and the log say what to do",
        ConditionKind::ALL.map(count),
    )?;
    gauge(
        encoder,
        "lease_conflicts",
        "Leases that contradict others or cannot be used, up to twenty of a kind",
        length(status.conflicts.len()),
    )?;
    gauge(
        encoder,
        "unmapped_subnets",
        "Subnets that the maps have no room for, up to twenty: the kernel carries their packets",
        length(status.unmapped.len()),
    )?;
    gauge(
        encoder,
        "attached_programs",
        "BPF programs that are attached",
        length(status.attached.len()),
    )?;
    let never = status.pods.iter().filter(|pod| pod.never_fast.is_some());
    let never = never.count();
    let rows = [("may_be", status.pods.len() - never), ("never", never)];
    family(
        encoder,
        "pods",
        "Pods of this node, by whether their flows may be fast",
        rows.map(|(fast, count)| ([("fast", fast)], length(count))),
    )
}

fn store(encoder: &mut DescriptorEncoder<'_>, status: &Status) -> fmt::Result {
    gauge(
        encoder,
        "store_connected",
        "Whether the lease store answers",
        i64::from(status.store.state == "connected"),
    )?;
    gauge(
        encoder,
        "store_complete",
        "Whether a complete list of leases was read since the start",
        status.store.complete.into(),
    )?;
    gauge(
        encoder,
        "store_last_contact_timestamp_seconds",
        "When the lease store answered last, since 1970; 0 if never",
        status.store.last_contact.map_or(0, whole),
    )
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: i64) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}

/// Gauges of one name that differ in their labels.
pub(super) fn family<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: impl IntoIterator<Item = (L, i64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in rows {
        ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

/// Counters of one name that differ in their labels.
pub(super) fn counters<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in rows {
        ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn length(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn whole(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
