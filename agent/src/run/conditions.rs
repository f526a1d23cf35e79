//! The node's conditions, gathered from those who see them and told in the log.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tracing::{info, warn};
use twill_core::condition::Condition;

use super::agent::Agent;

impl Agent {
    /// Gathers what is the case now, and says what is news.
    pub(super) fn look_at_conditions(&mut self) {
        let lease = self.contact.condition();
        let claims = self
            .state
            .claims_against_us()
            .map(Condition::LeaseContradicted);
        let overruled = self.traffic.overruled().map(Condition::ForwardDropped);
        let found = lease.into_iter().chain(claims).chain(overruled);
        let found: Vec<Condition> = found.collect();
        let news = self.conditions.set(found, uptime());
        for condition in &news.begun {
            warn!(condition = condition.kind().label(), "{condition}");
        }
        for kind in &news.over {
            info!(condition = kind.label(), "this is over");
        }
    }
}

/// How long the machine has been up, with the time that it slept.
pub(super) fn uptime() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}
