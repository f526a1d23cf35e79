//! The server's clock: the time of day, without its jumps.

use std::time::{Duration, Instant, SystemTime};

/// Milliseconds since 1970, by [`Clock`].
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Timestamp(pub(super) u64);

impl Timestamp {
    /// This much later.
    pub(super) fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(milliseconds(time)))
    }

    /// The time from `earlier` until `self`; zero if that lies behind.
    pub(super) fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// The time of day is read once, at start; from there it counts on by the monotonic clock.
/// Setting the host's clock therefore ends no lease of a running server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    started: Timestamp,
    origin: Instant,
}

impl Clock {
    /// Starts at the time of day.
    pub(super) fn start() -> Self {
        // A clock before 1970 counts as 1970: loaded leases are bounded by their term anyway.
        let today = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            started: Timestamp(milliseconds(today)),
            origin: Instant::now(),
        }
    }

    /// Now.
    pub(super) fn now(&self) -> Timestamp {
        self.started.after(self.origin.elapsed())
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
