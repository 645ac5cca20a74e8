//! A second sink for events that the first one never accepts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::sparse::Sparse;
use crate::mutants::mutant;
use crate::{Batch, Checkpoint, Error, ErrorKind, Event, EventSink, Result};

/// Writes an event that the sink never accepts to a second sink, and continues with the next event.
///
/// Only an error of kind `Invalid` that names an event of the batch makes a dead letter. All other errors, such
/// as `Denied`, are returned unchanged: an expired password dead-letters nothing.
///
/// The dead letter is the event as it is, byte for byte and under its own id, so that an operator can replay
/// it. The reason is logged by `tracing` as an error, with its cause, and the counter
/// `hydrant_dead_letters_total` counts it.
///
/// The events before a dead letter are delivered first. The dead letter is written, durably as the second sink
/// defines it, before any event after it reaches the first sink. If the second sink fails, the append returns
/// its error, and no event is skipped.
///
/// After a crash, or an append with an unknown outcome, the first sink may be ahead of the batch that is sent
/// again. A sink that compares what it holds then answers `Fenced` at a dead letter. If the second sink holds
/// that event, the append continues after it. So the second sink must compare what it holds
/// ([`Capabilities::FENCING`](crate::Capabilities::FENCING)), as all stores of this workspace do.
///
/// The second sink belongs to this wrapper alone: its log is the dead letters, with gaps between their ids. If
/// the first sink is rebuilt from the start, the second one must be new too. If the second sink lost dead letters, the
/// append is `Diverged`; an operator restores them, or empties both sinks, and resumes.
///
/// Acknowledged means: each event is held by the first sink or by the second. Put it under a
/// [`Checkpointed`](super::Checkpointed), which detects holes in the batches, and counts dead letters at the
/// end of the log as delivered.
#[derive(Debug)]
pub struct DeadLetter<S, D> {
    sink: Sparse<S>,
    dead_letters: Sparse<D>,
    count: Arc<AtomicU64>,
    /// One batch at a time, since a batch may go in parts.
    turn: Mutex<()>,
}

impl<S: EventSink, D: EventSink> DeadLetter<S, D> {
    /// Writes to `dead_letters` what `sink` never accepts.
    pub fn new(sink: S, dead_letters: D) -> Self {
        Self {
            sink: Sparse::new(sink),
            dead_letters: Sparse::new(dead_letters),
            count: Arc::default(),
            turn: Mutex::default(),
        }
    }

    /// Counts the dead letters since this wrapper was created; for
    /// [`SecondaryOptions::with_dead_letters`](crate::SecondaryOptions::with_dead_letters).
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.count)
    }

    /// The sink inside.
    pub fn inner(&self) -> &S {
        &self.sink.sink
    }

    /// The sink of the dead letters.
    pub fn dead_letters(&self) -> &D {
        &self.dead_letters.sink
    }

    /// The index of the event in `part` that the sink never accepts, if the error is about one.
    async fn poison(&self, part: Batch<'_>, error: &Error) -> Result<Option<usize>> {
        let index = error.event().and_then(|id| part.events().binary_search_by_key(&id, Event::id).ok());
        let Some(index) = index else { return Ok(None) };
        let is_poison = match error.kind() {
            ErrorKind::Invalid => true,
            // The sink is ahead of this batch, and compared before it found the poison.
            ErrorKind::Fenced if !mutant("dead-letter-fenced") => {
                self.dead_letters.holds(part, &part.events()[index]).await.map_err(lost)?
            }
            _ => false,
        };
        Ok(is_poison.then_some(index))
    }

    /// Writes the first event of `part` as a dead letter, unless it is one already.
    async fn bury(&self, part: Batch<'_>, cause: &Error) -> Result<()> {
        if cause.kind() == ErrorKind::Fenced {
            return Ok(());
        }
        let event = part.first();
        self.dead_letters.append_one(part, event).await.map_err(lost)?;
        self.count.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("hydrant_dead_letters_total").increment(1);
        tracing::error!(event = %event.id(), %cause, "dead-lettered: the sink never accepts this event");
        Ok(())
    }

    /// Appends each part between two dead letters, and the dead letters.
    async fn append_parts(&self, batch: Batch<'_>) -> Result<()> {
        let len = batch.events().len();
        let (mut start, mut end) = (0, len);
        let honest = |start: usize, error: Error| if start == 0 { error } else { error.maybe_applied() };
        while let Some(part) = batch.part(start..end) {
            let Err(error) = self.sink.append(part, part.events()).await else {
                (start, end) = (end, len);
                continue;
            };
            match self.poison(part, &error).await.map_err(|error| honest(start, error))? {
                None => return Err(honest(start, error)),
                Some(0) => {
                    self.bury(part, &error).await.map_err(|error| honest(start, error))?;
                    (start, end) = (start + 1, len);
                }
                // First what is before it, so that the dead letter never overtakes an event.
                Some(index) => end = start + index,
            }
        }
        Ok(())
    }
}

/// Makes a `Gap` of the second sink `Diverged`. The source sends again from the first sink's checkpoint, so it would
/// never send the dead letters before that.
fn lost(error: Error) -> Error {
    if error.kind() != ErrorKind::Gap {
        return error;
    }
    let message = "the sink of the dead letters lost some of them; restore them, or empty both sinks, and remove their \
                   checkpoint entry if they have one, so that both start at the beginning";
    let event = error.event();
    let diverged = Error::diverged(message).because(error);
    match event {
        Some(event) => diverged.at(event),
        None => diverged,
    }
}

#[async_trait]
impl<S: EventSink, D: EventSink> EventSink for DeadLetter<S, D> {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.dead_letters.sends_after(batch.after()).await;
        let appended = self.append_parts(batch).await;
        if appended.is_err() {
            // An operator may empty both before the next append.
            self.dead_letters.doubt().await;
        }
        appended
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.sink.checkpoint().await
    }
}
