//! What the client knows of the server: for people, and for a start without it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// When the server last answered, and what is wrong since.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Contact {
    /// When it last answered.
    pub last: Option<SystemTime>,
    /// Why the watch does not stand.
    pub trouble: Option<String>,
    /// When the own lease ends if nobody renews it; of a reservation and before there is a lease
    /// nobody knows.
    pub lease_until: Option<SystemTime>,
}

/// When a lease of so many seconds ends that begins now; `None` for one without an end.
pub fn lease_end(ttl_seconds: Option<u64>) -> Option<SystemTime> {
    SystemTime::now().checked_add(Duration::from_secs(ttl_seconds?))
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

    /// The own lease lasts so long from now on.
    pub(super) fn leased(&self, ttl_seconds: Option<u64>) {
        let until = lease_end(ttl_seconds);
        self.write(|contact| contact.lease_until = until);
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
