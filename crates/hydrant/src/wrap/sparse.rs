//! What sinks have in common that hold only some of the source's events.

use tokio::sync::Mutex;

use crate::{Batch, Checkpoint, Event, EventId, EventSink, Result};

/// A sink that is given only some of the source's events.
///
/// Its own log has other predecessors than the source: what a batch stands behind there is the last event
/// that was kept. That is never guessed from the source's ids. It is what the sink said when it was first
/// asked, and then what it acknowledged, so that a sink which loses events meanwhile answers `Gap`.
#[derive(Debug)]
pub(super) struct Sparse<S> {
    pub(super) sink: S,
    held: Mutex<Held>,
}

/// What a sink is known to hold.
#[derive(Clone, Copy, Debug)]
enum Held {
    NotAsked,
    UpTo(Option<EventId>),
}

impl<S: EventSink> Sparse<S> {
    pub(super) fn new(sink: S) -> Self {
        Self { sink, held: Mutex::new(Held::NotAsked) }
    }

    /// Appends events that stand behind `after` in the source, with whatever was not kept between.
    pub(super) async fn append(&self, after: Option<EventId>, events: &[Event]) -> Result<()> {
        let opens = events.first().is_some_and(Event::is_snapshot);
        let behind = |held: Option<EventId>| match held {
            None if opens => after, // a snapshot opens an empty sink, and this is its floor
            // Where the sink is ahead (a crash came before the checkpoint), the batch overlaps what it
            // holds, and is compared there.
            held => held.min(after),
        };
        self.write(after, events, behind).await
    }

    /// Appends one event, whatever was not kept before it.
    pub(super) async fn append_one(&self, event: &Event) -> Result<()> {
        let before = event.id().prev();
        self.write(before, std::slice::from_ref(event), |held| held.min(before)).await
    }

    async fn write(
        &self,
        after: Option<EventId>,
        events: &[Event],
        behind: impl FnOnce(Option<EventId>) -> Option<EventId>,
    ) -> Result<()> {
        let mut known = self.held.lock().await;
        let held = match *known {
            Held::UpTo(held) => held,
            Held::NotAsked => match self.sink.checkpoint().await? {
                Checkpoint::Unknown => return self.sink.append(Batch::new(after, events)?).await,
                checkpoint => checkpoint.id(),
            },
        };
        *known = Held::UpTo(held);
        let batch = Batch::new(behind(held), events)?;
        self.sink.append(batch).await?;
        *known = Held::UpTo(held.max(Some(batch.last().id())));
        Ok(())
    }
}
