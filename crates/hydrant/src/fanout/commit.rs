//! The committer: the one task that writes to the primary. It outlives its callers, so that no dropped
//! append can come between a commit and its publication.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::guard::{backoff, guarded};
use super::hub::Hub;
use super::options::FanOutOptions;
use crate::{
    Batch, Checkpoint, Durability, Error, ErrorKind, Event, EventId, EventSink, Primary, Result, Retry,
};

/// The pauses between attempts to learn the outcome of a write.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

pub(crate) enum Command {
    Append { after: Option<EventId>, events: Vec<Event>, reply: oneshot::Sender<Result<()>> },
    Checkpoint { reply: oneshot::Sender<Result<Checkpoint>> },
    Close { reply: oneshot::Sender<()> },
}

pub(crate) struct Committer<P> {
    pub(crate) primary: Arc<P>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) options: FanOutOptions,
    pub(crate) rng: fastrand::Rng,
    /// The newest event that was accepted but is not known to be durable.
    pub(crate) unsynced: Option<EventId>,
}

impl<P: Primary> Committer<P> {
    /// Serves one command after the other until all handles are gone.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let command = tokio::select! {
                biased;
                command = commands.recv() => command,
                () = tokio::time::sleep(self.options.sync_poll), if self.unsynced.is_some() => {
                    self.publish_synced().await;
                    continue;
                }
            };
            // A caller that is gone does not want its answer: what was done stays done.
            match command {
                Some(Command::Append { after, events, reply }) => {
                    reply.send(self.append(after, &events).await).ok();
                }
                Some(Command::Checkpoint { reply }) => {
                    reply.send(self.checkpoint().await).ok();
                }
                Some(Command::Close { reply }) => {
                    self.finish().await;
                    reply.send(()).ok();
                }
                None => return self.hub.abandon(),
            }
        }
    }

    async fn append(&mut self, after: Option<EventId>, events: &[Event]) -> Result<()> {
        if let Some(stopped) = self.hub.stopped() {
            return Err(stopped);
        }
        let batch = Batch::new(after, events)?;
        match self.attempt(batch).await {
            Ok(()) => {}
            Err(error) if is_unknown(&error) => self.resolve(batch, error).await?,
            Err(error) => return Err(error),
        }
        self.hub.feed.stage(after, events);
        match self.primary.durability() {
            Durability::Durable => self.publish(batch.last().id()),
            Durability::Accepted => {
                self.unsynced = Some(batch.last().id());
                self.publish_synced().await;
            }
        }
        Ok(())
    }

    async fn attempt(&self, batch: Batch<'_>) -> Result<()> {
        guarded("the primary's append", self.options.call_timeout, self.primary.append(batch)).await
    }

    /// Sends the same bytes under the same ids until the outcome is known, or stops the log.
    async fn resolve(&mut self, batch: Batch<'_>, mut error: Error) -> Result<()> {
        let deadline = Instant::now() + self.options.resolve_timeout;
        let mut attempt = 0;
        while is_unknown(&error) || error.retry() == Retry::Safe {
            let pause = backoff(&mut self.rng, attempt, BACKOFF_MIN, BACKOFF_MAX);
            if Instant::now() + pause >= deadline {
                break;
            }
            tracing::warn!(%error, ?pause, first = %batch.first().id(), "a write has an unknown outcome: sending it again");
            tokio::time::sleep(pause).await;
            attempt += 1;
            match self.attempt(batch).await {
                Ok(()) => return Ok(()),
                Err(next) => error = next,
            }
        }
        let (first, last) = (batch.first().id(), batch.last().id());
        let stopped = Error::new(
            ErrorKind::Closed,
            Retry::AfterCheckpoint,
            format!(
                "whether events {first} to {last} are in the log could not be found out, so it takes no more: \
                 open the fan-out again, which reads what is there"
            ),
        )
        .at(first)
        .because(error);
        tracing::error!(error = %stopped, "the log stopped");
        self.hub.stop(stopped.clone());
        Err(stopped)
    }

    fn publish(&self, head: EventId) {
        self.hub.feed.publish(head);
        self.hub.changed.send_replace(());
    }

    /// Publishes what a primary that accepts first has made durable since.
    async fn publish_synced(&mut self) {
        match guarded("the primary's checkpoint", self.options.call_timeout, self.primary.checkpoint()).await
        {
            Ok(checkpoint) => {
                if let Some(head) = checkpoint.id() {
                    self.publish(head);
                    self.unsynced = self.unsynced.filter(|accepted| *accepted > head);
                }
            }
            Err(error) => tracing::warn!(%error, "how far the primary is durable is not known"),
        }
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        guarded("the primary's checkpoint", self.options.call_timeout, self.primary.checkpoint()).await
    }

    /// Takes no more appends, and publishes what is durable.
    async fn finish(&mut self) {
        if self.unsynced.is_some() {
            self.publish_synced().await;
        }
        if self.hub.stopped().is_none() {
            self.hub.stop(Error::closed("the fan-out was closed; open it again to append"));
        }
    }
}

/// Whether the batch may have been applied. A gap is an answer: it was not.
fn is_unknown(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Gap => false,
        ErrorKind::Bug => true,
        _ => error.retry() == Retry::AfterCheckpoint,
    }
}
