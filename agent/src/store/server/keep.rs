//! What the lease server has for the keeper of the node's own lease.

use std::time::Duration;

use reqwest::StatusCode;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use twill_core::condition::StoreFailure;
use twill_core::lease::{Lease, LeaseAttrs};
use twill_core::subnet::Subnet;

use super::error::Error;
use super::{ServerStore, THERE};
use crate::random;
use crate::store::keep::{Keeping, RESERVED_TERM, Reason, keep};
use crate::store::own::Ended;
use crate::store::shared::Shared;

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
        self.shared.own.known(lease.subnet, THERE);
        keep(self, lease, attrs, shutdown).await
    }
}

impl Keeping for ServerStore {
    type Error = Error;

    fn renew_after(&self, ttl_seconds: Option<u64>) -> Duration {
        renew_after(ttl_seconds)
    }

    async fn touched(&self) {
        self.shared.own.touched.notified().await;
        warn!("the store does not have this node's lease");
    }

    // There is one reason to be asked: whoever finds the lease missing has it written.
    async fn renew(
        &self,
        subnet: Subnet,
        published: &LeaseAttrs,
        attrs: &LeaseAttrs,
        _reason: Reason,
    ) -> Result<Option<Lease>, Error> {
        match ServerStore::renew(self, subnet, published.public_ip, attrs).await {
            Err(Error::NotHeld { .. }) => {}
            renewed => return renewed.map(Some),
        }
        let lease = self.acquire(attrs, Some(subnet)).await?;
        if lease.subnet == subnet {
            info!(%subnet, "lease was gone; taken again");
            return Ok(Some(lease));
        }
        // Somebody else was quicker. What we got instead is of no use to running pods.
        if let Err(error) = self.release(lease.subnet, attrs.public_ip).await {
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

    fn is_lost(error: &Error) -> bool {
        matches!(error, Error::HeldByAnother { .. })
    }

    fn cause(error: &Error) -> StoreFailure {
        match error {
            // What is there is no lease server.
            Error::Request { .. }
            | Error::Silent { .. }
            | Error::Unreadable { .. }
            | Error::Status { .. } => StoreFailure::Unreachable,
            Error::Refused { status, .. } if *status == StatusCode::INSUFFICIENT_STORAGE => {
                StoreFailure::Full
            }
            Error::Refused { .. }
            | Error::Url { .. }
            | Error::Client(_)
            | Error::Config(_)
            | Error::NotHeld { .. }
            | Error::HeldByAnother { .. }
            | Error::Gone { .. } => StoreFailure::Refused,
        }
    }

    fn shared(&self) -> &Shared {
        &self.shared
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
