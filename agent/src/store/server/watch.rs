//! Follows the lease server and turns what it says into events.

use std::error::Error as _;
use std::time::{Duration, Instant};

use reqwest::Method;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use twill_core::event::Event;

use super::error::Error;
use super::line::WatchError;
use super::lines::Lines;
use super::{IDLE_TIMEOUT, ServerStore};
use crate::store::known::{Known, List, Step};
use crate::store::trouble::Trouble;
use crate::store::unread::Unread;

/// For a whole list: 50,000 leases are 12 MB.
const LIST_TIMEOUT: Duration = Duration::from_mins(2);
const LIST_BYTES: usize = 256 << 20;

/// For one line of a watch, which holds one lease.
const LINE_BYTES: usize = 1 << 20;

/// Pauses after failures: flannel's, with jitter on top.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A watch that stands for so long ends a row of failures: longer than any pause, so that a
/// server which ends every watch at once is not asked more often than one that is away.
const STANDS: Duration = Duration::from_secs(6);

/// Why a round of listing and watching ended.
#[derive(Debug, thiserror::Error)]
enum RoundEnd {
    #[error(transparent)]
    Store(#[from] Error),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error("the lease server ended the watch")]
    Closed,
    #[error("this node has another address")]
    Moved,
    #[error("nobody takes the events any more")]
    NobodyListens,
}

struct Watcher {
    store: ServerStore,
    events: mpsc::Sender<Event>,
    known: Known,
    trouble: Trouble,
    /// When the first word of this watch came.
    heard_since: Option<Instant>,
    unread: Unread,
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
            trouble: Trouble::new(FIRST_PAUSE, LONGEST_PAUSE),
            heard_since: None,
            unread: Unread::default(),
        };
        shutdown.run_until_cancelled_owned(watcher.run()).await;
    }
}

impl Watcher {
    async fn run(mut self) {
        loop {
            let Err(end) = self.round().await;
            match &end {
                RoundEnd::NobodyListens => return,
                // Nothing is wrong with the server, and changes are missed until it is asked again.
                RoundEnd::Moved => {
                    info!("this node has another address; watching the leases anew");
                    continue;
                }
                RoundEnd::Store(_) | RoundEnd::Watch(_) | RoundEnd::Closed => {}
            }
            let heard_since = self.heard_since.take();
            if heard_since.is_some_and(|since| since.elapsed() >= STANDS) {
                self.trouble.is_over();
            }
            let cause = end.source().map(ToString::to_string);
            let why = cause
                .as_deref()
                .map_or_else(|| end.to_string(), |cause| format!("{end}: {cause}"));
            self.store.contacts.lost(&why);
            let pause = self.trouble.pause();
            if self.trouble.is_news(&why) {
                warn!(error = %end, cause, "lease watch broke off; peers stay as they are");
            } else {
                debug!(error = %end, cause, ?pause, "lease watch broke off again");
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Something came by the watch. One that breaks off right after its first word has not stood.
    fn heard(&mut self) {
        self.store.contacts.heard();
        let now = Instant::now();
        self.trouble.lives(now);
        let since = *self.heard_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= STANDS && self.trouble.is_over() {
            info!("the lease watch stands again");
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
        let (text, call) = unless(&self.store.moved, async {
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

    async fn follow(&mut self) -> Result<std::convert::Infallible, RoundEnd> {
        let mut call = self.store.call(Method::GET, "leases", "watch the leases");
        if let Some((store, revision)) = self.known.resume() {
            call.request = call.request.query(&[
                ("watch", "true"),
                ("revision", &revision.to_string()),
                ("store", store),
            ]);
        }
        let (mut response, call) = unless(&self.store.moved, call.send()).await??;
        let mut lines = Lines::new(LINE_BYTES);
        loop {
            let chunk = tokio::time::timeout(IDLE_TIMEOUT, response.chunk());
            let Ok(chunk) = unless(&self.store.moved, chunk).await? else {
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
                self.heard();
                self.take(step).await?;
            }
        }
    }

    /// Sends a step's events and reports what could not be read.
    async fn take(&mut self, step: Step) -> Result<(), RoundEnd> {
        let Step {
            events,
            unread,
            replaced: _,
        } = step;
        for lease in &unread {
            self.unread.tell(lease);
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

/// What `work` gives, unless the node moves meanwhile: then nobody hears the answer.
async fn unless<T>(moved: &Notify, work: impl Future<Output = T>) -> Result<T, RoundEnd> {
    tokio::select! {
        done = work => Ok(done),
        () = moved.notified() => Err(RoundEnd::Moved),
    }
}
