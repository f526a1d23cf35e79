//! Where leases come from.
//!
//! A store is a source, and has one shape, whatever is behind it: `begin` (what it says before
//! there is a lease), `acquire`, `keep` (renews until it is told to stop), `complete`, and `watch`,
//! which sends what happens to leases as [`StoreEvent`](twill_core::leases::StoreEvent)s. Which of
//! them hold is for the index in `twill-core` to say. A store that is away, or answers rubbish,
//! says nothing of any lease: what is programmed stays.

mod beginning;
mod contact;
mod cursor;
pub mod etcd;
mod keep;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod noise;
mod own;
mod rounds;
pub mod server;
mod shared;
mod trouble;
mod unread;

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use twill_core::config::NetworkConfig;
use twill_core::event::Event;
use twill_core::lease::{Lease, LeaseAttrs};
use twill_core::leases::Position;
use twill_core::subnet::Subnet;

pub use self::beginning::Beginning;
pub use self::contact::{Contact, lease_end};
use self::etcd::EtcdStore;
pub use self::own::Ended;
use self::server::ServerStore;
use self::shared::Shared;

/// A store. Clones share what is known of it.
#[derive(Clone, Debug)]
pub enum Store {
    /// Twill's lease server.
    Server(ServerStore),
    /// etcd.
    Etcd(EtcdStore),
}

/// Why a store did not give what was asked for.
#[derive(Debug, Error)]
pub enum Error {
    /// Twill's lease server did not.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// etcd did not.
    #[error(transparent)]
    Etcd(#[from] etcd::Error),
}

impl Store {
    /// What is known of it: for people.
    pub fn contact(&self) -> Contact {
        self.shared().contacts.get()
    }

    /// The node's own address has changed: no answer will come to the old one any more.
    pub fn moved(&self) {
        self.shared().moved.notify_one();
    }

    /// What it says before there is a lease.
    pub async fn begin(&self) -> Result<Beginning, Error> {
        Ok(match self {
            Self::Server(store) => store.begin().await?,
            Self::Etcd(store) => store.begin().await?,
        })
    }

    /// Takes a subnet of the network: the one this address holds, the previous one, else a free
    /// one.
    pub async fn acquire(
        &self,
        config: &NetworkConfig,
        attrs: &LeaseAttrs,
        previous: Option<Subnet>,
    ) -> Result<Lease, Error> {
        Ok(match self {
            // The server has the network config itself.
            Self::Server(store) => store.acquire(attrs, previous).await?,
            Self::Etcd(store) => store.acquire(config, attrs, previous).await?,
        })
    }

    /// Keeps a lease until `shutdown`, and publishes other attributes. If the subnet has become
    /// another node's, it does not fight for it.
    pub async fn keep(
        &self,
        lease: Lease,
        attrs: watch::Receiver<LeaseAttrs>,
        shutdown: CancellationToken,
    ) -> Ended {
        match self {
            Self::Server(store) => store.keep(lease, attrs, shutdown).await,
            Self::Etcd(store) => store.keep(lease, attrs, shutdown).await,
        }
    }

    /// The node is up: pods can be reached at its lease. For a store that tells others so.
    #[expect(
        clippy::unused_async,
        reason = "a store that others read the node's state from has to write to it"
    )]
    pub async fn complete(&self) -> Result<(), Error> {
        match self {
            Self::Server(_) | Self::Etcd(_) => Ok(()),
        }
    }

    /// Sends what happens to leases until `shutdown`, or until nobody takes it; an earlier start
    /// had come to `after`. The first event, and the first after changes may have been missed, is
    /// a list.
    pub async fn watch(
        self,
        after: Option<Position>,
        events: mpsc::Sender<Event>,
        shutdown: CancellationToken,
    ) {
        match self {
            Self::Server(store) => store.watch(after, events, shutdown).await,
            Self::Etcd(store) => store.watch(after, events, shutdown).await,
        }
    }

    fn shared(&self) -> &Shared {
        match self {
            Self::Server(store) => store.shared(),
            Self::Etcd(store) => store.shared(),
        }
    }
}
