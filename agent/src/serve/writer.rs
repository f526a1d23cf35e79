//! The only one who changes anything: decides, stores, publishes, then answers.
//!
//! Requests that come while the disk is busy are stored together, in one commit.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::info;

use twill_core::lease::Lease;

use super::clock::Clock;
use super::disk::Disk;
use super::error::Error;
use super::record::Change;
use super::table::{Refusal, Request, Table};
use super::view::View;

/// How many requests one commit takes at most.
const BATCH: usize = 512;

/// How long the writer sleeps at most if no term ends.
const IDLE: Duration = Duration::from_hours(1);

/// A request, and where its answer goes. An answer that never comes means that the store failed.
#[derive(Debug)]
pub(super) struct Command {
    /// What is asked for.
    pub(super) request: Request,
    /// Where the answer goes.
    pub(super) reply: oneshot::Sender<Result<Lease, Refusal>>,
}

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
}

impl Writer {
    /// Works until `done`, or the disk fails.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        done: CancellationToken,
    ) -> Result<(), Error> {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let wait = self
                .table
                .next_end()
                .map_or(IDLE, |end| end.since(self.clock.now()).min(IDLE));
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
            changes = self.commit(changes).await?;
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

    async fn commit(&self, changes: Vec<Change>) -> Result<Vec<Change>, Error> {
        let disk = Arc::clone(&self.disk);
        let revision = self.table.revision();
        tokio::task::spawn_blocking(move || disk.commit(revision, &changes).map(|()| changes))
            .await
            .map_err(|source| Error::Task {
                task: "store",
                source,
            })?
    }
}
