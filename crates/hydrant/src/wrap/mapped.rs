//! Other events in place of the source's, one for one.

use std::fmt;

use async_trait::async_trait;

use crate::{Batch, Checkpoint, Error, ErrorKind, Event, EventSink, Result, Retry};

type Map = Box<dyn Fn(&Event) -> Result<Event> + Send + Sync>;

/// Gives a sink `map(event)` in place of each event: without personal data, in another shape.
///
/// One to one, and ids stay: an event that comes back with another id is `Bug`, and nothing of the batch is
/// written. `map` must be pure: the same event becomes the same bytes, also after a restart, or what is
/// sent again is `Fenced`. An event that it cannot map it answers with `Invalid`, which a
/// [`DeadLetter`](super::DeadLetter) around it takes as poison.
///
/// Acknowledged means: the mapped events are, as the sink defines it.
///
/// Put it under a [`Checkpointed`](super::Checkpointed). By itself its checkpoint is of the mapped events,
/// whose digests differ from the source's: a fan-out sees another history, `Diverged`.
pub struct Mapped<S> {
    sink: S,
    map: Map,
}

impl<S: EventSink> Mapped<S> {
    /// Gives `sink` what `map` makes of each event.
    pub fn new(sink: S, map: impl Fn(&Event) -> Result<Event> + Send + Sync + 'static) -> Self {
        Self { sink, map: Box::new(map) }
    }

    /// The sink inside.
    pub fn inner(&self) -> &S {
        &self.sink
    }

    fn apply(&self, event: &Event) -> Result<Event> {
        let mapped = (self.map)(event).map_err(|error| match error.event() {
            Some(_) => error,
            None => error.at(event.id()),
        })?;
        if mapped.id() == event.id() {
            return Ok(mapped);
        }
        let message = format!("the map made event {} of it; ids must stay, correct the map", mapped.id());
        Err(Error::new(ErrorKind::Bug, Retry::Never, message).at(event.id()))
    }
}

#[async_trait]
impl<S: EventSink> EventSink for Mapped<S> {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let mapped = batch.events().iter().map(|event| self.apply(event)).collect::<Result<Vec<_>>>()?;
        self.sink.append(Batch::new(batch.after(), &mapped)?).await
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
