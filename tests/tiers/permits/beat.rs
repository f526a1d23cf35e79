//! A flow that is asked on and on beside the test: when the last answer came, and whether that was
//! soon enough after a rule has forbidden the flow.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use twill_testbed::wait::{pass, wait_until};

use crate::lab::{Kind, Lab, PERMIT_TIME, SECONDS, SLACK};
use crate::talk::Flow;

/// How long one answer is waited for.
const PATIENCE: Duration = Duration::from_millis(50);
/// Between two requests: steady traffic that leaves the machine some room.
const PACE: Duration = Duration::from_millis(2);

/// A flow with a thread of its own, until dropped.
pub(crate) struct Beat {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    answers: AtomicU64,
    last: Mutex<Option<Instant>>,
}

impl Beat {
    pub(crate) fn start(mut flow: Flow) -> Self {
        flow.set_patience(PATIENCE);
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || {
            while !shared.stop.load(Ordering::Relaxed) {
                // A refused or reset connection is one without an answer.
                if flow.ask().is_ok() {
                    let mut last = shared.last.lock().unwrap_or_else(PoisonError::into_inner);
                    *last = Some(Instant::now());
                    shared.answers.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(PACE);
            }
        });
        Self {
            state,
            thread: Some(thread),
        }
    }

    /// Answers so far.
    pub(crate) fn answers(&self) -> u64 {
        self.state.answers.load(Ordering::Relaxed)
    }

    /// Waits for a hundred more answers.
    pub(crate) fn wait_more(&self, what: &str) -> Result<()> {
        let before = self.answers();
        wait_until(what, SECONDS, || self.answers() > before + 100)
    }

    /// How long after `since` the last answer came; zero if it came before.
    fn last_after(&self, since: Instant) -> Duration {
        let last = self.state.last.lock();
        let last = last.unwrap_or_else(PoisonError::into_inner);
        last.map_or(Duration::ZERO, |last| last.saturating_duration_since(since))
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has told itself; its flow has no answers.
            drop(thread.join());
        }
    }
}

/// Until when flows may go on that a new rule forbids.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Until {
    /// The permit time is over.
    PermitTime,
    /// All permits are flushed, which is done at once.
    Flush,
}

/// Rules that forbid flows: since when, and how long after that one may go on.
pub(crate) struct Forbidden {
    since: Instant,
    grace: Duration,
}

/// Puts rules in force on nodes, and flushes their permits if that is to be the end.
pub(crate) fn forbid(lab: &Lab, rules: &[(usize, &str)], until: Until) -> Result<Forbidden> {
    for (node, rule) in rules {
        lab.on(*node, rule)?;
    }
    let grace = match (until, lab.kind) {
        (Until::Flush, _) => {
            lab.flush()?;
            SLACK
        }
        (Until::PermitTime, Kind::Stock) => SLACK,
        (Until::PermitTime, Kind::Twill | Kind::Direct) => PERMIT_TIME + SLACK,
    };
    Ok(Forbidden {
        since: Instant::now(),
        grace,
    })
}

impl Forbidden {
    /// Waits until all of `ended` should be silent, and makes sure that they are and that `others`
    /// go on.
    pub(crate) fn check_ended(
        &self,
        ended: &[(&str, &Beat)],
        others: &[(&str, &Beat)],
    ) -> Result<()> {
        let Self { since, grace } = *self;
        pass(grace.saturating_sub(since.elapsed()))?;
        let before: Vec<_> = others.iter().map(|(_, beat)| beat.answers()).collect();
        // Longer than a probe of the permit would take to revive the flow.
        pass(PERMIT_TIME / 2 + SLACK)?;
        for (name, beat) in ended {
            let after = beat.last_after(since);
            ensure!(
                after <= grace,
                "{name} was answered until {after:?} after it was forbidden"
            );
        }
        for ((name, beat), before) in others.iter().zip(before) {
            let now = beat.answers();
            ensure!(now > before + 50, "{name} suffers too: {before} and {now}");
        }
        Ok(())
    }
}
