//! What flows may do, concluded from one look at netfilter after the other.
//!
//! One look that fails changes nothing: `nft` is a process that may be killed or kept waiting,
//! and a permit needs netfilter's mark every few seconds anyway, so rules that are really gone
//! make flows slow by themselves. The second failure in a row ends the fast path.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};
use twill_abi::{CONFIG_FLAG_STALE, CONFIG_FLAG_TCP_PERMITS, Config, FastPath, Mode};

use super::patience::pauses;
use crate::datapath::operator;

/// What flows may do right now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Allowed {
    pub(super) fast_path: FastPath,
    pub(super) permit_time: Duration,
    pub(super) tcp_permits: bool,
}

impl Allowed {
    /// Nothing is fast.
    fn nothing(permit_time: Duration) -> Self {
        Self {
            fast_path: FastPath::Off,
            permit_time,
            tcp_permits: false,
        }
    }

    /// What the programs have been told; nothing, where `config` is zero.
    pub(super) fn told(config: &Config) -> Self {
        let holds = config.mode == Mode::Bpf as u32 && config.flags & CONFIG_FLAG_STALE == 0;
        Self {
            fast_path: if holds {
                operator::fast_path(config.fast_path)
            } else {
                FastPath::Off
            },
            permit_time: Duration::from_nanos(config.permit_ns),
            tcp_permits: config.flags & CONFIG_FLAG_TCP_PERMITS != 0,
        }
    }
}

/// What conntrack lets flows do while BPF carries them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Rest {
    /// How long a permit may last.
    pub(super) permit_time: Result<Duration, String>,
    /// Whether TCP may have permits.
    pub(super) tcp: Result<(), String>,
}

/// What flows may do, and why not more.
pub(super) struct Outlook {
    /// The longest permit time.
    permit_time: Duration,
    allowed: Allowed,
    trouble: Option<String>,
    /// Looks at the table since the last that went well.
    failed: u32,
    /// Whether nothing has been looked at.
    is_new: bool,
    pauses: Box<dyn Iterator<Item = Duration> + Send>,
    retry_at: Option<Instant>,
}

impl Outlook {
    /// Nothing is known: nothing is allowed.
    pub(super) fn new(permit_time: Duration) -> Self {
        Self {
            permit_time,
            allowed: Allowed::nothing(permit_time),
            trouble: None,
            failed: 0,
            is_new: true,
            pauses: Box::new(pauses()),
            retry_at: None,
        }
    }

    pub(super) fn allowed(&self) -> Allowed {
        self.allowed
    }

    /// Why flows may do less than is wanted, or soon will.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Whether it is time to look again at what was not in order.
    pub(super) fn is_due(&self) -> bool {
        self.retry_at
            .is_some_and(|retry_at| Instant::now() >= retry_at)
    }

    /// What an earlier start allowed holds until the first look, if it is what is `wanted` now.
    pub(super) fn remember(&mut self, wanted: FastPath, told: Allowed) {
        if self.is_new && told.fast_path == wanted {
            self.allowed = Allowed {
                permit_time: told.permit_time.min(self.permit_time),
                ..told
            };
        }
    }

    /// Concludes from a look at the table, and at conntrack where that matters.
    pub(super) fn take(
        &mut self,
        wanted: FastPath,
        table: Result<(), String>,
        rest: impl FnOnce() -> Rest,
    ) {
        self.is_new = false;
        self.failed = if table.is_ok() { 0 } else { self.failed + 1 };
        let forgiven = self.failed == 1 && self.allowed.fast_path == wanted;
        let (allowed, trouble) = match table {
            Err(error) if !forgiven => (
                Allowed::nothing(self.permit_time),
                Some(format!("the fast path is off: {error}")),
            ),
            table => {
                let (allowed, trouble) = self.with_conntrack(wanted, rest());
                let doubt = table
                    .err()
                    .map(|error| format!("the fast path will be off unless this passes: {error}"));
                (allowed, trouble.or(doubt))
            }
        };
        self.allowed = allowed;
        self.tell(trouble);
    }

    /// What a table that is in force allows.
    fn with_conntrack(&self, wanted: FastPath, rest: Rest) -> (Allowed, Option<String>) {
        let permit_time = match rest.permit_time {
            Ok(permit_time) => permit_time,
            Err(error) => {
                let trouble = format!("the fast path is off: {error}");
                return (Allowed::nothing(self.permit_time), Some(trouble));
            }
        };
        let allowed = Allowed {
            fast_path: wanted,
            permit_time,
            tcp_permits: rest.tcp.is_ok(),
        };
        let trouble = rest
            .tcp
            .err()
            .map(|error| format!("no permits for TCP: {error}"));
        (allowed, trouble)
    }

