//! Other events in place of the source's, one for one.

use std::fmt;

use async_trait::async_trait;

use super::guard::{guarded, until_failure};
use crate::{Batch, Checkpoint, Error, ErrorKind, Event, EventSink, Result};

type Map = Box<dyn Fn(&Event) -> Result<Event> + Send + Sync>;

/// Forwards `map(event)` in place of each event: without personal data, or in another shape.
///
/// One to one: the id and the snapshot mark stay. If the map returns another id, the append fails with `Bug`
/// naming the event. The mark is set as the source's event has it, whatever the map returns, because a new
/// sink can only start at a marked event.
///
/// `map` must be pure: the same event becomes the same bytes, also after a restart. Otherwise a repeated
/// append is `Fenced`. For an event that it cannot map, it returns `Invalid`. A
/// [`DeadLetter`](super::DeadLetter) around it writes such an event to its second sink.
///
/// If the map fails for one event with `Invalid`, nothing of the batch is delivered, and the caller sends the
/// events before it again. With any other error, or a panic (`Bug`), the events before are delivered first.
///
/// Acknowledged means: the mapped events are, as the sink defines it.
///
/// Put it under a [`Checkpointed`](super::Checkpointed). Alone, its checkpoint is that of the mapped events,
/// whose digests differ from the source's: a fan-out compares them, and reports `Diverged`.
pub struct Mapped<S> {
    sink: S,
    map: Map,
}

impl<S: EventSink> Mapped<S> {
    /// Forwards to `sink` what `map` makes of each event.
    pub fn new(sink: S, map: impl Fn(&Event) -> Result<Event> + Send + Sync + 'static) -> Self {
        Self { sink, map: Box::new(map) }
    }

    /// The sink inside.
    pub fn inner(&self) -> &S {
        &self.sink
    }

    fn apply(&self, event: &Event) -> Result<Event> {
        let mapped =
            guarded("the map", event, || (self.map)(event))?.map_err(|error| error.at(event.id()))?;
        if mapped.id() != event.id() {
            let message =
                format!("the map changed the id to {}; correct the map, since ids stay", mapped.id());
            return Err(Error::bug(message).at(event.id()));
        }
        mapped.marked(event.is_snapshot())
    }
}

#[async_trait]
impl<S: EventSink> EventSink for Mapped<S> {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let (events, mapped) = until_failure(batch.events().iter().map(|event| self.apply(event)));
        match mapped {
            Err(error) if events.is_empty() || error.kind() == ErrorKind::Invalid => return Err(error),
            _ => {}
        }
        self.sink.append(Batch::new(batch.after(), &events)?.with_deadline(batch.deadline())).await?;
        mapped.map_err(Error::maybe_applied)
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.sink.checkpoint().await
    }
}

impl<S: fmt::Debug> fmt::Debug for Mapped<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapped").field("sink", &self.sink).finish_non_exhaustive()
    }
}
