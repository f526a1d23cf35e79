//! What etcd has for the keeper of the node's own lease.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use twill_core::condition::StoreFailure;
use twill_core::lease::{Lease, LeaseAttrs};
use twill_core::lease_key::LeaseKey;
use twill_core::subnet::Subnet;

use super::EtcdStore;
use super::error::Error;
use super::record::{Held, Record};
use super::session::Session;
use crate::random;
use crate::store::keep::{Keeping, RESERVED_TERM, Reason, keep};
use crate::store::own::Ended;
use crate::store::shared::Shared;

const ATTEMPT: &str = "renew the lease";

/// Whatever etcd says: no sum may overflow.
const LONGEST_TERM: Duration = Duration::from_hours(24 * 365);

/// What the key is found to be.
enum Found {
    Missing,
    Ours(Record),
    /// Nobody's: what is in it cannot be read.
    Rubbish(Held),
    Another(String),
}

impl EtcdStore {
    /// Keeps a lease until `shutdown`: renews it before its end, publishes other attributes at
    /// once, takes the same subnet again if the lease is gone. If the subnet has become another
    /// node's, it does not fight for it.
    pub async fn keep(
        &self,
        lease: Lease,
        attrs: watch::Receiver<LeaseAttrs>,
        shutdown: CancellationToken,
    ) -> Ended {
        keep(self, lease, attrs, shutdown).await
    }
}

impl Keeping for EtcdStore {
    type Error = Error;

    /// The margin before the end, and a little earlier by chance, so that nodes that started
    /// together drift apart.
    fn renew_after(&self, ttl_seconds: Option<u64>) -> Duration {
        renew_after(ttl_seconds, self.options.margin)
    }

    async fn touched(&self) {
        self.shared.own.touched.notified().await;
    }

    async fn renew(
        &self,
        subnet: Subnet,
        published: &LeaseAttrs,
        attrs: &LeaseAttrs,
        reason: Reason,
    ) -> Result<Option<Lease>, Error> {
        let renewal = Renewal {
            store: self,
            subnet,
            published,
        };
        renewal.look(reason, attrs).await
    }

    fn is_lost(error: &Error) -> bool {
        matches!(error, Error::HeldByAnother { .. })
    }

    fn cause(error: &Error) -> StoreFailure {
        error.cause()
    }

    fn shared(&self) -> &Shared {
        &self.shared
    }
}

/// One look at the own key.
struct Renewal<'a> {
    store: &'a EtcdStore,
    subnet: Subnet,
    /// What the lease says, as we wrote it.
    published: &'a LeaseAttrs,
}

impl Renewal<'_> {
    async fn look(&self, reason: Reason, attrs: &LeaseAttrs) -> Result<Option<Lease>, Error> {
        let session = self.store.session(ATTEMPT).await?;
        loop {
            let held = match self.find(&session, attrs).await? {
                Found::Another(why) => {
                    let subnet = self.subnet;
                    return Err(Error::HeldByAnother { subnet, why });
                }
                Found::Missing => {
                    warn!(subnet = %self.subnet, "the lease is gone; taking it again");
                    self.must_be_free(&session).await?;
                    None
                }
                Found::Ours(record) if reason == Reason::Touched && !self.must_write(&record) => {
                    return Ok(None);
                }
                Found::Ours(record) => Some(record.held()),
                Found::Rubbish(held) => Some(held),
            };
            let claimed = self.store.claim(&session, self.subnet, held, attrs).await?;
            // Otherwise somebody wrote it just now: it is looked at again.
            if claimed.is_some() {
                return Ok(claimed);
            }
        }
    }

    async fn find(&self, session: &Session, attrs: &LeaseAttrs) -> Result<Found, Error> {
        let key = self.store.keys.lease(LeaseKey::ipv4(self.subnet));
        let answer = session.key(ATTEMPT, &key).await?;
        let Some(kv) = answer.kvs().first() else {
            return Ok(Found::Missing);
        };
        let revision = kv.mod_revision();
        let read = Record::read(&self.store.keys, kv.key(), kv.value(), kv.lease(), revision);
        Ok(match read {
            Ok(record) => {
                let holder = record.attrs.public_ip;
                if holder == self.published.public_ip || holder == attrs.public_ip {
                    Found::Ours(record)
                } else {
                    Found::Another(format!("etcd has it as the lease of {holder}"))
                }
            }
            Err(unread) => {
                let (value, why) = (unread.value, unread.why);
                warn!(value, why, "the own lease cannot be read; writing it again");
                Found::Rubbish(Held {
                    mod_revision: revision,
                    reserved: false,
                })
            }
        })
    }

    /// Whether the own key, which is not as we wrote it, is to be written again. What another
    /// daemon of this node has written is not: two daemons would write for ever.
    fn must_write(&self, record: &Record) -> bool {
        let own = &self.store.shared.own;
        if own.version(self.subnet) == Some(record.mod_revision) {
            return false;
        }
        // An operator's reservation of the subnet for this node has nothing but the address:
        // without the rest, other nodes do not reach this one.
        if record.attrs.backend_data.is_none() {
            return true;
        }
        own.known(self.subnet, record.mod_revision);
        if record.attrs != *self.published {
            error!(
                subnet = %self.subnet, attrs = ?record.attrs,
                "another daemon with this node's address has written its lease; \
                 stop one of the two"
            );
        }
        false
    }

    /// Whether no other lease has an address of the own subnet.
    async fn must_be_free(&self, session: &Session) -> Result<(), Error> {
        let listed = self.store.list(session).await?;
        let other = listed
            .records
            .iter()
            .find(|record| record.key.ipv4.overlaps(self.subnet));
        match other {
            Some(record) if record.attrs.public_ip != self.published.public_ip => {
                Err(Error::HeldByAnother {
                    subnet: self.subnet,
                    why: format!(
                        "the lease had ended, and etcd has {} as the lease of {}",
                        record.key, record.attrs.public_ip
                    ),
                })
            }
            _ => Ok(()),
        }
    }
}

/// Flannel's time to renew, less up to a tenth of it by chance.
fn renew_after(ttl_seconds: Option<u64>, margin: Duration) -> Duration {
    let term = ttl_seconds.map_or(RESERVED_TERM, Duration::from_secs);
    let term = term.min(LONGEST_TERM);
    // A term that is no longer than the margin is renewed half-way.
    let pause = match term.checked_sub(margin) {
        Some(pause) if !pause.is_zero() => pause,
        _ => term / 2,
    };
    pause
        .mul_f64(1.0 - 0.1 * random::fraction())
        .max(Duration::from_millis(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_renewed_the_margin_before_its_end() {
        let hour = Duration::from_hours(1);
        for _ in 0..100 {
            let pause = renew_after(Some(86_400), hour);
            assert!(
                (23 * hour).mul_f64(0.9) <= pause && pause <= 23 * hour,
                "{pause:?}"
            );
        }
        // There is always a pause, and an end to it.
        assert!(renew_after(Some(10), hour) <= Duration::from_secs(5));
        assert!(renew_after(Some(0), hour) >= Duration::from_millis(100));
        assert!(renew_after(Some(u64::MAX), hour) <= LONGEST_TERM);
    }
}
