//! One connection to one member of etcd, used for one purpose and dropped.
//!
//! Calls are rare, and a kept connection has grown old when it is needed: the member may have
//! gone, the address that it was made from too, and the token of its user has ended.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, GetOptions, GetResponse, PutOptions, Txn, TxnOp, WatchOptions,
    WatchStream,
};

use super::error::{Error, said};
use super::options::Options;

/// For an answer: as long as etcd itself may take for a request, and then some.
const ANSWER: Duration = Duration::from_secs(10);
/// For a page of a list.
const PAGE_ANSWER: Duration = Duration::from_secs(30);
/// Leases of one answer: some 250 kB, and more than that again until they are taken out of it.
const PAGE: i64 = 1000;
/// Bytes of one answer; etcd's own limit is on what is sent to it.
const MESSAGE_BYTES: usize = 256 << 20;

/// A connection to a member that has just answered.
pub(super) struct Session {
    client: Client,
    endpoint: String,
    /// The cluster, and the revision that it had when it answered.
    pub(super) cluster: u64,
    pub(super) revision: i64,
}

/// The member to ask first: the one that answered last.
#[derive(Debug, Default)]
pub(super) struct Turn(AtomicUsize);

impl Session {
    /// Connects to the first member that answers a read which takes the whole cluster's
    /// consent: a member that is alone, or does not know us, is passed over.
    pub(super) async fn open(
        options: &Options,
        turn: &Turn,
        probe: &str,
        attempt: &'static str,
    ) -> Result<Self, Error> {
        let urls = options.urls()?;
        let first = turn.0.load(Ordering::Relaxed);
        let mut reasons = Vec::new();
        for nth in 0..urls.len() {
            let index = first.wrapping_add(nth) % urls.len();
            let Some(endpoint) = urls.get(index) else {
                continue;
            };
            match Self::connect(options, endpoint, probe).await {
                Ok(session) => {
                    turn.0.store(index, Ordering::Relaxed);
                    return Ok(session);
                }
                // A file that cannot be read is no member's fault.
                Err(error @ Error::File { .. }) => return Err(error),
                Err(error) => reasons.push(error),
            }
        }
        Err(Error::Away { attempt, reasons })
    }

    async fn connect(options: &Options, endpoint: &str, probe: &str) -> Result<Self, Error> {
        let connect = options.connect(endpoint)?;
        let attempt = "connect";
        let client = within(
            ANSWER,
            attempt,
            endpoint,
            Box::pin(Client::connect([endpoint], Some(connect))),
        );
        let mut session = Self {
            client: client.await?,
            endpoint: endpoint.to_owned(),
            cluster: 0,
            revision: 0,
        };
        if let Some(user) = options.user() {
            session.sign_in(user).await?;
        }
        let count = GetOptions::new().with_count_only();
        let answer = session.get(attempt, probe, count, ANSWER).await?;
        if let Some(header) = answer.header() {
            session.cluster = header.cluster_id();
            session.revision = header.revision();
        }
        Ok(session)
    }

    /// Tells who we are. An etcd that does not ask takes everybody, as flannel's client has it.
    async fn sign_in(&mut self, user: (String, String)) -> Result<(), Error> {
        let signing = Box::pin(self.client.update_user(Some(user)));
        match within(ANSWER, "authenticate", &self.endpoint, signing).await {
            Err(Error::Call { source, .. }) if asks_nobody(&source) => Ok(()),
            signed => signed,
        }
    }

    /// Which member it is.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// One key.
    pub(super) async fn key(&self, attempt: &'static str, key: &str) -> Result<GetResponse, Error> {
        self.get(attempt, key, GetOptions::new(), ANSWER).await
    }

    /// A page of the keys that begin with `prefix`, from `from` on, at this revision (0: now).
    pub(super) async fn page(
        &self,
        attempt: &'static str,
        prefix: &str,
        from: Vec<u8>,
        revision: i64,
    ) -> Result<GetResponse, Error> {
        let options = GetOptions::new()
            .with_range(after(prefix))
            .with_limit(PAGE)
            .with_revision(revision);
        self.get(attempt, from, options, PAGE_ANSWER).await
    }

    async fn get(
        &self,
        attempt: &'static str,
        key: impl Into<Vec<u8>>,
        options: GetOptions,
        limit: Duration,
    ) -> Result<GetResponse, Error> {
        let kv = self.client.kv_client();
        let mut kv = kv.max_decoding_message_size(MESSAGE_BYTES);
        self.within(limit, attempt, Box::pin(kv.get(key, Some(options))))
            .await
    }

