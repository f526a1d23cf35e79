//! Trying until it works, and saying why it does not without filling the log.

use std::fmt::Display;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::time::Instant;
use tracing::{info, warn};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often an error that stays the same is repeated.
const REPEAT: Duration = Duration::from_mins(1);

/// Pauses between attempts: from a second to ten, with jitter, for ever.
pub(super) fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::new()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Tries `attempt` until it works. `failure` says in words what went wrong when it does not,
/// `failed` hears of each error.
pub(super) async fn until_done<T, E: Display>(
    failure: &str,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
    mut failed: impl FnMut(&str),
) -> T {
    let mut pauses = pauses();
    let mut said: Option<(String, Instant)> = None;
    loop {
        let error = match attempt().await {
            Ok(done) => {
                if said.is_some() {
                    info!(before = failure, "done at last");
                }
                return done;
            }
            Err(error) => error.to_string(),
        };
        failed(&error);
        let fresh = said
            .as_ref()
            .is_none_or(|(old, at)| *old != error || at.elapsed() >= REPEAT);
        if fresh {
            warn!("{failure}: {error}; trying again");
            said = Some((error, Instant::now()));
        }
        tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_tries_again_and_tells_each_error() {
        let mut left = 3;
        let mut heard = Vec::new();
        let done = until_done(
            "a test failed",
            || {
                left -= 1;
                let left = left;
                async move {
                    if left == 0 {
                        Ok("done")
                    } else {
                        Err(format!("{left} more"))
                    }
                }
            },
            |error| heard.push(error.to_owned()),
        )
        .await;
        assert_eq!(done, "done");
        assert_eq!(heard, ["2 more", "1 more"]);
    }
}