    fn tell(&mut self, trouble: Option<String>) {
        if trouble != self.trouble {
            if let Some(reason) = &trouble {
                warn!(reason, "the fast path is in trouble; trying again");
            } else {
                info!("flows may be fast again");
            }
        }
        if trouble.is_none() {
            self.pauses = Box::new(pauses());
            self.retry_at = None;
        } else {
            self.retry_at = self.pauses.next().map(|pause| Instant::now() + pause);
        }
        self.trouble = trouble;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PERMIT: FastPath = FastPath::Permit;

    fn fine() -> Rest {
        Rest {
            permit_time: Ok(5 * SECOND),
            tcp: Ok(()),
        }
    }

    fn full() -> Allowed {
        Allowed {
            fast_path: PERMIT,
            permit_time: 5 * SECOND,
            tcp_permits: true,
        }
    }

    fn failed() -> Result<(), String> {
        Err("nft was killed".to_owned())
    }

    /// One that has found everything in order.
    fn settled() -> Outlook {
        let mut outlook = Outlook::new(10 * SECOND);
        outlook.take(PERMIT, Ok(()), fine);
        assert_eq!(outlook.allowed(), full());
        assert_eq!(outlook.trouble(), None);
        outlook
    }

    #[tokio::test(start_paused = true)]
    async fn one_failure_changes_nothing_and_is_looked_at_again_soon() {
        let mut outlook = settled();
        assert!(!outlook.is_due());
        outlook.take(PERMIT, failed(), fine);
        assert_eq!(outlook.allowed(), full());
        assert!(outlook.trouble().unwrap().contains("nft was killed"));
        tokio::time::advance(2 * SECOND).await;
        assert!(outlook.is_due());
        outlook.take(PERMIT, Ok(()), fine);
        assert_eq!((outlook.allowed(), outlook.trouble()), (full(), None));
        assert!(!outlook.is_due());
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_failure_ends_the_fast_path_until_a_look_goes_well() {
        let mut outlook = settled();
        outlook.take(PERMIT, failed(), fine);
        outlook.take(PERMIT, failed(), fine);
        assert_eq!(outlook.allowed(), Allowed::nothing(10 * SECOND));
        outlook.take(PERMIT, failed(), fine);
        assert_eq!(outlook.allowed(), Allowed::nothing(10 * SECOND));
        outlook.take(PERMIT, Ok(()), fine);
        assert_eq!(outlook.allowed(), full());
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_goes_on_with_what_the_programs_were_told() {
        let mut outlook = Outlook::new(10 * SECOND);
        outlook.remember(PERMIT, full());
        outlook.take(PERMIT, failed(), fine);
        assert_eq!(outlook.allowed(), full());
        // Not again: what the programs are told now is our own word.
        outlook.take(PERMIT, failed(), fine);
        outlook.remember(PERMIT, full());
        assert_eq!(outlook.allowed(), Allowed::nothing(10 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_allowed_that_was_not_before_or_is_not_wanted() {
        for told in [
            Allowed::nothing(SECOND),
            Allowed {
                fast_path: FastPath::Direct,
                ..full()
            },
        ] {
            let mut outlook = Outlook::new(10 * SECOND);
            outlook.remember(PERMIT, told);
            outlook.take(PERMIT, failed(), fine);
            assert_eq!(outlook.allowed(), Allowed::nothing(10 * SECOND), "{told:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn conntrack_is_not_forgiven_and_is_looked_at_again_soon() {
        let mut outlook = settled();
        let no_tcp = || Rest {
            tcp: Err("read-only".to_owned()),
            ..fine()
        };
        outlook.take(PERMIT, Ok(()), no_tcp);
        assert!(!outlook.allowed().tcp_permits);
        tokio::time::advance(2 * SECOND).await;
        assert!(outlook.is_due());
        let no_time = || Rest {
            permit_time: Err("0 s".to_owned()),
            ..fine()
        };
        outlook.take(PERMIT, Ok(()), no_time);
        assert_eq!(outlook.allowed(), Allowed::nothing(10 * SECOND));
    }
}
