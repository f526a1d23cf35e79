//! All leases of the network, at one revision.

use super::EtcdStore;
use super::error::Error;
use super::record::Record;
use super::session::Session;
use crate::store::unread::UnreadLease;

/// What etcd has.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// The cluster.
    pub(super) cluster: u64,
    /// The revision that this is of.
    pub(super) revision: i64,
    /// What could be read, with the keys that say where it stands.
    pub(super) records: Vec<Record>,
    /// What could not.
    pub(super) unread: Vec<UnreadLease>,
}

impl EtcdStore {
    /// Reads all leases, a page at a time.
    pub(super) async fn list(&self, session: &Session) -> Result<Listed, Error> {
        let attempt = "list the leases";
        let prefix = self.keys.subnets();
        let mut listed = Listed::default();
        let mut from = prefix.clone().into_bytes();
        loop {
            let page = session
                .page(attempt, &prefix, from, listed.revision)
                .await?;
            if let Some(header) = page.header().filter(|_| listed.revision == 0) {
                listed.cluster = header.cluster_id();
                listed.revision = header.revision();
            }
            for kv in page.kvs() {
                let read = Record::read(
                    &self.keys,
                    kv.key(),
                    kv.value(),
                    kv.lease(),
                    kv.mod_revision(),
                );
                match read {
                    Ok(record) => listed.records.push(record),
                    Err(unread) => listed.unread.push(unread),
                }
            }
            match page.kvs().last().filter(|_| page.more()) {
                // The next possible key.
                Some(last) => from = [last.key(), b"\0"].concat(),
                None => return Ok(listed),
            }
        }
    }
}
