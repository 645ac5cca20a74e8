//! What sinks have in common that hold only some of the source's events.

use tokio::sync::Mutex;

use crate::{Batch, Checkpoint, ErrorKind, Event, EventId, EventSink, Result};

/// A sink that receives only some of the source's events.
///
/// Its own log has other predecessors than the source: a batch follows the last event that was kept. That id
/// is never guessed from the source's ids. It is what the sink replied when it was asked first, and then what
/// it acknowledged, so that a sink which loses events meanwhile answers `Gap`.
#[derive(Debug)]
pub(super) struct Sparse<S> {
    pub(super) sink: S,
    held: Mutex<Held>,
}

/// What a sink is known to hold.
#[derive(Clone, Copy, Debug)]
enum Held {
    NotAsked,
    /// Replied or acknowledged.
    UpTo(Option<EventId>),
    /// The same, but an append since then did not succeed.
    InDoubt(Option<EventId>),
}

impl<S: EventSink> Sparse<S> {
    pub(super) fn new(sink: S) -> Self {
        Self { sink, held: Mutex::new(Held::NotAsked) }
    }

    /// Appends the kept events of `batch`, of which there is at least one.
    pub(super) async fn append(&self, batch: Batch<'_>, kept: &[Event]) -> Result<()> {
        let after = batch.after();
        let opens = kept.first().is_some_and(Event::is_snapshot);
        let follows = |held: Option<EventId>| match held {
            None if opens => after, // a snapshot opens an empty sink, and this is its floor
            // If the sink is ahead (a crash came before the checkpoint), the batch overlaps what it holds, and
            // is compared there.
            held => held.min(after),
        };
        self.write(batch, kept, follows).await
    }

    /// Appends one event of `batch`, whatever was not kept before it.
    pub(super) async fn append_one(&self, batch: Batch<'_>, event: &Event) -> Result<()> {
        let before = event.id().prev();
        self.write(batch, std::slice::from_ref(event), |held| held.min(before)).await
    }

    /// Returns whether the sink holds this event of `batch`, by the sink's own comparison. Writes nothing.
    pub(super) async fn holds(&self, batch: Batch<'_>, event: &Event) -> Result<bool> {
        if self.sink.checkpoint().await?.id() < Some(event.id()) {
            return Ok(false);
        }
        match self.append_one(batch, event).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Fenced => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns the sink's checkpoint. A caller that asks after a failed append sends from there, so the next
    /// batch follows it.
    pub(super) async fn checkpoint(&self) -> Result<Checkpoint> {
        let Ok(mut known) = self.held.try_lock() else { return self.sink.checkpoint().await };
        let checkpoint = self.sink.checkpoint().await?;
        if !matches!(*known, Held::UpTo(_)) {
            *known = Held::of(checkpoint);
        }
        Ok(checkpoint)
    }

    async fn write(
        &self,
        batch: Batch<'_>,
        kept: &[Event],
        follows: impl FnOnce(Option<EventId>) -> Option<EventId>,
    ) -> Result<()> {
        let mut known = self.held.lock().await;
        if matches!(*known, Held::NotAsked) {
            *known = Held::of(self.sink.checkpoint().await?);
        }
        let (Held::UpTo(held) | Held::InDoubt(held)) = *known else {
            return self.sink.append(Batch::new(batch.after(), kept)?.with_deadline(batch.deadline())).await;
        };
        let batch = Batch::new(follows(held), kept)?.with_deadline(batch.deadline());
        *known = Held::InDoubt(held); // also if this future is dropped
        let appended = self.sink.append(batch).await;
        match &appended {
            Ok(()) => *known = Held::UpTo(held.max(Some(batch.last().id()))),
            // Another runner wrote: an operator who resumes this one means it to continue from there.
            Err(error) if error.kind() == ErrorKind::Fenced => *known = Held::NotAsked,
            Err(_) => {}
        }
        appended
    }
}

impl Held {
    fn of(checkpoint: Checkpoint) -> Self {
        match checkpoint {
            Checkpoint::Unknown => Self::NotAsked,
            checkpoint => Self::UpTo(checkpoint.id()),
        }
    }
}
