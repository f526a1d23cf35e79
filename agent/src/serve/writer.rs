//! The only one who changes anything: decides, stores, publishes, then answers.
//!
//! Requests that come while the disk is busy are stored together, in one commit. While the disk
//! takes nothing they are refused, no lease ends, and readers go on with what was stored.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use twill_core::chain::chain;
use twill_core::lease::Lease;

use super::clock::Clock;
use super::disk::Disk;
use super::error::Error;
use super::record::{Change, Record};
use super::table::{Refusal, Request, Table};
use super::view::View;

/// How many requests one commit takes at most.
const BATCH: usize = 512;

/// How soon a disk that took nothing is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// How long the writer sleeps at most if no term ends.
const IDLE: Duration = Duration::from_hours(1);

/// A request, and where its answer goes. An answer that never comes means that the store failed.
#[derive(Debug)]
pub(super) struct Command {
    /// What is asked for.
    pub(super) request: Request,
    /// Where the answer goes.
    pub(super) reply: Reply,
}

/// Where an answer goes.
type Reply = oneshot::Sender<Result<Lease, Refusal>>;

/// Everything that the writer has in its hands.
#[derive(Debug)]
pub(super) struct Writer {
    /// Who holds what, as it will be on the disk.
    pub(super) table: Table,
    /// The disk.
    pub(super) disk: Arc<Disk>,
    /// What readers see.
    pub(super) view: Arc<View>,
    /// The time.
    pub(super) clock: Clock,
    /// Why nothing is stored now.
    pub(super) standstill: Option<Standstill>,
}

/// The disk takes nothing. What the table says is not what is stored.
#[derive(Debug)]
pub(super) struct Standstill {
    why: Refusal,
    /// When it is tried again.
    again: Instant,
}

impl Writer {
    /// Works until `done`.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        done: CancellationToken,
    ) -> Result<(), Error> {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let wait = match &self.standstill {
                Some(standstill) => standstill.again.saturating_duration_since(Instant::now()),
                None => self
                    .table
                    .next_end()
                    .map_or(IDLE, |end| end.since(self.clock.now()).min(IDLE)),
            };
            tokio::select! {
                () = done.cancelled() => return Ok(()),
                count = commands.recv_many(&mut batch, BATCH) => if count == 0 {
                    return Ok(());
                },
                () = tokio::time::sleep(wait) => {}
            }
            self.step(&mut batch).await?;
        }
    }

    async fn step(&mut self, batch: &mut Vec<Command>) -> Result<(), Error> {
        let now = self.clock.now();
        if let Some(standstill) = &self.standstill
            && (standstill.again > Instant::now() || !self.recover().await?)
        {
            self.refuse(batch.drain(..).map(|command| command.reply));
            return Ok(());
        }
        let mut changes = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        for Command { request, reply } in batch.drain(..) {
            let answer = self.table.apply(request, now, &mut changes);
            answers.push((reply, answer));
        }
        // After the requests: a renewal that waited here is not too late.
        let asked = changes.len();
        self.table.expire(now, &mut changes);
        for change in changes.iter().skip(asked) {
            if let Change::Removed { subnet, .. } = change {
                info!(%subnet, "lease expired");
            }
        }
        if !changes.is_empty() {
            changes = match self.commit(changes).await {
                Ok(changes) => changes,
                Err(error) => {
                    self.stand_still(&error);
                    self.refuse(answers.into_iter().map(|(reply, _)| reply));
                    return Ok(());
                }
            };
            self.view
                .publish(&changes, now)
                .map_err(|error| Error::Serve(error.into()))?;
        }
        for (reply, answer) in answers {
            // Whoever asked may have gone away; what was decided holds all the same.
            drop(reply.send(answer.map(|record| record.lease(now))));
        }
        Ok(())
    }

    /// Nothing can be stored from now on, for a while.
    fn stand_still(&mut self, error: &Error) {
        let text = chain(error);
        if self.standstill.is_none() {
            error!(
                error = text,
                "nothing can be stored; lists and watches go on, writes are refused until it can"
            );
        }
        self.standstill = Some(Standstill {
            why: Refusal::NotStored {
                why: text,
                full: error.is_full(),
            },
            again: Instant::now() + AGAIN,
        });
    }

    fn refuse(&self, replies: impl Iterator<Item = Reply>) {
        for reply in replies {
            if let Some(standstill) = &self.standstill {
                drop(reply.send(Err(standstill.why.clone())));
            }
        }
    }

    /// Stores what readers see, whatever became of the writes that failed. Terms that ended
    /// meanwhile begin again, as after a restart: nobody could renew. Whether that worked.
    async fn recover(&mut self) -> Result<bool, Error> {
        let now = self.clock.now();
        let (revision, records) = self.view.leases();
        let mut table = self.table.emptied(revision);
        let records = records.iter().map(|record| Record::clone(record)).collect();
        let changes = table.load(records, now);
        let records: Vec<Arc<Record>> = table.records().cloned().collect();
        let disk = Arc::clone(&self.disk);
        let stored = spawn_blocking(move || disk.rewrite(revision, &records)).await;
        if let Err(error) = stored.unwrap_or_else(|source| Err(broke_off(source))) {
            self.stand_still(&error);
            return Ok(false);
        }
        info!("what changes is stored again");
        self.standstill = None;
        self.table = table;
        self.view
            .publish(&changes, now)
            .map_err(|error| Error::Serve(error.into()))?;
        Ok(true)
    }

    async fn commit(&self, changes: Vec<Change>) -> Result<Vec<Change>, Error> {
        let disk = Arc::clone(&self.disk);
        let revision = self.table.revision();
        spawn_blocking(move || disk.commit(revision, &changes).map(|()| changes))
            .await
            .unwrap_or_else(|source| Err(broke_off(source)))
    }
}

fn broke_off(source: JoinError) -> Error {
    Error::Task {
        task: "store",
        source,
    }
}
