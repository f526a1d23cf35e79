//! What the agent counts of its own work.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Counters that the agent moves; clones share them.
#[derive(Clone, Debug)]
pub(in crate::run) struct Meters {
    passes: Counter,
    steps: Counter,
    seconds: Histogram,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            passes: Counter::default(),
            steps: Counter::default(),
            // A millisecond to eight seconds: one peer, and fifty thousand.
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
        }
    }
}

impl Meters {
    /// A pass took so long; its plan had so many steps.
    pub(in crate::run) fn pass(&self, took: Duration, steps: usize) {
        self.passes.inc();
        self.steps.inc_by(u64::try_from(steps).unwrap_or(u64::MAX));
        self.seconds.observe(took.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "reconcile_passes",
            "Times that the node was compared with what it should be",
            self.passes.clone(),
        );
        registry.register(
            "reconcile_steps",
            "Changes made in the kernel and in the maps, failed ones too",
            self.steps.clone(),
        );
        registry.register(
            "reconcile_seconds",
            "How long comparing and changing took",
            self.seconds.clone(),
        );
    }
}
