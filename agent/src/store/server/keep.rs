//! Keeps the node's own lease: renews it, publishes what changes, gives up when it is lost.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use twill_core::lease::{Lease, LeaseAttrs};
use twill_core::subnet::Subnet;

use super::ServerStore;
use super::error::Error;
use crate::random;
use crate::store::own::Ended;
use crate::store::trouble::Trouble;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A lease without end is looked after all the same.
const RESERVED_TERM: Duration = Duration::from_hours(24);

struct Keeper<'a> {
    store: &'a ServerStore,
    subnet: Subnet,
    /// What the lease says, as we sent it.
    published: LeaseAttrs,
    attrs: watch::Receiver<LeaseAttrs>,
}

impl ServerStore {
    /// Keeps a lease until `shutdown`: renews at half of its term, publishes other attributes
    /// at once, takes the same subnet again if the lease is gone. If the subnet has become
    /// another node's, it does not fight for it.
    pub async fn keep(
        &self,
        lease: Lease,
        attrs: watch::Receiver<LeaseAttrs>,
        shutdown: CancellationToken,
    ) -> Ended {
        let keeper = Keeper {
            store: self,
            subnet: lease.subnet,
            published: lease.attrs,
            attrs,
        };
        self.own.set(Some(lease.subnet));
        let ended = shutdown
            .run_until_cancelled(keeper.run(lease.ttl_seconds))
            .await;
        self.own.set(None);
        ended.unwrap_or(Ended::Stopped)
    }
}

impl Keeper<'_> {
    async fn run(mut self, mut ttl_seconds: Option<u64>) -> Ended {
        loop {
            self.wait(ttl_seconds).await;
            ttl_seconds = match self.renew_until_done().await {
                Ok(lease) => lease.ttl_seconds,
                Err(error) => {
                    let subnet = self.subnet;
                    error!(%subnet, %error, "lease lost; this node's pods must move");
                    let why = error.to_string();
                    return Ended::Lost { subnet, why };
                }
            };
        }
    }

    /// Waits until there is a reason to renew.
    async fn wait(&mut self, ttl_seconds: Option<u64>) {
        if *self.attrs.borrow() != self.published {
            return;
        }
        let renewal = tokio::time::sleep(renew_after(ttl_seconds));
        let changed = async {
            if self.attrs.changed().await.is_err() {
                // Whoever published attributes is gone: these are the last.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = renewal => {}
            () = changed => {}
            () = self.store.own.missing.notified() => {
                warn!(subnet = %self.subnet, "the store does not have this node's lease");
            }
        }
    }

    async fn renew_until_done(&mut self) -> Result<Lease, Error> {
        let mut trouble = Trouble::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let attrs = self.attrs.borrow_and_update().clone();
            let error = match self.renew(&attrs).await {
                Ok(lease) => {
                    if trouble.is_over() {
                        info!(subnet = %self.subnet, "lease renewed at last");
                    }
                    self.published = attrs;
                    return Ok(lease);
                }
                Err(error @ Error::HeldByAnother { .. }) => return Err(error),
                Err(error) => error,
            };
            let pause = trouble.pause();
            if trouble.is_news(&error.to_string()) {
                warn!(subnet = %self.subnet, %error, "lease not renewed; trying again");
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn renew(&self, attrs: &LeaseAttrs) -> Result<Lease, Error> {
        let subnet = self.subnet;
        let holder = self.published.public_ip;
        match self.store.renew(subnet, holder, attrs).await {
            Err(Error::NotHeld { .. }) => {}
            renewed => return renewed,
        }
        let lease = self.store.acquire(attrs, Some(subnet)).await?;
        if lease.subnet == subnet {
            info!(%subnet, "lease was gone; taken again");
            return Ok(lease);
        }
        // Somebody else was quicker. What we got instead is of no use to running pods.
        if let Err(error) = self.store.release(lease.subnet, attrs.public_ip).await {
            warn!(subnet = %lease.subnet, %error, "a lease that nobody needs was not released");
        }
        Err(Error::HeldByAnother {
            subnet,
            why: format!(
                "the lease had ended, and the server offers {}",
                lease.subnet
            ),
        })
    }
}

/// Somewhere between 40 and 60 % of the term, so that nodes that started together drift apart.
fn renew_after(ttl_seconds: Option<u64>) -> Duration {
    let term = ttl_seconds.map_or(RESERVED_TERM, Duration::from_secs);
    term.mul_f64(0.4 + 0.2 * random::fraction())
        .max(Duration::from_millis(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_renewed_about_half_way() {
        for _ in 0..1000 {
            let pause = renew_after(Some(1000)).as_secs_f64();
            assert!((400.0..=600.0).contains(&pause), "{pause}");
        }
        assert!(renew_after(Some(0)) >= Duration::from_millis(100));
        // No sum may overflow, whatever a server says.
        assert!(renew_after(Some(u64::MAX)) > Duration::from_secs(1));
    }
}
