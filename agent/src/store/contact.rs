//! What the client knows of the server: for people, nothing depends on it.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// When the server last answered, and what is wrong since.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Contact {
    /// When it last answered.
    pub last: Option<SystemTime>,
    /// Why the watch does not stand.
    pub trouble: Option<String>,
}

/// The one that is written to.
#[derive(Debug, Default)]
pub(super) struct Contacts(Mutex<Contact>);

impl Contacts {
    /// The watch stands, and something came by it.
    pub(super) fn heard(&self) {
        self.write(|contact| {
            contact.last = Some(SystemTime::now());
            contact.trouble = None;
        });
    }

    /// The watch broke off.
    pub(super) fn lost(&self, why: &str) {
        self.write(|contact| contact.trouble = Some(why.to_owned()));
    }

    /// A copy.
    pub(super) fn get(&self) -> Contact {
        let contact = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        contact.clone()
    }

    fn write(&self, change: impl FnOnce(&mut Contact)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
