//! etcd as a store: flannel's keys and values, byte for byte
//! (flannel 0.28.9, `pkg/subnet/etcd`), without what flannel gets wrong there.
//!
//! Every write says what it found, in a transaction: two nodes never have one subnet, and what
//! somebody else has written is never written over.

mod acquire;
mod error;
mod keep;
mod keys;
mod list;
mod options;
mod record;
mod session;
mod watch;

use std::sync::Arc;

use tracing::warn;
use twill_core::lease::LeaseAttrs;

pub use self::error::Error;
use self::keys::Keys;
pub use self::options::{LEASE_TERM, Options, Password, Tls};
use self::session::{Session, Turn};
use super::beginning::Beginning;
use super::shared::Shared;

/// The client. Clones share what is known of the cluster.
#[derive(Clone, Debug)]
pub struct EtcdStore {
    options: Arc<Options>,
    keys: Keys,
    turn: Arc<Turn>,
    shared: Arc<Shared>,
}

impl EtcdStore {
    /// A client of this cluster. Connects later.
    pub fn new(options: Options) -> Result<Self, Error> {
        options.urls()?;
        for why in options.left_out() {
            warn!(%why, "an endpoint of etcd is left out");
        }
        Ok(Self {
            keys: Keys::new(&options.prefix)?,
            options: Arc::new(options),
            turn: Arc::default(),
            shared: Arc::default(),
        })
    }

    /// What keeper and watcher share.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The network config.
    pub async fn begin(&self) -> Result<Beginning, Error> {
        let attempt = "fetch the network config";
        let key = self.keys.config();
        let session = self.session(attempt).await?;
        let answer = session.key(attempt, &key).await?;
        let Some(kv) = answer.kvs().first() else {
            return Err(Error::NoConfig { key });
        };
        let text = String::from_utf8_lossy(kv.value()).into_owned();
        Ok(Beginning::new(text)?)
    }

    async fn session(&self, attempt: &'static str) -> Result<Session, Error> {
        Session::open(&self.options, &self.turn, &self.keys.config(), attempt).await
    }
}

fn json(attrs: &LeaseAttrs) -> Result<String, Error> {
    serde_json::to_string(attrs).map_err(Error::Attributes)
}

/// See [`super::noise::etcd`].
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn noise(text: &[u8]) {
    let end = text.iter().position(|&byte| byte == b'\n');
    let (key, value) = text.split_at(end.unwrap_or(text.len()));
    let Ok(keys) = Keys::new("/coreos.com/network") else {
        return;
    };
    let key = [keys.subnets().as_bytes(), key].concat();
    let value = value.get(1..).unwrap_or_default();
    if let Ok(record) = record::Record::read(&keys, &key, value, 7, 9) {
        let subnet = record.key.ipv4;
        assert_eq!(record.into_lease().subnet, subnet);
    }
}
