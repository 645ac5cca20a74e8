//! Shared by the wrappers that forward only some of the source's events.

use tokio::sync::Mutex;

use crate::mutants::mutant;
use crate::{Batch, Checkpoint, Error, ErrorKind, Event, EventId, EventSink, Result};

/// A sink that receives only some of the source's events.
///
/// Its own log has other predecessors than the source: a batch follows the last event that was kept. The id of that
/// event is never guessed from the source's ids: it comes from the sink's first checkpoint, then from each acknowledged batch.
/// So a sink that loses events meanwhile answers `Gap`.
#[derive(Debug)]
pub(super) struct Sparse<S> {
    pub(super) sink: S,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    held: Held,
    /// The sink's newest event, as it replied, until the source comes to that event.
    unmet: Option<Checkpoint>,
}

/// What a sink is known to hold.
#[derive(Clone, Copy, Debug)]
enum Held {
    NotAsked,
    /// Replied or acknowledged.
    UpTo(Option<EventId>),
    /// The same, but an append since then did not succeed, here or in a sink beside this one.
    InDoubt(Option<EventId>),
}

impl<S: EventSink> Sparse<S> {
    pub(super) fn new(sink: S) -> Self {
        Self { sink, known: Mutex::new(Known { held: Held::NotAsked, unmet: None }) }
    }

    /// Appends the kept events of `batch`.
    ///
    /// # Errors
    /// `Fenced` if the sink holds an event that the source does not have.
    pub(super) async fn append(&self, batch: Batch<'_>, kept: &[Event]) -> Result<()> {
        self.meet(batch, kept).await?;
        if kept.is_empty() {
            return Ok(());
        }
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
        let Ok(mut known) = self.known.try_lock() else { return self.sink.checkpoint().await };
        let checkpoint = self.sink.checkpoint().await?;
        if !matches!(known.held, Held::UpTo(_)) {
            known.learn(checkpoint);
        }
        Ok(checkpoint)
    }

    /// Records that an append failed, here or in a sink beside this one, so that the sink may be another one by now.
    pub(super) async fn doubt(&self) {
        let mut known = self.known.lock().await;
        if let Held::UpTo(held) = known.held {
            known.held = Held::InDoubt(held);
        }
    }

    /// Records that the source sends what comes after `after`. The sink is asked again if that is in doubt.
    ///
    /// An operator may have emptied the sink, or restored an older state, and have it sent again from there. As long as
    /// the source counts all that the sink held as delivered, a sink that lost events has to answer `Gap`.
    pub(super) async fn sends_after(&self, after: Option<EventId>) {
        self.known.lock().await.sends_after(after);
    }

    /// Compares the newest event of a sink that is ahead with that of the source, also if it is not kept.
    ///
    /// The sink compares only the events that it gets. Without this comparison, a sink that took a late event of a
    /// log that is lost would mix two histories.
    async fn meet(&self, batch: Batch<'_>, kept: &[Event]) -> Result<()> {
        let mut known = self.known.lock().await;
        known.sends_after(batch.after());
        if matches!(known.held, Held::NotAsked) {
            known.learn(self.sink.checkpoint().await?);
        }
        let Some((checkpoint, id)) = known.unmet.and_then(|unmet| Some((unmet, unmet.id()?))) else {
            return Ok(());
        };
        if Some(id) > batch.after() && id > batch.last().id() {
            return Ok(()); // the source comes to this event later
        }
        known.unmet = None;
        let is_same = |event: &Event| Checkpoint::at(event) == checkpoint;
        // The sink itself compares an event that is kept.
        let is_met = kept.iter().any(|event| event.id() == id) || batch.events().iter().any(is_same);
        if Some(id) <= batch.after() || is_met || mutant("sparse-uncompared") {
            return Ok(());
        }
        known.held = Held::NotAsked;
        Err(Error::fenced(
            "the sink holds an event here that the log does not have, as after another log or filter",
        )
        .at(id))
    }

    async fn write(
        &self,
        batch: Batch<'_>,
        kept: &[Event],
        follows: impl FnOnce(Option<EventId>) -> Option<EventId>,
    ) -> Result<()> {
        let mut known = self.known.lock().await;
        if matches!(known.held, Held::NotAsked) {
            known.learn(self.sink.checkpoint().await?);
        }
        let (Held::UpTo(held) | Held::InDoubt(held)) = known.held else {
            return self.sink.append(Batch::new(batch.after(), kept)?.with_deadline(batch.deadline())).await;
        };
        let batch = Batch::new(follows(held), kept)?.with_deadline(batch.deadline());
        known.held = Held::InDoubt(held); // also if this future is dropped
        let appended = self.sink.append(batch).await;
        match &appended {
            Ok(()) => known.held = Held::UpTo(held.max(Some(batch.last().id()))),
            // Another runner wrote: an operator who resumes this one means it to continue from there.
            Err(error) if error.kind() == ErrorKind::Fenced => known.held = Held::NotAsked,
            Err(_) => {}
        }
        appended
    }
}

impl Known {
    fn learn(&mut self, checkpoint: Checkpoint) {
        self.held = Held::of(checkpoint);
        self.unmet = Some(checkpoint);
    }

    fn sends_after(&mut self, after: Option<EventId>) {
        if let Held::InDoubt(held) = self.held
            && after < held
        {
            self.held = Held::NotAsked;
        }
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
