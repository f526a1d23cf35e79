//! Keeps the node's own lease, in whatever store: renews it before its end, publishes what
//! changes, looks again when the store says that it is not as it was, gives up when it is lost.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use twill_core::chain::chain;
use twill_core::condition::StoreFailure;
use twill_core::lease::{Lease, LeaseAttrs};
use twill_core::subnet::Subnet;

use super::own::Ended;
use super::shared::Shared;
use super::trouble::Trouble;

/// Pauses after failures, with jitter on top.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A lease without end is looked after all the same.
pub(super) const RESERVED_TERM: Duration = Duration::from_hours(24);

/// Why the keeper looks at its lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reason {
    /// It is to be written: its end is near, or there is something to publish.
    Write,
    /// Somebody else may have written or removed it.
    Touched,
}

/// What a store has for its keeper.
pub(super) trait Keeping: Sync {
    /// Why a lease is not renewed.
    type Error: Error + Send + 'static;

    /// How soon to renew a lease of so many seconds.
    fn renew_after(&self, ttl_seconds: Option<u64>) -> Duration;

    /// Waits until the store seems to have the lease not as we wrote it.
    fn touched(&self) -> impl Future<Output = ()> + Send;

    /// Renews the lease with these attributes; `None` if there was nothing to write. `published`
    /// is what it says, as we wrote it.
    fn renew(
        &self,
        subnet: Subnet,
        published: &LeaseAttrs,
        attrs: &LeaseAttrs,
        reason: Reason,
    ) -> impl Future<Output = Result<Option<Lease>, Self::Error>> + Send;

    /// Whether the subnet is another node's.
    fn is_lost(error: &Self::Error) -> bool;

    /// Who can mend it.
    fn cause(error: &Self::Error) -> StoreFailure;

    /// Where it is told how long the lease lasts, and why it is not renewed.
    fn shared(&self) -> &Shared;
}

/// Keeps a lease until `shutdown`. If the subnet has become another node's, it does not fight
/// for it.
pub(super) async fn keep<S: Keeping>(
    store: &S,
    lease: Lease,
    attrs: watch::Receiver<LeaseAttrs>,
    shutdown: CancellationToken,
) -> Ended {
    let Lease {
        subnet,
        attrs: published,
        ttl_seconds,
    } = lease;
    store.shared().contacts.leased(ttl_seconds);
    let keeper = Keeper {
        store,
        subnet,
        published,
        attrs,
    };
    let ended = shutdown
        .run_until_cancelled(Box::pin(keeper.run(ttl_seconds)))
        .await;
    ended.unwrap_or(Ended::Stopped)
}

struct Keeper<'a, S> {
    store: &'a S,
    subnet: Subnet,
    /// What the lease says, as we wrote it.
    published: LeaseAttrs,
    attrs: watch::Receiver<LeaseAttrs>,
}

impl<S: Keeping> Keeper<'_, S> {
    async fn run(mut self, ttl_seconds: Option<u64>) -> Ended {
        let mut due = self.due(ttl_seconds);
        loop {
            let reason = self.wait(due).await;
            match self.until_done(reason).await {
                Ok(Some(lease)) => due = self.due(lease.ttl_seconds),
                Ok(None) => {}
                Err(error) => {
                    let (subnet, why) = (self.subnet, error.to_string());
                    error!(
                        %subnet, why,
                        "Lease has been revoked. Shutting down daemon. This node's pods must move"
                    );
                    return Ended::Lost { subnet, why };
                }
            }
        }
    }

    fn due(&self, ttl_seconds: Option<u64>) -> Instant {
        let pause = self.store.renew_after(ttl_seconds);
        info!(subnet = %self.subnet, "Waiting for {pause:?} to renew lease");
        Instant::now() + pause
    }

    /// Waits until there is a reason to look.
    async fn wait(&mut self, due: Instant) -> Reason {
        if *self.attrs.borrow() != self.published {
            return Reason::Write;
        }
        let changed = async {
            if self.attrs.changed().await.is_err() {
                // Whoever published attributes is gone: these are the last.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(due) => Reason::Write,
            () = changed => Reason::Write,
            () = self.store.touched() => Reason::Touched,
        }
    }

    /// The lease as it was written; `None` if there was nothing to write. The only error is
    /// that the lease is lost.
    async fn until_done(&mut self, reason: Reason) -> Result<Option<Lease>, S::Error> {
        let mut trouble = Trouble::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let attrs = self.attrs.borrow_and_update().clone();
            let renewal = self
                .store
                .renew(self.subnet, &self.published, &attrs, reason);
            let error = match renewal.await {
                Ok(Some(lease)) => {
                    let seconds = lease.ttl_seconds;
                    info!(subnet = %self.subnet, seconds, "Lease renewed, new expiration");
                    self.store.shared().contacts.leased(lease.ttl_seconds);
                    self.published = attrs;
                    return Ok(Some(lease));
                }
                Ok(None) => {
                    self.store.shared().contacts.found();
                    return Ok(None);
                }
                Err(error) if S::is_lost(&error) => return Err(error),
                Err(error) => error,
            };
            let pause = trouble.pause();
            let said = chain(&error);
            if trouble.is_news(&said) {
                warn!(subnet = %self.subnet, error = said, "Error renewing lease (trying again)");
            }
            self.store
                .shared()
                .contacts
                .not_renewed(S::cause(&error), said);
            tokio::time::sleep(pause).await;
        }
    }
}
