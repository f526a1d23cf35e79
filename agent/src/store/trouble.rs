//! A row of failures: how long to wait after each, and which of them is news.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// How many different things are said of one row: whoever makes each failure look new fills no
/// log.
const SAID: usize = 16;

/// How often a sign of life makes the pauses short again, while the failures go on: often enough
/// for a server that is started twice, too seldom for one that breaks off every time.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);

/// Failures since the last time that all was well for a while.
#[derive(Debug)]
pub(super) struct Trouble {
    first_pause: Duration,
    longest_pause: Duration,
    pauses: ExponentialBackoff,
    said: BTreeSet<String>,
    /// When a sign of life last made the pauses short.
    lived_at: Option<Instant>,
}

impl Trouble {
    /// None yet. Pauses grow from the first to the longest, with jitter on top.
    pub(super) fn new(first_pause: Duration, longest_pause: Duration) -> Self {
        Self {
            first_pause,
            longest_pause,
            pauses: pauses(first_pause, longest_pause),
            said: BTreeSet::new(),
            lived_at: None,
        }
    }

    /// Something worked, which may not be for long.
    pub(super) fn lives(&mut self, now: Instant) {
        let lately = self
            .lived_at
            .is_some_and(|at| now.saturating_duration_since(at) < SIGN_OF_LIFE);
        if !lately {
            self.lived_at = Some(now);
            self.pauses = pauses(self.first_pause, self.longest_pause);
        }
    }

    /// One more: how long to wait before the next attempt.
    pub(super) fn pause(&mut self) -> Duration {
        self.pauses.next().unwrap_or(self.longest_pause)
    }

    /// Whether this has not been said since the row began.
    pub(super) fn is_news(&mut self, what: &str) -> bool {
        self.said.len() < SAID && self.said.insert(what.to_owned())
    }

    /// All has been well for a while: the row is over. Gives whether anything was said of it.
    pub(super) fn is_over(&mut self) -> bool {
        self.lived_at = None;
        self.pauses = pauses(self.first_pause, self.longest_pause);
        !std::mem::take(&mut self.said).is_empty()
    }
}

fn pauses(first: Duration, longest: Duration) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(first)
        .with_max_delay(longest)
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_the_row_is_over() {
        let mut trouble = Trouble::new(Duration::from_millis(100), Duration::from_secs(5));
        let first = trouble.pause();
        for _ in 0..10 {
            trouble.pause();
        }
        assert!(trouble.pause() >= Duration::from_secs(5));
        trouble.is_over();
        assert!(trouble.pause() < Duration::from_secs(1));
        assert!(first < Duration::from_secs(1));
    }

    #[test]
    fn a_sign_of_life_makes_pauses_short_but_not_every_time() {
        let mut trouble = Trouble::new(Duration::from_millis(100), Duration::from_secs(5));
        let begin = Instant::now();
        let mut waited = Duration::ZERO;
        let mut failures = 0;
        while waited < Duration::from_mins(5) {
            trouble.lives(begin + waited);
            waited += trouble.pause();
            failures += 1;
        }
        assert!((60..=150).contains(&failures), "{failures} in 5 min");
    }

    #[test]
    fn each_thing_is_said_once_a_row_and_not_too_many() {
        let mut trouble = Trouble::new(Duration::from_secs(1), Duration::from_secs(1));
        assert!(trouble.is_news("refused"));
        assert!(!trouble.is_news("refused"));
        assert!(trouble.is_news("timed out"));
        assert!(!trouble.is_news("refused"), "two that alternate");
        assert!(trouble.is_over());
        assert!(!trouble.is_over());
        assert!(trouble.is_news("refused"));
        let said = (0..1000).filter(|number| trouble.is_news(&number.to_string()));
        assert_eq!(said.count(), SAID - 1);
    }
}
