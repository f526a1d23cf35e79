//! Follows the lease server and turns what it says into events.

use std::error::Error as _;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use reqwest::Method;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use twill_core::event::Event;

use super::answer::List;
use super::error::Error;
use super::known::{Known, Step, WatchError};
use super::lines::Lines;
use super::{IDLE_TIMEOUT, ServerStore};

/// For a whole list: 50,000 leases are 12 MB.
const LIST_TIMEOUT: Duration = Duration::from_mins(2);
const LIST_BYTES: usize = 256 << 20;

/// For one line of a watch, which holds one lease.
const LINE_BYTES: usize = 1 << 20;

/// Pauses after failures: flannel's, with jitter on top.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Why a round of listing and watching ended.
#[derive(Debug, thiserror::Error)]
enum RoundEnd {
    #[error(transparent)]
    Store(#[from] Error),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error("the lease server ended the watch")]
    Closed,
    #[error("nobody takes the events any more")]
    NobodyListens,
}

struct Watcher {
    store: ServerStore,
    events: mpsc::Sender<Event>,
    known: Known,
    /// Whether the watch has stood since the last failure.
    stood: bool,
}

impl ServerStore {
    /// Sends what happens to leases until `shutdown`, or until nobody takes it.
    ///
    /// The first event, and the first after changes may have been missed, is a
    /// [`Event::Resync`]. Failures are logged and tried again; they send nothing.
    pub async fn watch(self, events: mpsc::Sender<Event>, shutdown: CancellationToken) {
        let watcher = Watcher {
            store: self,
            events,
            known: Known::default(),
            stood: false,
        };
        shutdown.run_until_cancelled_owned(watcher.run()).await;
    }
}

impl Watcher {
    async fn run(mut self) {
        let mut pauses = pauses();
        loop {
            let Err(end) = self.round().await;
            if matches!(end, RoundEnd::NobodyListens) {
                return;
            }
            if std::mem::take(&mut self.stood) {
                pauses = self::pauses();
            }
            let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
            let cause = end.source().map(ToString::to_string);
            let why = cause
                .as_deref()
                .map_or_else(|| end.to_string(), |cause| format!("{end}: {cause}"));
            self.store.contacts.lost(&why);
            warn!(error = %end, cause, ?pause, "lease watch broke off; peers stay as they are");
            tokio::time::sleep(pause).await;
        }
    }

    /// Lists if that is needed, then watches until something ends it.
    async fn round(&mut self) -> Result<std::convert::Infallible, RoundEnd> {
        if self.known.resume().is_none() {
            self.list().await?;
        }
        let watched = self.follow().await;
        if matches!(watched, Err(RoundEnd::Store(Error::Gone { .. }))) {
            self.known.forget_position();
        }
        watched
    }

    async fn list(&mut self) -> Result<(), RoundEnd> {
        let mut call = self.store.call(Method::GET, "leases", "list the leases");
        call.request = call.request.timeout(LIST_TIMEOUT);
        let (mut response, call) = call.send().await?;
        let text = call.read(&mut response, LIST_BYTES).await?;
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

    async fn follow(&mut self) -> Result<std::convert::Infallible, RoundEnd> {
        let mut call = self.store.call(Method::GET, "leases", "watch the leases");
        if let Some((store, revision)) = self.known.resume() {
            call.request = call.request.query(&[
                ("watch", "true"),
                ("revision", &revision.to_string()),
                ("store", store),
            ]);
        }
        let (mut response, call) = call.send().await?;
        let mut lines = Lines::new(LINE_BYTES);
        loop {
            let chunk = tokio::time::timeout(IDLE_TIMEOUT, response.chunk()).await;
            let Ok(chunk) = chunk else {
                return Err(RoundEnd::Store(Error::Silent {
                    attempt: call.attempt,
                    url: call.url,
                    seconds: IDLE_TIMEOUT.as_secs(),
                }));
            };
            let Some(chunk) = chunk.map_err(|error| call.failed(error))? else {
                return Err(RoundEnd::Closed);
            };
            lines.push(&chunk);
            while let Some(line) = lines.next().map_err(|source| {
                self.known.forget_position();
                call.unreadable(source)
            })? {
                let step = self.known.line(&line, Instant::now())?;
                self.stood = true;
                self.store.contacts.heard();
                self.take(step).await?;
            }
        }
    }

    /// Sends a step's events and reports what could not be read.
    async fn take(&self, step: Step) -> Result<(), RoundEnd> {
        let Step {
            events,
            unread,
            replaced: _,
        } = step;
        for lease in unread {
            let subnet = lease.subnet.map(|subnet| subnet.to_string());
            warn!(
                subnet,
                value = lease.value,
                why = lease.why,
                "a lease cannot be read; this one stays as it was, the others are taken"
            );
        }
        for event in events {
            if self.events.send(event).await.is_err() {
                return Err(RoundEnd::NobodyListens);
            }
        }
        if let Some(own) = self.store.own.get()
            && !self.known.confirms(own)
        {
            self.store.own.missing.notify_one();
        }
        Ok(())
    }
}

fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::new()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .with_jitter()
        .build()
}
