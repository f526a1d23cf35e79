//! What each line of a watch makes of what is known. Pure.

use std::time::Instant;

use thiserror::Error;

use super::answer::{AnswerError, Line};
use crate::store::known::{Known, Step};

/// Why a watch cannot go on, so that a list is needed.
#[derive(Debug, Error)]
pub(super) enum WatchError {
    #[error("a line of the watch is not a lease server's")]
    Unreadable(#[from] AnswerError),
    #[error("revision {got} came after {known}: changes were lost on the way")]
    Lost { known: u64, got: u64 },
    #[error("the watch is of store {got:?}, not of {known:?}")]
    OtherStore { known: String, got: String },
    #[error("the lease server asks to list again: {0}")]
    Gone(String),
}

impl Known {
    /// Takes in one line of a watch. After an error only a list can be taken in.
    pub(super) fn line(&mut self, text: &[u8], now: Instant) -> Result<Step, WatchError> {
        let step = Line::parse(text)
            .map_err(WatchError::from)
            .and_then(|line| self.apply(line, now));
        if step.is_err() {
            self.forget_position();
        }
        step
    }

    fn apply(&mut self, line: Line, now: Instant) -> Result<Step, WatchError> {
        match line {
            Line::Added { revision, lease } => {
                self.advance(revision)?;
                Ok(match lease {
                    Ok(lease) => self.put(lease),
                    Err(unread) => Step {
                        unread: vec![unread],
                        ..Step::default()
                    },
                })
            }
            Line::Removed { revision, subnet } => {
                self.advance(revision)?;
                Ok(self.remove(subnet))
            }
            Line::Bookmark { revision, store } => {
                if let Some(known) = self.store()
                    && *known != *store
                {
                    return Err(WatchError::OtherStore {
                        known: known.to_owned(),
                        got: store,
                    });
                }
                if revision != self.revision() {
                    return Err(self.lost(revision));
                }
                Ok(self.prune(now))
            }
            Line::Gone { why } => Err(WatchError::Gone(why)),
        }
    }

    fn advance(&mut self, revision: u64) -> Result<(), WatchError> {
        // Every change has the revision after the one before.
        if self.revision().checked_add(1) != Some(revision) {
            return Err(self.lost(revision));
        }
        self.reached(revision);
        Ok(())
    }

    fn lost(&self, got: u64) -> WatchError {
        WatchError::Lost {
            known: self.revision(),
            got,
        }
    }
}

#[cfg(test)]
mod tests;
