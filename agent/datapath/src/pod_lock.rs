//! One at a time says which pods there are and attaches programs to them: the daemon, or the CNI
//! plugin, which may come at any moment and may come many times at once.
//!
//! Without it the daemon, which has looked at the links before a plugin wired a pod, would take
//! what the plugin enters for a leftover, and take it away for a moment.

use std::fs::{File, TryLockError};
use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::pins::Pins;

/// How long between two tries.
const PAUSE: Duration = Duration::from_millis(2);

/// Held until it is dropped, or its process ends.
#[derive(Debug)]
pub struct PodLock(#[expect(dead_code, reason = "it is locked as long as it is open")] File);

impl PodLock {
    /// Waits for it as long as `patience` says: `None` if somebody else has it all the while.
    pub async fn take(pins: &Pins, patience: Duration) -> io::Result<Option<Self>> {
        let folder = File::open(pins.current())?;
        let last = Instant::now() + patience;
        loop {
            match folder.try_lock() {
                Ok(()) => return Ok(Some(Self(folder))),
                Err(TryLockError::WouldBlock) if Instant::now() < last => sleep(PAUSE).await,
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }
}
