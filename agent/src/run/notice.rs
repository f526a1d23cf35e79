//! What systemd is told, where it started us and asks: `READY=1` as flanneld, a line of status,
//! and signs of life for `WatchdogSec=`.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;
use tracing::debug;

/// What systemd has been told.
#[derive(Debug, Default)]
pub(super) struct Notice {
    status: String,
    last_sign: Option<Instant>,
}

impl Notice {
    /// The agent has its lease and has told CNI plugins.
    pub(super) fn ready() {
        tell(&[NotifyState::Ready]);
    }

    /// The agent stops.
    pub(super) fn stopping() {
        tell(&[NotifyState::Stopping]);
    }

    /// What the agent does, in a few words.
    pub(super) fn status(&mut self, status: String) {
        if self.status != status {
            tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// The agent's loop goes round. To be called more often than systemd wants to hear it.
    pub(super) fn alive(&mut self) {
        let Some(patience) = sd_notify::watchdog_enabled() else {
            return;
        };
        let due = |last: Instant| last.elapsed() + Duration::from_secs(1) >= patience / 2;
        if self.last_sign.is_none_or(due) {
            tell(&[NotifyState::Watchdog]);
            self.last_sign = Some(Instant::now());
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    // Without NOTIFY_SOCKET nothing is done, and without systemd nothing is lost.
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "systemd is not told");
    }
}
