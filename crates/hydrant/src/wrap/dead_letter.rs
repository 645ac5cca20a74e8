//! A place for events that a sink can never take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::sparse::Sparse;
use crate::{Batch, Checkpoint, Error, ErrorKind, Event, EventSink, Result};

/// Goes on past poison: an event that the sink can never take is written to a second sink instead.
///
/// Only an error of kind `Invalid` that names an event of the batch is poison. Everything else, `Denied`
/// above all, is passed on as it is: nothing is dead-lettered because a password has expired.
///
/// The dead letter is the event as it is, byte for byte under its own id, so that it can be replayed by a
/// person; *why* is told by `tracing` (an error with the cause) and counted. It is written, durably as the
/// second sink defines it, before any event behind it reaches the first, so a crash in between leaves it in
/// both views or is repeated. If the second sink fails, that is the error of the append, and nothing is
/// passed over.
///
/// The second sink belongs to this one alone: its log is the dead letters, ids growing with gaps. Rebuilding
/// the first sink from the start wants a new one too. What is in the first sink is every event but the
/// dead letters, in order; its predecessors follow from that.
///
/// The counter `hydrant_dead_letters_total` of the metrics counts them too.
///
/// Acknowledged means: each event is held by the first sink, or by the second. Put it under a
/// [`Checkpointed`](super::Checkpointed), which sees holes in what comes, and so that dead letters at the
/// end count as disposed of.
#[derive(Debug)]
pub struct DeadLetter<S, D> {
    sink: Sparse<S>,
    dead_letters: Sparse<D>,
    count: Arc<AtomicU64>,
    /// One batch at a time, also where it goes in pieces.
    turn: Mutex<()>,
}

impl<S: EventSink, D: EventSink> DeadLetter<S, D> {
    /// Writes to `dead_letters` what `sink` can never take.
    pub fn new(sink: S, dead_letters: D) -> Self {
        Self {
            sink: Sparse::new(sink),
            dead_letters: Sparse::new(dead_letters),
            count: Arc::default(),
            turn: Mutex::default(),
        }
    }

    /// Counts the dead letters since this wrapper was made; for
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

    async fn bury(&self, event: &Event, cause: &Error) -> Result<()> {
        self.dead_letters.append_one(event).await?;
        self.count.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("hydrant_dead_letters_total").increment(1);
        tracing::error!(event = %event.id(), %cause, "dead-lettered: the sink can never take this event");
        Ok(())
    }
}

/// The index of the event that can never be taken, if the error is of that sort.
fn poison(error: &Error, events: &[Event]) -> Option<usize> {
    let named = error.event().filter(|_| error.kind() == ErrorKind::Invalid)?;
    events.binary_search_by_key(&named, Event::id).ok()
}

#[async_trait]
impl<S: EventSink, D: EventSink> EventSink for DeadLetter<S, D> {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let _turn = self.turn.lock().await;
        let events = batch.events();
        let (mut start, mut end) = (0, events.len());
        let honest = |start: usize, error: Error| if start == 0 { error } else { error.maybe_applied() };
        while start < events.len() {
            let after = if start == 0 { batch.after() } else { Some(events[start - 1].id()) };
            let Err(error) = self.sink.append(after, &events[start..end]).await else {
                (start, end) = (end, events.len());
                continue;
            };
            match poison(&error, &events[start..end]) {
                None => return Err(honest(start, error)),
                Some(0) => {
                    self.bury(&events[start], &error).await.map_err(|error| honest(start, error))?;
                    (start, end) = (start + 1, events.len());
                }
                // First what stands before it, so that the dead letter never overtakes an event.
                Some(index) => end = start + index,
            }
        }
        Ok(())
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.sink.sink.checkpoint().await
    }
}
