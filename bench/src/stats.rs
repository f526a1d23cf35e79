//! Medians, quartiles, and how sure one may be of a ratio.
//!
//! A ratio is taken within each round, because only what was measured side by side may be
//! compared; what is told is the median of those ratios, with a 95 % interval by bootstrap
//! (percentiles of the medians of resampled rounds).

use serde::{Deserialize, Serialize};

/// Resamples of a bootstrap.
const RESAMPLES: usize = 10_000;
/// Share of the resamples left out on each side of the interval.
const TAIL: f64 = 0.025;
/// Any fixed number: the same samples give the same interval.
const SEED: u64 = 0x5477_696c_6c21;
/// Fewer rounds than this are too few for an interval of 95 %: below six, even the whole
/// range of the samples covers the true median less often than that.
pub const FEWEST_ROUNDS: usize = 6;

/// A median with its surroundings.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The first quartile.
    pub lower: f64,
    /// The third quartile.
    pub upper: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// Of some values; none of none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        Some(Self {
            median: quantile(&sorted, 0.5)?,
            lower: quantile(&sorted, 0.25)?,
            upper: quantile(&sorted, 0.75)?,
            least: *sorted.first()?,
            most: *sorted.last()?,
        })
    }
}

/// The median of the rounds' ratios, and the interval that it lies in.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Interval {
    /// The median.
    pub median: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Of the ratios of some rounds; none of none.
    pub fn of(ratios: &[f64]) -> Option<Self> {
        let median = median(ratios)?;
        let mut random = SplitMix::new(SEED);
        let mut resample = vec![0.0; ratios.len()];
        let mut medians = Vec::with_capacity(RESAMPLES);
        for _ in 0..RESAMPLES {
            for place in &mut resample {
                *place = *ratios.get(random.below(ratios.len()))?;
            }
            medians.push(self::median(&resample)?);
        }
        let medians = sorted(&medians);
        Some(Self {
            median,
            low: quantile(&medians, TAIL)?,
            high: quantile(&medians, 1.0 - TAIL)?,
        })
    }

    /// Whether the interval includes 1: no difference was shown.
    pub fn is_no_difference(&self) -> bool {
        self.low <= 1.0 && self.high >= 1.0
    }
}

/// The median; of an even number of values the mean of the middle two.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(&sorted(values), 0.5)
}

/// The mean of the middle half: as deaf to outliers as the median nearly is, and finer than the
/// clock that the values were read from.
pub fn midmean(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
    let quarter = sorted.len() / 4;
    let middle = sorted.get(quarter..sorted.len() - quarter)?;
    if middle.is_empty() {
        return None;
    }
    Some(middle.iter().sum::<f64>() / float(middle.len() as u64))
}

/// A quantile of sorted values, between neighbours by proportion.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = share.clamp(0.0, 1.0) * float(last as u64);
    let below = floor(place);
    let low = *sorted.get(below)?;
    let high = *sorted.get((below + 1).min(last))?;
    Some(low + (high - low) * (place - float(below as u64)))
}

/// The values in order; what is not a number is not among them.
pub fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<_> = values.iter().copied().filter(|v| !v.is_nan()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// A count as a figure.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of packets and nanoseconds stay far below 2^53"
)]
pub fn float(count: u64) -> f64 {
    count as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place in a list: not negative, and far below 2^53"
)]
fn floor(place: f64) -> usize {
    place.floor() as usize
}

/// `SplitMix64` (Steele, Lea, Flood 2014): enough to choose rounds and orders by.
#[derive(Debug)]
pub(crate) struct SplitMix(u64);

impl SplitMix {
    /// The same seed gives the same numbers.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Puts the values into another order (Fisher and Yates).
    pub(crate) fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            values.swap(last, self.below(last + 1));
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        // The high half of the product: no bias worth the name for so few rounds.
        let wide = u128::from(word) * (bound as u128);
        usize::try_from(wide >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert!(about(median(&[3.0, 1.0, 2.0]).unwrap(), 2.0));
        assert!(about(median(&[4.0, 1.0, 2.0, 3.0]).unwrap(), 2.5));
        assert_eq!(median(&[]), None);
        assert!(about(median(&[f64::NAN, 7.0]).unwrap(), 7.0));
    }

    #[test]
    fn the_midmean_is_deaf_to_both_ends() {
        let values = [10.0, 20.0, 20.0, 10.0, 20.0, 20.0, 9999.0, 0.0];
        assert!(about(midmean(&values).unwrap(), 17.5));
        assert_eq!(midmean(&[]), None);
    }

    #[test]
    fn the_spread_has_quartiles_and_ends() {
        let spread = Spread::of(&[5.0, 1.0, 2.0, 3.0, 4.0]).unwrap();
        assert!(about(spread.lower, 2.0) && about(spread.upper, 4.0));
        assert!(about(spread.least, 1.0) && about(spread.most, 5.0));
    }

    #[test]
    fn rounds_that_agree_give_a_narrow_interval() {
        let interval = Interval::of(&[1.40, 1.41, 1.39, 1.40, 1.42, 1.38]).unwrap();
        assert!(about(interval.median, 1.40));
        assert!(interval.low >= 1.38 && interval.high <= 1.42);
        assert!(!interval.is_no_difference());
    }

    #[test]
    fn rounds_that_disagree_show_no_difference() {
        let interval = Interval::of(&[0.8, 1.3, 0.9, 1.2, 1.1, 0.95]).unwrap();
        assert!(interval.is_no_difference(), "{interval:?}");
    }

    #[test]
    fn a_slower_subject_is_told_from_noise() {
        let interval = Interval::of(&[0.90, 0.93, 0.91, 0.95, 0.89, 0.92]).unwrap();
        assert!(interval.high < 1.0, "{interval:?}");
    }

    #[test]
    fn six_rounds_on_one_side_are_enough_and_one_outlier_does_not_turn_them() {
        let interval = Interval::of(&[1.2, 1.25, 1.22, 1.3, 0.4, 1.21, 1.24, 1.26]).unwrap();
        assert!(interval.low > 1.0, "{interval:?}");
    }

    #[test]
    fn the_same_samples_give_the_same_interval() {
        let ratios = [1.0, 1.1, 0.97, 1.05, 1.2];
        assert_eq!(Interval::of(&ratios), Interval::of(&ratios));
        assert_eq!(Interval::of(&[]), None);
    }

    /// Of intervals over rounds drawn around 1, nearly all must include 1.
    #[test]
    fn the_interval_covers_the_truth_about_as_often_as_it_says() {
        let mut random = SplitMix::new(7);
        let mut covered = 0_u32;
        for _ in 0..60 {
            let ratios: Vec<f64> = (0..10)
                .map(|_| 0.9 + float(random.below(2001) as u64) * 0.0001)
                .collect();
            covered += u32::from(Interval::of(&ratios).unwrap().is_no_difference());
        }
        assert!(covered >= 52, "{covered} of 60");
    }
}
