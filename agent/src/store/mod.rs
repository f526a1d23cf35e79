//! Where leases come from.
//!
//! A store has one shape, whatever is behind it: `config`, `acquire`, `keep` (renews until it
//! is told to stop) and `watch`, which turns what happens to leases into
//! [`Event`](twill_core::event::Event)s. A store that is away, or answers rubbish, produces no
//! event: what is programmed stays.

mod contact;
pub mod etcd;
mod former;
mod keep;
mod known;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod noise;
mod own;
mod rounds;
pub mod server;
mod trouble;
mod unread;

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use twill_core::config::NetworkConfig;
use twill_core::event::Event;
use twill_core::lease::{Lease, LeaseAttrs};
use twill_core::subnet::Subnet;

pub use self::contact::{Contact, lease_end};
use self::etcd::EtcdStore;
pub use self::own::Ended;
use self::server::ServerStore;
use crate::files::last_store::LastStore;

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
        match self {
            Self::Server(store) => store.contact(),
            Self::Etcd(store) => store.contact(),
        }
    }

    /// Tells which peers an earlier start of the agent left in the kernel, and where the name of
    /// the store that they are from is written.
    pub fn remember(&mut self, last: LastStore, peers: Vec<Lease>) {
        match self {
            Self::Server(store) => store.remember(last, peers),
            Self::Etcd(store) => store.remember(last, peers),
        }
    }

    /// The node's own address has changed: no answer will come to the old one any more.
    pub fn moved(&self) {
        match self {
            Self::Server(store) => store.moved(),
            Self::Etcd(store) => store.moved(),
        }
    }

    /// The network config: its text, and what it says.
    pub async fn config(&self) -> Result<(String, NetworkConfig), Error> {
        Ok(match self {
            Self::Server(store) => store.config().await?,
            Self::Etcd(store) => store.config().await?,
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

    /// Sends what happens to leases until `shutdown`, or until nobody takes it. The first
    /// event, and the first after changes may have been missed, is a [`Event::Resync`].
    pub async fn watch(self, events: mpsc::Sender<Event>, shutdown: CancellationToken) {
        match self {
            Self::Server(store) => store.watch(events, shutdown).await,
            Self::Etcd(store) => store.watch(events, shutdown).await,
        }
    }
}
