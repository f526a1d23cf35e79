//! When a pod's veth may get a clsact qdisc of ours, on kernels where programs are attached by
//! filters.
//!
//! The CNI's bandwidth plugin adds an ingress qdisc to a new pod's veth, in the very place of
//! clsact, and fails the pod if there is one. A new veth is therefore left alone for a moment;
//! one that has a clsact qdisc already loses nothing by ours.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

/// How long a veth is left alone. A plugin that runs behind the one that made it takes a fraction.
const GRACE: Duration = Duration::from_secs(5);

/// The veths without a clsact qdisc.
#[derive(Debug, Default)]
pub(super) struct Grace {
    bare_since: BTreeMap<u32, Instant>,
}

impl Grace {
    /// These veths, and no others, have no clsact qdisc.
    pub(super) fn note(&mut self, bare: &BTreeSet<u32>, now: Instant) {
        self.bare_since.retain(|ifindex, _| bare.contains(ifindex));
        for ifindex in bare {
            self.bare_since.entry(*ifindex).or_insert(now);
        }
    }

    /// Whether a veth may get one.
    pub(super) fn is_over(&self, ifindex: u32, now: Instant) -> bool {
        let since = self.bare_since.get(&ifindex);
        since.is_none_or(|since| now.duration_since(*since) >= GRACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_veth_is_left_alone_and_one_with_clsact_is_not() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut grace = Grace::default();
        grace.note(&[7].into(), start);
        grace.note(&[7, 8].into(), after(4));
        assert!(!grace.is_over(7, after(4)));
        assert!(grace.is_over(7, after(5)));
        assert!(!grace.is_over(8, after(8)));
        assert!(grace.is_over(9, start), "it has one");
        // The index of a veth that is gone, used again.
        grace.note(&[].into(), after(9));
        grace.note(&[7].into(), after(10));
        assert!(!grace.is_over(7, after(11)));
    }
}
