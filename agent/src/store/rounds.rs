//! Following a store in rounds, each until something ends it: what the watchers of all stores
//! have in common. Failures are logged and tried again; of leases they say nothing.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use twill_core::event::Event;
use twill_core::leases::StoreEvent;

use super::shared::Shared;
use super::trouble::Trouble;
use super::unread::{Unread, UnreadLease};

/// Pauses after failures: flannel's, with jitter on top.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A watch that stands for so long ends a row of failures: longer than any pause, so that a
/// store which ends every watch at once is not asked more often than one that is away.
const STANDS: Duration = Duration::from_secs(6);

/// Why a round of listing and watching ended.
#[derive(Debug)]
pub(super) enum RoundEnd<E> {
    /// Something about the store.
    Broken(E),
    /// This node has another address.
    Moved,
    /// Nobody takes the events any more.
    NobodyListens,
}

/// This node has another address.
#[derive(Debug)]
pub(super) struct Moved;

/// Nobody takes the events any more.
#[derive(Debug)]
pub(super) struct NobodyListens;

impl<E> From<Moved> for RoundEnd<E> {
    fn from(Moved: Moved) -> Self {
        Self::Moved
    }
}

impl<E> From<NobodyListens> for RoundEnd<E> {
    fn from(NobodyListens: NobodyListens) -> Self {
        Self::NobodyListens
    }
}

/// A watcher of one kind of store.
pub(super) trait Watcher: Send {
    /// Why the store is not followed.
    type Error: Send;

    /// Lists if that is needed, then watches until something ends it.
    fn round(&mut self) -> impl Future<Output = Result<Infallible, RoundEnd<Self::Error>>> + Send;

    /// The error in one line.
    fn words(error: &Self::Error) -> String;

    /// What is common.
    fn rounds(&mut self) -> &mut Rounds;
}

/// Follows the store until nobody listens.
pub(super) async fn run<W: Watcher>(mut watcher: W) {
    loop {
        let Err(end) = watcher.round().await;
        let error = match end {
            RoundEnd::NobodyListens => return,
            // Nothing is wrong with the store, and changes are missed until it is asked again.
            RoundEnd::Moved => {
                info!("this node has another address; watching the leases anew");
                continue;
            }
            RoundEnd::Broken(error) => error,
        };
        let words = W::words(&error);
        let pause = watcher.rounds().broke_off(&words);
        let lost = watcher.rounds().send(StoreEvent::Lost(words)).await;
        if let Err(NobodyListens) = lost {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

/// What the rounds of one watcher share.
#[derive(Debug)]
pub(super) struct Rounds {
    events: mpsc::Sender<Event>,
    shared: Arc<Shared>,
    trouble: Trouble,
    /// When the first word of this watch came.
    heard_since: Option<Instant>,
    unread: Unread,
}

impl Rounds {
    /// Before the first.
    pub(super) fn new(events: mpsc::Sender<Event>, shared: &Arc<Shared>) -> Self {
        Self {
            events,
            shared: Arc::clone(shared),
            trouble: Trouble::new(FIRST_PAUSE, LONGEST_PAUSE),
            heard_since: None,
            unread: Unread::default(),
        }
    }

    /// Something came by the watch. One that breaks off right after its first word has not stood.
    pub(super) fn heard(&mut self) {
        self.shared.contacts.heard();
        let now = Instant::now();
        self.trouble.lives(now);
        let since = *self.heard_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= STANDS && self.trouble.is_over() {
            info!("the lease watch stands again");
        }
    }

    /// Sends what the store says.
    pub(super) async fn send(&mut self, event: StoreEvent) -> Result<(), NobodyListens> {
        match self.events.send(event.into()).await {
            Ok(()) => Ok(()),
            Err(_unsent) => Err(NobodyListens),
        }
    }

    /// Reports a lease that could not be read.
    pub(super) fn unread(&mut self, lease: &UnreadLease) {
        self.unread.tell(lease);
    }

    /// What `work` gives, unless the node moves meanwhile: then nobody hears the answer.
    pub(super) async fn unless_moved<T>(&self, work: impl Future<Output = T>) -> Result<T, Moved> {
        tokio::select! {
            done = work => Ok(done),
            () = self.shared.moved.notified() => Err(Moved),
        }
    }

    /// How long to wait before the next round.
    fn broke_off(&mut self, error: &str) -> Duration {
        let heard_since = self.heard_since.take();
        if heard_since.is_some_and(|since| since.elapsed() >= STANDS) {
            self.trouble.is_over();
        }
        let pause = self.trouble.pause();
        if self.trouble.is_news(error) {
            warn!(error, "lease watch broke off; peers stay as they are");
        } else {
            debug!(error, ?pause, "lease watch broke off again");
        }
        pause
    }
}
