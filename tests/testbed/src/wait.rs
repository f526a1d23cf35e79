//! Waiting: always for a condition, never without a deadline.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How often a condition is asked.
const INTERVAL: Duration = Duration::from_millis(10);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How many times longer than usual everything may take: a number, for emulated machines.
const PATIENCE: &str = "TWILL_PATIENCE";

fn patience() -> Result<u32> {
    let Ok(text) = std::env::var(PATIENCE) else {
        return Ok(1);
    };
    text.parse().with_context(|| format!("{PATIENCE}={text}"))
}

/// Ends every wait of this process with an error: somebody pressed Ctrl-C.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// An error once [`interrupt`] was called.
pub fn check_interrupt() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Waits until `condition` holds. `what` says in the error what did not come true.
pub fn wait_until(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<()> {
    wait_for(what, deadline, || Ok(condition().then_some(())))
}

/// Waits until `attempt` gives a value. An error of the last attempt is part of the
/// error when the deadline passes: an attempt may fail until then.
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = deadline * patience()?;
    let end = Instant::now() + deadline;
    loop {
        check_interrupt()?;
        let last = match attempt() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() >= end {
            let text = format!("waited {deadline:?} in vain until {what}");
            return Err(match last {
                Some(error) => error.context(text),
                None => anyhow::Error::msg(text),
            });
        }
        sleep(INTERVAL);
    }
}

/// Lets `duration` pass, for something that runs beside; ends early on an interrupt.
pub fn pass(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    loop {
        check_interrupt()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        sleep(left.min(INTERVAL));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_true_is_not_waited_for_longer() {
        let mut calls = 0;
        wait_until("three calls", Duration::from_secs(5), || {
            calls += 1;
            calls == 3
        })
        .unwrap();
        assert_eq!(calls, 3);
    }

    #[test]
    fn the_deadline_names_the_condition_and_the_last_error() {
        let error = wait_for::<()>("the sky falls", Duration::from_millis(30), || {
            bail!("it holds")
        })
        .unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("until the sky falls"), "{text}");
        assert!(text.contains("it holds"), "{text}");
    }
}
