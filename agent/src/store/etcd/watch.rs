//! Follows the leases in etcd and turns what happens to them into events.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

use etcd_client::{Event as Change, EventType, WatchResponse};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use twill_core::event::Event;
use twill_core::leases::{Listing, Position, StoreEvent};
use twill_core::subnet::Subnet;

use super::EtcdStore;
use super::error::Error;
use super::keys::Keys;
use super::list::Listed;
use super::record::Record;
use crate::store::cursor::Cursor;
use crate::store::rounds::{RoundEnd, Rounds, Watcher, run};
use crate::store::unread::UnreadLease;

const ATTEMPT: &str = "watch the leases";

/// How often etcd is asked whether the watch still stands.
const ASK: Duration = Duration::from_secs(30);
/// How long it may be silent all the same.
const SILENCE: Duration = Duration::from_secs(90);

struct EtcdWatcher {
    store: EtcdStore,
    keys: KnownKeys,
    rounds: Rounds,
}

/// What is known of the keys of leases. Pure.
#[derive(Debug, Default)]
struct KnownKeys {
    cursor: Cursor,
    /// Subnets that a node with both families holds: two keys may name them.
    twins: HashSet<Subnet>,
}

impl EtcdStore {
    /// Sends what happens to leases until `shutdown`, or until nobody takes it; an earlier start
    /// had come to `after`.
    ///
    /// The first event, and the first after changes may have been missed, is a list. Failures are
    /// logged and tried again.
    pub async fn watch(
        self,
        after: Option<Position>,
        events: mpsc::Sender<Event>,
        shutdown: CancellationToken,
    ) {
        let watcher = EtcdWatcher {
            rounds: Rounds::new(events, &self.shared),
            keys: KnownKeys {
                cursor: Cursor::after(after.as_ref()),
                twins: HashSet::new(),
            },
            store: self,
        };
        shutdown
            .run_until_cancelled_owned(Box::pin(run(watcher)))
            .await;
    }
}

impl From<Error> for RoundEnd<Error> {
    fn from(error: Error) -> Self {
        Self::Broken(error)
    }
}

impl Watcher for EtcdWatcher {
    type Error = Error;

    async fn round(&mut self) -> Result<Infallible, RoundEnd<Error>> {
        if self.keys.cursor.resume().is_none() {
            self.list().await?;
        }
        let watched = self.follow().await;
        if matches!(
            watched,
            Err(RoundEnd::Broken(
                Error::Compacted { .. } | Error::TwoKeys { .. } | Error::Replaced
            ))
        ) {
            self.keys.cursor.forget();
        }
        watched
    }

    fn words(error: &Error) -> String {
        error.to_string()
    }

    fn rounds(&mut self) -> &mut Rounds {
        &mut self.rounds
    }
}

impl EtcdWatcher {
    async fn list(&mut self) -> Result<(), RoundEnd<Error>> {
        let listed = self
            .rounds
            .unless_moved(async {
                let session = self.store.session("list the leases").await?;
                self.store.list(&session).await
            })
            .await??;
        let shared = &self.store.shared;
        let own = shared.own.subnet().map(|own| {
            let records = &mut listed.records.iter();
            let record = records.find(|record| record.key.ipv4 == own);
            (own, record.map(|record| record.mod_revision))
        });
        let (revision, unread) = (listed.revision, listed.unread.len());
        for lease in &listed.unread {
            self.rounds.unread(lease);
        }
        let listing = self.keys.listed(listed);
        if listing.replaced {
            warn!(
                revision,
                "etcd is another cluster than before, or was set back; peers that it does not \
                 know are kept until their leases would have ended"
            );
            shared.own.forget_version();
        }
        if let Some((own, revision)) = own {
            shared.seen(own, revision);
        }
        let leases = listing.leases.len();
        info!(revision, leases, unread, "leases listed");
        shared.contacts.heard();
        self.rounds.send(StoreEvent::Listed(listing)).await?;
        Ok(())
    }

