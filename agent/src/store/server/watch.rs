//! Follows the lease server and turns what it says into events.

use std::convert::Infallible;
use std::error::Error as _;
use std::time::Duration;

use reqwest::Method;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use twill_core::event::Event;
use twill_core::leases::{Listing, Position, StoreEvent};

use super::answer::List;
use super::error::Error;
use super::line::{Said, WatchError};
use super::lines::Lines;
use super::{IDLE_TIMEOUT, ServerStore, THERE};
use crate::store::cursor::Cursor;
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
    cursor: Cursor,
    rounds: Rounds,
}

impl ServerStore {
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
        let watcher = ServerWatcher {
            rounds: Rounds::new(events, &self.shared),
            cursor: Cursor::after(after.as_ref()),
            store: self,
        };
        shutdown.run_until_cancelled_owned(run(watcher)).await;
    }
}

impl Watcher for ServerWatcher {
    type Error = Broken;

    async fn round(&mut self) -> Result<Infallible, RoundEnd<Broken>> {
        if self.cursor.resume().is_none() {
            self.list().await?;
        }
        let watched = self.follow().await;
        if matches!(
            watched,
            Err(RoundEnd::Broken(Broken::Store(Error::Gone { .. })))
        ) {
            self.cursor.forget();
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
        self.listed(list).await
    }

    async fn listed(&mut self, list: List) -> Result<(), RoundEnd<Broken>> {
        let List {
            store,
            revision,
            leases,
            unread,
        } = list;
        let (position, replaced) = self.cursor.listed(store.clone(), revision);
        if replaced {
            warn!(%store, revision, "the lease server has another store than before; \
                peers that it does not know are kept until their leases would have ended");
        }
        info!(
            %store,
            revision,
            leases = leases.len(),
            unread = unread.len(),
            "leases listed"
        );
        for lease in &unread {
            self.rounds.unread(lease);
        }
        let unread: Vec<_> = unread.into_iter().map(|lease| lease.subnet).collect();
        if let Some(own) = self.store.shared.own.subnet() {
            let there = leases.iter().any(|lease| lease.subnet == own)
                || unread
                    .iter()
                    .any(|unread| unread.is_none_or(|it| it == own));
            self.store.shared.seen(own, there.then_some(THERE));
        }
        let listing = Listing {
            position,
            replaced,
            leases,
            unread,
        };
        self.rounds.send(StoreEvent::Listed(listing)).await?;
        Ok(())
    }

    async fn follow(&mut self) -> Result<Infallible, RoundEnd<Broken>> {
        let mut call = self.store.call(Method::GET, "leases", "watch the leases");
        if let Some((store, revision)) = self.cursor.resume() {
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
                self.cursor.forget();
                call.unreadable(source)
            })? {
                let said = self.cursor.line(&line)?;
                self.rounds.heard();
                self.take(said).await?;
            }
            if let Some(position) = self.cursor.position() {
                self.rounds.send(StoreEvent::Reached(position)).await?;
            }
        }
    }

    /// Sends what a line says, and tells the keeper what it says of the own lease.
    async fn take(&mut self, said: Said) -> Result<(), RoundEnd<Broken>> {
        let shared = &self.store.shared;
        match said {
            Said::Put(lease) => {
                shared.seen(lease.subnet, Some(THERE));
                self.rounds.send(StoreEvent::Put(lease)).await?;
            }
            Said::Gone(subnet) => {
                shared.seen(subnet, None);
                self.rounds.send(StoreEvent::Gone(subnet)).await?;
            }
            Said::Unread(lease) => self.rounds.unread(&lease),
            Said::Bookmark => {}
        }
        Ok(())
    }
}
