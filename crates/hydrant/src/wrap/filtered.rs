//! Only some of the events.

use std::fmt;

use async_trait::async_trait;

use super::sparse::Sparse;
use crate::{Batch, Checkpoint, Event, EventSink, Result};

type Keep = Box<dyn Fn(&Event) -> bool + Send + Sync>;

/// Gives a sink only the events that `keep` chooses; the others are passed over.
///
/// The sink holds a log of its own: the kept events, byte for byte and in order, without a hole among them.
/// Acknowledged means: the kept events are, as the sink defines it.
///
/// Put it under a [`Checkpointed`](super::Checkpointed), which sees holes in what comes. By itself it cannot
/// tell a hole from events that were passed over, and its checkpoint is the last event *kept*: correct, but
/// what was passed over behind it is read again after a restart, and counts as not delivered.
///
/// `keep` must answer the same for the same event, also after a restart. Who empties or restores the sink
/// by hand removes its checkpoint entry too: from ids alone, a sink that lost events looks like one that
/// nothing was kept for.
pub struct Filtered<S> {
    sink: Sparse<S>,
    keep: Keep,
}

impl<S: EventSink> Filtered<S> {
    /// Gives `sink` the events that `keep` chooses.
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
        let kept: Vec<Event> = batch.events().iter().filter(|event| (self.keep)(event)).cloned().collect();
        if kept.is_empty() { Ok(()) } else { self.sink.append(batch.after(), &kept).await }
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.sink.sink.checkpoint().await
    }
}

impl<S: fmt::Debug> fmt::Debug for Filtered<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filtered").field("sink", &self.sink).finish_non_exhaustive()
    }
}
