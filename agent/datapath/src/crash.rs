//! Where tests cut the agent off: it dies after as many steps as `TWILL_CRASH_AFTER` says, as by
//! SIGKILL. Only with the feature `crash-points`; without it nothing of this is in the binary.

/// A step is done.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub fn point(_step: &str) {}

/// How many steps of many may be done in one go.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub fn at_once(many: usize) -> usize {
    many.max(1)
}

#[cfg(feature = "crash-points")]
pub use armed::{at_once, point};

#[cfg(feature = "crash-points")]
mod armed {
    use std::env;
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::sys::signal::{Signal, raise};

    static DONE: AtomicU64 = AtomicU64::new(0);

    /// A step is done; if it is the one, the process ends here.
    pub fn point(step: &str) {
        let done = DONE.fetch_add(1, Ordering::Relaxed) + 1;
        let last = env::var("TWILL_CRASH_AFTER").ok();
        if last.and_then(|last| last.parse().ok()) == Some(done) {
            tracing::error!(step, done, "cut off");
            if let Err(error) = raise(Signal::SIGKILL) {
                tracing::error!(%error, "still alive");
            }
        }
    }

    /// One at a time, so that it can be cut off after each.
    pub fn at_once(_many: usize) -> usize {
        1
    }
}
