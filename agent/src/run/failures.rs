//! What failed: since everything was tried last, in words; since the start, by kind.

use std::collections::BTreeMap;
use std::error::Error;

use tracing::error;
use twill_core::chain::chain;

/// How many failures of one pass are told in words.
const TOLD: usize = 10;

/// Failures since the last pass that tried everything, and counts since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Failures {
    by_kind: BTreeMap<String, u64>,
    present: Vec<String>,
    before: Vec<String>,
    left_out: usize,
}

impl Failures {
    /// A pass begins that tries everything again: what failed before counts no more.
    pub(super) fn begin(&mut self) {
        self.before = std::mem::take(&mut self.present);
        self.left_out = 0;
    }

    /// Something failed. It is logged if it did not fail in the pass before.
    pub(super) fn add(&mut self, kind: &str, failure: &(dyn Error + 'static)) {
        self.count(kind);
        let text = chain(failure);
        if self.present.contains(&text) {
            return;
        }
        if self.present.len() >= TOLD {
            self.left_out += 1;
            return;
        }
        if !self.before.contains(&text) {
            error!(kind, error = text, "will be tried again");
        }
        self.present.push(text);
    }

    /// Something failed that is told elsewhere.
    pub(super) fn count(&mut self, kind: &str) {
        *self.by_kind.entry(kind.to_owned()).or_default() += 1;
    }

    /// Whether nothing failed since everything was tried last.
    pub(super) fn is_empty(&self) -> bool {
        self.present.is_empty()
    }

    /// The failures since everything was tried last, in words.
    pub(super) fn texts(&self) -> Vec<String> {
        let mut texts = self.present.clone();
        if self.left_out > 0 {
            texts.push(format!("and {} more", self.left_out));
        }
        texts
    }

    /// Counts since the start, by kind.
    pub(super) fn by_kind(&self) -> &BTreeMap<String, u64> {
        &self.by_kind
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_pass_tells_its_own_failures_and_counts_stay() {
        let mut failures = Failures::default();
        failures.begin();
        for number in 0..12 {
            failures.add("x", &io::Error::other(format!("failure {number}")));
        }
        assert_eq!(failures.texts().len(), 11);
        assert_eq!(failures.texts()[10], "and 2 more");
        failures.add("x", &io::Error::other("failure 3"));
        assert_eq!(failures.texts()[10], "and 2 more", "told once");
        assert_eq!(failures.by_kind().get("x"), Some(&13));
        failures.begin();
        assert!(failures.is_empty());
        assert_eq!(failures.by_kind().get("x"), Some(&13));
    }
}
