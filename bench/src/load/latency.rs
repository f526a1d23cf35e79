//! Times from request to answer, and their percentiles.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::stats::{float, quantile};

/// Percentiles of the times from request to answer, microseconds.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half of the answers took no longer.
    pub p50: f64,
    /// 99 % took no longer.
    pub p99: f64,
    /// 99.9 % took no longer.
    pub p999: f64,
    /// How many were timed.
    pub timed: u64,
}

/// Times as they come, nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.push(float(nanoseconds));
    }

    pub(crate) fn append(&mut self, other: &mut Self) {
        self.0.append(&mut other.0);
    }

    /// None of none.
    pub(crate) fn percentiles(mut self) -> Option<Percentiles> {
        self.0.sort_by(f64::total_cmp);
        let at = |share| quantile(&self.0, share).map(|ns| ns / 1000.0);
        Some(Percentiles {
            p50: at(0.5)?,
            p99: at(0.99)?,
            p999: at(0.999)?,
            timed: self.0.len() as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_all_times() {
        let mut times = Times::default();
        for microseconds in (0..=1000).rev() {
            times.add(Duration::from_micros(microseconds));
        }
        let found = times.percentiles().unwrap();
        assert!((found.p50 - 500.0).abs() < 1e-6, "{found:?}");
        assert!((found.p99 - 990.0).abs() < 1e-6, "{found:?}");
        assert!((found.p999 - 999.0).abs() < 1e-6, "{found:?}");
        assert_eq!(found.timed, 1001);
        assert_eq!(Times::default().percentiles(), None);
    }
}
