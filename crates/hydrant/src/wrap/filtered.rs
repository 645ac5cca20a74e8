//! Only some of the events.

use std::fmt;

use async_trait::async_trait;

use super::guard::{guarded, until_failure};
use super::sparse::Sparse;
use crate::{Batch, Checkpoint, Error, Event, EventSink, Result};

type Keep = Box<dyn Fn(&Event) -> bool + Send + Sync>;

/// Forwards only the events that `keep` chooses, and skips the others.
///
/// The sink holds a log of its own: the kept events, byte for byte and in order, without a hole among them.
/// Acknowledged means: the kept events are, as the sink defines it.
///
/// Put it under a [`Checkpointed`](super::Checkpointed), which detects holes in the batches. Alone, this
/// wrapper cannot distinguish a hole from skipped events, and its checkpoint is the last event *kept*: events
/// skipped after that are read again after a restart, and count as not delivered.
///
/// `keep` must return the same for the same event, also after a restart. An operator who empties or restores
/// the sink removes its checkpoint entry too: by ids alone, a sink that lost events looks like one for which
/// nothing was kept.
///
/// If `keep` panics, the events before are delivered, and the append fails with `Bug` naming the event.
pub struct Filtered<S> {
    sink: Sparse<S>,
    keep: Keep,
}

impl<S: EventSink> Filtered<S> {
    /// Forwards to `sink` the events that `keep` chooses.
    pub fn new(sink: S, keep: impl Fn(&Event) -> bool + Send + Sync + 'static) -> Self {
        Self { sink: Sparse::new(sink), keep: Box::new(keep) }
    }

    /// The sink inside.
    pub fn inner(&self) -> &S {
        &self.sink.sink
    }
}

#[async_trait]
impl<S: EventSink> EventSink for Filtered<S> {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let chosen = batch.events().iter().filter_map(|event| {
            let keeps = guarded("the filter", event, || (self.keep)(event));
            keeps.map(|keeps| keeps.then(|| event.clone())).transpose()
        });
        let (kept, chosen) = until_failure(chosen);
        self.sink.append(batch, &kept).await?;
        chosen.map_err(Error::maybe_applied)
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.sink.checkpoint().await
    }
}

impl<S: fmt::Debug> fmt::Debug for Filtered<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filtered").field("sink", &self.sink).finish_non_exhaustive()
    }
}