    async fn follow(&mut self) -> Result<Infallible, RoundEnd<Error>> {
        let session = self
            .rounds
            .unless_moved(self.store.session(ATTEMPT))
            .await??;
        if !self.keys.is_of(session.cluster, session.revision) {
            return Err(RoundEnd::Broken(Error::Replaced));
        }
        let from = i64::try_from(self.keys.cursor.revision()).unwrap_or(i64::MAX);
        let prefix = self.store.keys.subnets();
        let stream = session.watch(ATTEMPT, &prefix, from.saturating_add(1));
        let stream = self.rounds.unless_moved(stream).await??;
        let (mut sender, mut stream) = stream.split();
        let mut ask = interval(ASK);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = tokio::time::Instant::now();
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                () = self.store.shared.moved.notified() => return Err(RoundEnd::Moved),
                _ = ask.tick() => {
                    // The answer only shows that etcd is there: its revision may be ahead of
                    // changes that are still under way (etcd issue 15220).
                    let asked = sender.request_progress().await;
                    asked.map_err(|source| session.failed(ATTEMPT, source))?;
                    continue;
                }
                () = tokio::time::sleep_until(heard + SILENCE) => {
                    return Err(RoundEnd::Broken(Error::Silent {
                        attempt: ATTEMPT,
                        endpoint: session.endpoint().to_owned(),
                        limit: SILENCE,
                    }));
                }
            };
            let ended = |why: &str| Error::WatchEnded {
                endpoint: session.endpoint().to_owned(),
                why: why.to_owned(),
            };
            let message = message.map_err(|source| session.failed(ATTEMPT, source))?;
            let message = message.ok_or_else(|| ended("the connection was closed"))?;
            heard = tokio::time::Instant::now();
            if message.compact_revision() > 0 {
                let compacted = message.compact_revision();
                return Err(RoundEnd::Broken(Error::Compacted { compacted }));
            }
            if message.canceled() {
                return Err(RoundEnd::Broken(ended(message.cancel_reason())));
            }
            self.rounds.heard();
            self.changes(&message).await?;
        }
    }

    async fn changes(&mut self, message: &WatchResponse) -> Result<(), RoundEnd<Error>> {
        for change in message.events() {
            match self.keys.change(&self.store.keys, change)? {
                Said::Put(record) => {
                    let (subnet, revision) = (record.key.ipv4, record.mod_revision);
                    self.store.shared.seen(subnet, Some(revision));
                    let put = StoreEvent::Put(record.into_lease());
                    self.rounds.send(put).await?;
                }
                Said::Unread(lease, revision) => {
                    if let Some(subnet) = lease.subnet {
                        self.store.shared.seen(subnet, Some(revision));
                    }
                    self.rounds.unread(&lease);
                }
                Said::Gone(subnet) => {
                    self.store.shared.seen(subnet, None);
                    self.rounds.send(StoreEvent::Gone(subnet)).await?;
                }
                Said::Nothing => {}
            }
        }
        if let Some(position) = self.keys.cursor.position() {
            self.rounds.send(StoreEvent::Reached(position)).await?;
        }
        Ok(())
    }
}

/// What a change of a key says.
enum Said {
    /// A lease is new or changed.
    Put(Record),
    /// One that could not be read is, at this revision.
    Unread(UnreadLease, i64),
    /// A lease is gone.
    Gone(Subnet),
    /// Nothing of a lease.
    Nothing,
}

impl KnownKeys {
    /// Takes in a list.
    fn listed(&mut self, listed: Listed) -> Listing {
        let Listed {
            cluster,
            revision,
            records,
            unread,
        } = listed;
        let twins = records.iter().filter(|record| record.key.ipv6.is_some());
        self.twins = twins.map(|record| record.key.ipv4).collect();
        let store = store_name(cluster);
        let revision = u64::try_from(revision).unwrap_or_default();
        let (position, replaced) = self.cursor.listed(store, revision);
        // A key that names no subnet is none of those that are known.
        let unread = unread.into_iter().filter(|unread| unread.subnet.is_some());
        Listing {
            position,
            replaced,
            leases: records.into_iter().map(Record::into_lease).collect(),
            unread: unread.map(|unread| unread.subnet).collect(),
        }
    }

    /// Whether these are the keys of this cluster, and it is where it was or further: a watch
    /// of another one would wait for a revision that says nothing.
    fn is_of(&self, cluster: u64, revision: i64) -> bool {
        let reached = u64::try_from(revision).is_ok_and(|now| now >= self.cursor.revision());
        self.cursor.store() == Some(&store_name(cluster)) && reached
    }

    /// Takes in one change. After an error a list is needed.
    fn change(&mut self, keys: &Keys, change: &Change) -> Result<Said, Error> {
        let Some(kv) = change.kv() else {
            return Ok(Said::Nothing);
        };
        let revision = kv.mod_revision();
        let said = match change.event_type() {
            EventType::Put => {
                let read = Record::read(keys, kv.key(), kv.value(), kv.lease(), revision);
                self.put(read, revision)
            }
            EventType::Delete => self.deleted(keys, kv.key())?,
        };
        self.cursor
            .reached(u64::try_from(revision).unwrap_or_default());
        Ok(said)
    }

    fn put(&mut self, read: Result<Record, UnreadLease>, revision: i64) -> Said {
        match read {
            Ok(record) => {
                if record.key.ipv6.is_some() {
                    self.twins.insert(record.key.ipv4);
                }
                Said::Put(record)
            }
            Err(unread) => Said::Unread(unread, revision),
        }
    }

    fn deleted(&mut self, keys: &Keys, key: &[u8]) -> Result<Said, Error> {
        let Ok(key) = keys.parse(key) else {
            // It was never taken for a lease.
            return Ok(Said::Nothing);
        };
        let subnet = key.ipv4;
        if self.twins.contains(&subnet) {
            return Err(Error::TwoKeys { subnet });
        }
        Ok(Said::Gone(subnet))
    }
}

fn store_name(cluster: u64) -> String {
    format!("{cluster:x}")
}