    /// A new etcd lease of this term, and the term that etcd made of it.
    pub(super) async fn grant(
        &self,
        attempt: &'static str,
        term: Duration,
    ) -> Result<(i64, Duration), Error> {
        let seconds = i64::try_from(term.as_secs()).unwrap_or(i64::MAX);
        let mut client = self.client.lease_client();
        let granted = self
            .within(ANSWER, attempt, Box::pin(client.grant(seconds, None)))
            .await?;
        let seconds = u64::try_from(granted.ttl()).unwrap_or_default();
        Ok((granted.id(), Duration::from_secs(seconds)))
    }

    /// Ends an etcd lease that no key belongs to.
    pub(super) async fn revoke(&self, attempt: &'static str, id: i64) -> Result<(), Error> {
        let mut client = self.client.lease_client();
        let revoked = self.within(ANSWER, attempt, Box::pin(client.revoke(id)));
        revoked.await.map(drop)
    }

    /// Writes a key if it is as it was: last written at `revision`, 0 for not there. Whether it
    /// was so. The key ends with the etcd lease, if one is named.
    pub(super) async fn put_if(
        &self,
        attempt: &'static str,
        key: &str,
        revision: i64,
        value: String,
        etcd_lease: i64,
    ) -> Result<Option<i64>, Error> {
        let put = TxnOp::put(key, value, Some(PutOptions::new().with_lease(etcd_lease)));
        self.change_if(attempt, key, revision, put).await
    }

    /// Removes a key if it is as it was. Whether it was so.
    pub(super) async fn delete_if(
        &self,
        attempt: &'static str,
        key: &str,
        revision: i64,
    ) -> Result<Option<i64>, Error> {
        let delete = TxnOp::delete(key, None);
        self.change_if(attempt, key, revision, delete).await
    }

    /// The revision of the change, if it was made.
    async fn change_if(
        &self,
        attempt: &'static str,
        key: &str,
        revision: i64,
        change: TxnOp,
    ) -> Result<Option<i64>, Error> {
        let as_it_was = Compare::mod_revision(key, CompareOp::Equal, revision);
        let change = Txn::new().when([as_it_was]).and_then([change]);
        let mut kv = self.client.kv_client();
        let answer = self
            .within(ANSWER, attempt, Box::pin(kv.txn(change)))
            .await?;
        let revision = answer
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision);
        Ok(answer.succeeded().then_some(revision))
    }

    /// Watches the keys that begin with `prefix` from a revision on.
    pub(super) async fn watch(
        &self,
        attempt: &'static str,
        prefix: &str,
        revision: i64,
    ) -> Result<WatchStream, Error> {
        let options = WatchOptions::new()
            .with_range(after(prefix))
            .with_start_revision(revision)
            .with_progress_notify();
        let client = self.client.watch_client();
        let mut client = client.max_decoding_message_size(MESSAGE_BYTES);
        self.within(
            ANSWER,
            attempt,
            Box::pin(client.watch(prefix, Some(options))),
        )
        .await
    }

    /// An error of this member.
    pub(super) fn failed(&self, attempt: &'static str, source: etcd_client::Error) -> Error {
        failed(attempt, &self.endpoint, source)
    }

    /// The calls of the client are large futures: they come in boxes.
    async fn within<T>(
        &self,
        limit: Duration,
        attempt: &'static str,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Error> {
        within(limit, attempt, &self.endpoint, call).await
    }
}

async fn within<T>(
    limit: Duration,
    attempt: &'static str,
    endpoint: &str,
    call: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(failed(attempt, endpoint, source)),
        Err(_) => Err(Error::Silent {
            attempt,
            endpoint: endpoint.to_owned(),
            limit,
        }),
    }
}

/// Whether etcd has no authentication switched on; there is no code of its own for that.
fn asks_nobody(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status)
        if status.message().contains("authentication is not enabled"))
}

fn failed(attempt: &'static str, endpoint: &str, source: etcd_client::Error) -> Error {
    tracing::debug!(
        attempt,
        endpoint,
        error = said(&source),
        "call to etcd failed"
    );
    Error::Call {
        attempt,
        endpoint: endpoint.to_owned(),
        source: Box::new(source),
    }
}

/// The first key after all that begin with `prefix`, which ends in a slash.
fn after(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}
