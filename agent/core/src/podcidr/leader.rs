//! Who of several controllers works: leader election by a Lease, as client-go does it
//! (`tools/leaderelection`), so that ours and others understand one another.
//!
//! Clocks of others are not trusted: what counts is when a change of the Lease was seen here.

use std::time::Duration;

/// How long things hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Times {
    /// How long others wait after the leader was heard of last.
    pub lease: Duration,
    /// How long a leader that cannot renew goes on.
    pub renew: Duration,
    /// Between two attempts.
    pub retry: Duration,
}

impl Times {
    /// What would let two be leaders at once.
    pub fn wrong(&self) -> Option<&'static str> {
        if self.lease <= self.renew {
            Some("--leader-elect-lease-duration must be greater than --leader-elect-renew-deadline")
        } else if self.renew <= self.retry.mul_f64(1.2) {
            Some(
                "--leader-elect-renew-deadline must be greater than 1.2 times \
                 --leader-elect-retry-period",
            )
        } else {
            None
        }
    }
}

/// A Lease, as it is stored.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LeaseRecord {
    /// Its holder; empty: it was given back.
    pub holder: String,
    /// How long it is good for, by its holder's word.
    pub seconds: u32,
    /// When its holder renewed it, by the holder's clock: as text, for comparison alone.
    pub renewed: String,
    /// How often the holder changed.
    pub transitions: u32,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Move {
    /// Write ourselves in; `taken`: from another holder, or from none.
    Take {
        /// Whether the holder changes.
        taken: bool,
    },
    /// Somebody else is leader.
    Wait,
}

/// One of several.
#[derive(Debug)]
pub struct Candidate {
    identity: String,
    times: Times,
    seen: Option<(LeaseRecord, Duration)>,
    /// When we wrote last.
    renewed: Option<Duration>,
}

impl Candidate {
    /// Not leader.
    pub fn new(identity: String, times: Times) -> Self {
        Self {
            identity,
            times,
            seen: None,
            renewed: None,
        }
    }

    /// Who we are.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// What to do about a Lease as it was read now; `None`: there is none.
    pub fn look(&mut self, record: Option<&LeaseRecord>, now: Duration) -> Move {
        let Some(record) = record else {
            return Move::Take { taken: true };
        };
        let is_news = self.seen.as_ref().is_none_or(|(seen, _)| seen != record);
        if is_news {
            self.seen = Some((record.clone(), now));
        }
        if record.holder == self.identity {
            return Move::Take { taken: false };
        }
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        let lasts = Duration::from_secs(record.seconds.into());
        if record.holder.is_empty() || now.saturating_sub(since) >= lasts {
            Move::Take { taken: true }
        } else {
            Move::Wait
        }
    }

    /// Our name was written into the Lease by a request that began at `begun`.
    pub fn written(&mut self, begun: Duration) {
        self.renewed = Some(begun);
    }

    /// Somebody else holds it, or we have given it back.
    pub fn lost(&mut self) {
        self.renewed = None;
    }

    /// Whether we are leader: we were heard of within the time after which others still wait.
    pub fn is_leader(&self, now: Duration) -> bool {
        let within = |at: Duration| now.saturating_sub(at) < self.times.renew;
        self.renewed.is_some_and(within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times {
        lease: Duration::from_secs(15),
        renew: Duration::from_secs(10),
        retry: Duration::from_secs(2),
    };

    const fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    fn record(holder: &str, renewed: &str) -> LeaseRecord {
        LeaseRecord {
            holder: holder.to_owned(),
            seconds: 15,
            renewed: renewed.to_owned(),
            transitions: 3,
        }
    }

    #[test]
    fn a_free_lease_is_taken_and_our_own_renewed() {
        let mut us = Candidate::new("us".to_owned(), TIMES);
        assert_eq!(us.look(None, at(0)), Move::Take { taken: true });
        assert!(!us.is_leader(at(0)));
        us.written(at(0));
        assert!(us.is_leader(at(9)) && !us.is_leader(at(10)));
        assert_eq!(
            us.look(Some(&record("us", "0")), at(2)),
            Move::Take { taken: false }
        );
        assert_eq!(
            us.look(Some(&record("", "0")), at(2)),
            Move::Take { taken: true }
        );
    }

    /// Counted from when the change was seen here, whatever the holder's clock says.
    #[test]
    fn anothers_lease_is_taken_when_nothing_was_heard_for_its_time() {
        let mut us = Candidate::new("us".to_owned(), TIMES);
        assert_eq!(us.look(Some(&record("them", "1970")), at(100)), Move::Wait);
        assert_eq!(us.look(Some(&record("them", "1970")), at(114)), Move::Wait);
        assert_eq!(us.look(Some(&record("them", "1971")), at(114)), Move::Wait);
        assert_eq!(us.look(Some(&record("them", "1971")), at(128)), Move::Wait);
        assert_eq!(
            us.look(Some(&record("them", "1971")), at(129)),
            Move::Take { taken: true }
        );
    }

    #[test]
    fn never_are_two_leaders_at_once() {
        // One writes at 0 and is cut off; the other one hears of it at 0 at the earliest.
        let (mut one, mut other) = (
            Candidate::new("1".to_owned(), TIMES),
            Candidate::new("2".to_owned(), TIMES),
        );
        one.written(at(0));
        for second in 0..40 {
            if other.look(Some(&record("1", "0")), at(second)) != Move::Wait {
                other.written(at(second));
                assert!(!one.is_leader(at(second)), "second {second}");
            }
        }
        assert!(other.is_leader(at(39)));
    }

    #[test]
    fn times_that_cannot_be_are_told() {
        assert_eq!(TIMES.wrong(), None);
        assert!(
            Times {
                renew: at(15),
                ..TIMES
            }
            .wrong()
            .is_some()
        );
        assert!(
            Times {
                retry: at(9),
                ..TIMES
            }
            .wrong()
            .is_some()
        );
    }
}
