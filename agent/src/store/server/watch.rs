//! Follows the lease server and turns what it says into events.

use std::convert::Infallible;
use std::error::Error as _;
use std::time::{Duration, Instant};

use reqwest::Method;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use twill_core::event::Event;

use super::error::Error;
use super::line::WatchError;
use super::lines::Lines;
use super::{IDLE_TIMEOUT, ServerStore};
use crate::store::former::{Former, Notes};
use crate::store::known::{Known, List, Step};
use crate::store::rounds::{RoundEnd, Rounds, Watcher, run};

/// For a whole list: 50,000 leases are 12 MB.
const LIST_TIMEOUT: Duration = Duration::from_mins(2);
const LIST_BYTES: usize = 256 << 20;

/// For one line of a watch, which holds one lease.
const LINE_BYTES: usize = 1 << 20;

/// Why a round of listing and watching broke off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Store(#[from] Error),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error("the lease server ended the watch")]
    Closed,
}

impl From<Error> for RoundEnd<Broken> {
    fn from(error: Error) -> Self {
        Self::Broken(error.into())
    }
}

impl From<WatchError> for RoundEnd<Broken> {
    fn from(error: WatchError) -> Self {
        Self::Broken(error.into())
    }
}

struct ServerWatcher {
    store: ServerStore,
    known: Known,
    notes: Option<Notes>,
    rounds: Rounds,
}

impl ServerStore {
    /// Sends what happens to leases until `shutdown`, or until nobody takes it.
    ///
    /// The first event, and the first after changes may have been missed, is a
    /// [`Event::Resync`]. Failures are logged and tried again; they send nothing.
    pub async fn watch(self, events: mpsc::Sender<Event>, shutdown: CancellationToken) {
        let former = self.former.as_deref();
        let watcher = ServerWatcher {
            rounds: Rounds::new(events, &self.contacts, &self.moved),
            known: former.map(Former::known).unwrap_or_default(),
            notes: former.map(Former::notes),
            store: self,
        };
        shutdown.run_until_cancelled_owned(run(watcher)).await;
    }
}

impl Watcher for ServerWatcher {
    type Error = Broken;

    async fn round(&mut self) -> Result<Infallible, RoundEnd<Broken>> {
        if self.known.resume().is_none() {
            self.list().await?;
        }
        let watched = self.follow().await;
        if matches!(
            watched,
            Err(RoundEnd::Broken(Broken::Store(Error::Gone { .. })))
        ) {
            self.known.forget_position();
        }
        watched
    }

    fn words(error: &Broken) -> String {
        match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        }
    }

    fn rounds(&mut self) -> &mut Rounds {
        &mut self.rounds
    }
}

impl ServerWatcher {
    async fn list(&mut self) -> Result<(), RoundEnd<Broken>> {
        let mut call = self.store.call(Method::GET, "leases", "list the leases");
        call.request = call.request.timeout(LIST_TIMEOUT);
        let (text, call) = self
            .rounds
            .unless_moved(async {
                let (mut response, call) = call.send().await?;
                let text = call.read(&mut response, LIST_BYTES).await?;
                Ok::<_, Error>((text, call))
            })
            .await??;
        let list = List::parse(&text).map_err(|source| call.unreadable(source))?;
        let (store, revision, leases) = (list.store.clone(), list.revision, list.leases.len());
        let step = self.known.listed(list, Instant::now());
        if step.replaced {
            warn!(%store, revision, "the lease server has another store than before; \
                peers that it does not know are kept until their leases would have ended");
        }
        info!(%store, revision, leases, unread = step.unread.len(), "leases listed");
        self.take(step).await
    }

    async fn follow(&mut self) -> Result<Infallible, RoundEnd<Broken>> {
        let mut call = self.store.call(Method::GET, "leases", "watch the leases");
        if let Some((store, revision)) = self.known.resume() {
            call.request = call.request.query(&[
                ("watch", "true"),
                ("revision", &revision.to_string()),
                ("store", store),
            ]);
        }
        let (mut response, call) = self.rounds.unless_moved(call.send()).await??;
        let mut lines = Lines::new(LINE_BYTES);
        loop {
            let chunk = tokio::time::timeout(IDLE_TIMEOUT, response.chunk());
            let Ok(chunk) = self.rounds.unless_moved(chunk).await? else {
                return Err(RoundEnd::Broken(Broken::Store(Error::Silent {
                    attempt: call.attempt,
                    url: call.url,
                    seconds: IDLE_TIMEOUT.as_secs(),
                })));
            };
            let Some(chunk) = chunk.map_err(|error| call.failed(error))? else {
                return Err(RoundEnd::Broken(Broken::Closed));
            };
            lines.push(&chunk);
            while let Some(line) = lines.next().map_err(|source| {
                self.known.forget_position();
                call.unreadable(source)
            })? {
                let step = self.known.line(&line, Instant::now())?;
                self.rounds.heard();
                self.take(step).await?;
            }
        }
    }

    /// Sends a step's events, and says when the store does not have the own lease.
    async fn take(&mut self, step: Step) -> Result<(), RoundEnd<Broken>> {
        self.rounds.take(step).await?;
        if let Some(notes) = &mut self.notes {
            notes.take(&self.known, Instant::now());
        }
        if let Some(own) = self.store.own.get() {
            let there = self.known.confirms(own);
            self.store.contacts.lease_seen(there);
            if !there {
                self.store.own.missing.notify_one();
            }
        }
        Ok(())
    }
}
