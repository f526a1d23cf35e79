//! What the client of a store knows of it and of the own lease: for people, and for a start
//! without the store.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use twill_core::condition::{Condition, NotRenewed, StoreFailure};

/// When the store last answered, and what is known of the own lease.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Contact {
    /// When it last answered.
    pub last: Option<SystemTime>,
    /// When the own lease ends if nobody renews it; of a reservation and before there is a lease
    /// nobody knows.
    pub lease_until: Option<SystemTime>,
    /// How writing the own lease failed last, if it was not written since.
    pub not_renewed: Option<NotRenewed>,
    /// Whether the store was seen without the own lease, and it was not written since.
    pub lease_gone: bool,
    /// How often writing the own lease failed.
    pub failed_renewals: u64,
}

impl Contact {
    /// What is wrong with the own lease.
    pub fn condition(&self) -> Option<Condition> {
        let not_renewed = self.not_renewed.clone()?;
        Some(if self.lease_gone {
            Condition::LeaseGone(not_renewed)
        } else {
            Condition::LeaseNotRenewed(not_renewed)
        })
    }
}

/// When a lease of so many seconds ends that begins now; `None` for one without an end.
pub fn lease_end(ttl_seconds: Option<u64>) -> Option<SystemTime> {
    SystemTime::now().checked_add(Duration::from_secs(ttl_seconds?))
}

fn left(until: SystemTime) -> Duration {
    until
        .duration_since(SystemTime::now())
        .unwrap_or(Duration::ZERO)
}

/// The one that is written to.
#[derive(Debug, Default)]
pub(super) struct Contacts(Mutex<Contact>);

impl Contacts {
    /// Something came from the store.
    pub(super) fn heard(&self) {
        self.write(|contact| contact.last = Some(SystemTime::now()));
    }

    /// The own lease lasts so long from now on.
    pub(super) fn leased(&self, ttl_seconds: Option<u64>) {
        let until = lease_end(ttl_seconds);
        self.write(|contact| {
            contact.lease_until = until;
            contact.not_renewed = None;
            contact.lease_gone = false;
        });
    }

    /// The own lease is as it should be, and nothing had to be written.
    pub(super) fn found(&self) {
        self.write(|contact| {
            contact.not_renewed = None;
            contact.lease_gone = false;
        });
    }

    /// The own lease was not written.
    pub(super) fn not_renewed(&self, cause: StoreFailure, said: String) {
        self.write(|contact| {
            contact.failed_renewals += 1;
            let left = match &contact.not_renewed {
                Some(before) => before.left,
                None => contact.lease_until.map(left),
            };
            contact.not_renewed = Some(NotRenewed { cause, said, left });
        });
    }

    /// The store was seen with the own lease, or without.
    pub(super) fn lease_seen(&self, there: bool) {
        self.write(|contact| contact.lease_gone = !there);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_gone_when_it_is_missing_and_cannot_be_written() {
        let contacts = Contacts::default();
        let condition = || contacts.get().condition();
        contacts.leased(Some(3600));
        contacts.lease_seen(false);
        assert_eq!(condition(), None, "the keeper has not tried yet");
        contacts.not_renewed(StoreFailure::Full, "full".to_owned());
        assert!(matches!(condition(), Some(Condition::LeaseGone(_))));
        contacts.lease_seen(true);
        let Some(Condition::LeaseNotRenewed(told)) = condition() else {
            panic!("{:?}", condition());
        };
        let first = told.left.unwrap();
        assert!(first > Duration::from_secs(3500), "{first:?}");
        contacts.not_renewed(StoreFailure::Denied, "denied".to_owned());
        let again = contacts.get();
        assert_eq!(again.failed_renewals, 2);
        assert_eq!(again.not_renewed.and_then(|told| told.left), Some(first));
        contacts.leased(Some(3600));
        assert_eq!(condition(), None);
    }
}
