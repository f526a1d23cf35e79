//! Follows the leases in etcd and turns what happens to them into events.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use etcd_client::{Event as Change, EventType, WatchResponse};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use twill_core::event::Event;
use twill_core::subnet::Subnet;

use super::EtcdStore;
use super::error::Error;
use super::keys::Keys;
use super::list::Listed;
use super::record::Record;
use crate::store::former::{Former, Notes};
use crate::store::known::{Known, List, Step, UnreadLease};
use crate::store::rounds::{RoundEnd, Rounds, Watcher, run};

const ATTEMPT: &str = "watch the leases";

/// How often etcd is asked whether the watch still stands.
const ASK: Duration = Duration::from_secs(30);
/// How long it may be silent all the same.
const SILENCE: Duration = Duration::from_secs(90);

struct EtcdWatcher {
    store: EtcdStore,
    leases: Leases,
    notes: Option<Notes>,
    rounds: Rounds,
}

/// What is known of the leases. Pure.
#[derive(Debug, Default)]
pub(super) struct Leases {
    known: Known,
    /// Subnets that a node with both families holds: two keys may name them.
    twins: HashSet<Subnet>,
}

impl EtcdStore {
    /// Sends what happens to leases until `shutdown`, or until nobody takes it.
    ///
    /// The first event, and the first after changes may have been missed, is a
    /// [`Event::Resync`]. Failures are logged and tried again; they send nothing.
    pub async fn watch(self, events: mpsc::Sender<Event>, shutdown: CancellationToken) {
        let former = self.former.as_deref();
        let watcher = EtcdWatcher {
            rounds: Rounds::new(events, &self.contacts, &self.moved),
            leases: Leases {
                known: former.map(Former::known).unwrap_or_default(),
                twins: HashSet::new(),
            },
            notes: former.map(Former::notes),
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
        if self.leases.known.resume().is_none() {
            self.list().await?;
        }
        let watched = self.follow().await;
        if matches!(
            watched,
            Err(RoundEnd::Broken(
                Error::Compacted { .. } | Error::TwoKeys { .. } | Error::Replaced
            ))
        ) {
            self.leases.known.forget_position();
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
        let (revision, count) = (listed.revision, listed.records.len());
        let own = self.store.own.subnet().map(|own| {
            let records = &mut listed.records.iter();
            let record = records.find(|record| record.key.ipv4 == own);
            (own, record.map_or(0, |record| record.mod_revision))
        });
        let step = self.leases.listed(listed, Instant::now());
        if step.replaced {
            warn!(
                revision,
                "etcd is another cluster than before, or was set back; peers that it does not \
                 know are kept until their leases would have ended"
            );
            self.store.own.forget_revision();
        }
        if let Some((own, revision)) = own {
            self.seen(own, revision);
        }
        info!(
            revision,
            leases = count,
            unread = step.unread.len(),
            "leases listed"
        );
        self.store.contacts.heard();
        self.rounds.take(step).await?;
        self.note();
        Ok(())
    }

    /// The key of a subnet is at this revision, 0 if it is gone.
    fn seen(&self, subnet: Subnet, revision: i64) {
        if self.store.own.subnet() == Some(subnet) {
            self.store.contacts.lease_seen(revision != 0);
        }
        self.store.own.seen(subnet, revision);
    }

    fn note_due(&self) -> Option<Instant> {
        self.notes.as_ref()?.due(&self.leases.known)
    }

    /// For the next start.
    fn note(&mut self) {
        if let Some(notes) = &mut self.notes {
            notes.take(&self.leases.known, Instant::now());
        }
    }

    async fn follow(&mut self) -> Result<Infallible, RoundEnd<Error>> {
        let session = self
            .rounds
            .unless_moved(self.store.session(ATTEMPT))
            .await??;
        if !self.leases.is_of(session.cluster, session.revision) {
            return Err(RoundEnd::Broken(Error::Replaced));
        }
        let from = i64::try_from(self.leases.known.revision()).unwrap_or(i64::MAX);
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
                () = self.store.moved.notified() => return Err(RoundEnd::Moved),
                _ = ask.tick() => {
                    // The answer only shows that etcd is there: its revision may be ahead of
                    // changes that are still under way (etcd issue 15220).
                    let asked = sender.request_progress().await;
                    asked.map_err(|source| session.failed(ATTEMPT, source))?;
                    continue;
                }
                () = until(self.note_due()) => {
                    self.note();
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
            let (step, own) = self.leases.change(&self.store.keys, change)?;
            if let Some((subnet, revision)) = own {
                self.seen(subnet, revision);
            }
            self.rounds.take(step).await?;
        }
        let step = self.leases.known.prune(Instant::now());
        self.rounds.take(step).await?;
        self.note();
        Ok(())
    }
}

impl Leases {
    /// Takes in a list.
    pub(super) fn listed(&mut self, listed: Listed, now: Instant) -> Step {
        let Listed {
            cluster,
            revision,
            records,
            unread,
        } = listed;
        // A key that names no subnet is none of those that are known.
        let (unread, nameless): (Vec<_>, Vec<_>) = unread
            .into_iter()
            .partition(|unread| unread.subnet.is_some());
        let twins = records.iter().filter(|record| record.key.ipv6.is_some());
        self.twins = twins.map(|record| record.key.ipv4).collect();
        let list = List {
            store: store_name(cluster),
            revision: u64::try_from(revision).unwrap_or_default(),
            leases: records.into_iter().map(Record::into_lease).collect(),
            unread,
        };
        let mut step = self.known.listed(list, now);
        step.unread.extend(nameless);
        step
    }

    /// Whether these are the leases of this cluster, and it is where it was or further: a watch
    /// of another one would wait for a revision that says nothing.
    fn is_of(&self, cluster: u64, revision: i64) -> bool {
        let reached = u64::try_from(revision).is_ok_and(|now| now >= self.known.revision());
        self.known.store() == Some(&store_name(cluster)) && reached
    }

    /// Takes in one change, and says what it makes of the key of a subnet: its revision, 0 if
    /// it is gone. After an error a list is needed.
    fn change(
        &mut self,
        keys: &Keys,
        change: &Change,
    ) -> Result<(Step, Option<(Subnet, i64)>), Error> {
        let Some(kv) = change.kv() else {
            return Ok((Step::default(), None));
        };
        let revision = kv.mod_revision();
        let outcome = match change.event_type() {
            EventType::Put => {
                let read = Record::read(keys, kv.key(), kv.value(), kv.lease(), revision);
                self.put(read, revision)
            }
            EventType::Delete => self.deleted(keys, kv.key())?,
        };
        self.known
            .reached(u64::try_from(revision).unwrap_or_default());
        Ok(outcome)
    }

    fn put(
        &mut self,
        read: Result<Record, UnreadLease>,
        revision: i64,
    ) -> (Step, Option<(Subnet, i64)>) {
        match read {
            Ok(record) => {
                let subnet = record.key.ipv4;
                if record.key.ipv6.is_some() {
                    self.twins.insert(subnet);
                }
                (
                    self.known.put(record.into_lease()),
                    Some((subnet, revision)),
                )
            }
            Err(unread) => {
                let subnet = unread.subnet;
                let step = Step {
                    unread: vec![unread],
                    ..Step::default()
                };
                (step, subnet.map(|subnet| (subnet, revision)))
            }
        }
    }

    fn deleted(&mut self, keys: &Keys, key: &[u8]) -> Result<(Step, Option<(Subnet, i64)>), Error> {
        let Ok(key) = keys.parse(key) else {
            // It was never taken for a lease.
            return Ok((Step::default(), None));
        };
        let subnet = key.ipv4;
        if self.twins.contains(&subnet) {
            return Err(Error::TwoKeys { subnet });
        }
        Ok((self.known.remove(subnet), Some((subnet, 0))))
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn store_name(cluster: u64) -> String {
    format!("{cluster:x}")
}
