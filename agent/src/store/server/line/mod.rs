//! What each line of a watch says, after those before it. Pure.

use thiserror::Error;

use twill_core::lease::Lease;
use twill_core::subnet::Subnet;

use super::answer::{AnswerError, Line};
use crate::store::cursor::Cursor;
use crate::store::unread::UnreadLease;

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

/// What a line says.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    /// A lease is new or changed.
    Put(Lease),
    /// One that could not be read is.
    Unread(UnreadLease),
    /// A lease is gone.
    Gone(Subnet),
    /// Nothing more has happened.
    Bookmark,
}

impl Cursor {
    /// Takes in one line of a watch. After an error only a list can be taken in.
    pub(super) fn line(&mut self, text: &[u8]) -> Result<Said, WatchError> {
        let said = Line::parse(text)
            .map_err(WatchError::from)
            .and_then(|line| self.apply(line));
        if said.is_err() {
            self.forget();
        }
        said
    }

    fn apply(&mut self, line: Line) -> Result<Said, WatchError> {
        match line {
            Line::Added { revision, lease } => {
                self.advance(revision)?;
                Ok(lease.map_or_else(Said::Unread, Said::Put))
            }
            Line::Removed { revision, subnet } => {
                self.advance(revision)?;
                Ok(Said::Gone(subnet))
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
                Ok(Said::Bookmark)
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
