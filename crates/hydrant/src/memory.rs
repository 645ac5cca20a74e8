//! A store in memory that passes every law, for tests and for logs that end with the process.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::sync::watch;

use crate::batch::differs;
use crate::store::follow_by_reading;
use crate::{
    Batch, Checkpoint, CheckpointStore, CommitPoint, Durability, Error, Event, EventId, EventSink,
    EventSource, EventStream, MemoryCheckpoints, Primary, Prune, ReadFrom, Result,
};

/// How many events a read copies while it holds the lock.
const READ_CHUNK_EVENTS: usize = 256;

/// A log in memory, shared by all clones of the handle.
///
/// Acknowledged means: in this process's memory. A store for tests, and the smallest example of one.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydrant::Result<()> {
/// use hydrant::{Batch, Event, EventId, EventSink, EventSourceExt, MemoryStore, ReadFrom};
///
/// let store = MemoryStore::default();
/// let events = [Event::new(EventId::ZERO, "hello")?];
/// store.append(Batch::new(None, &events)?).await?;
/// assert_eq!(store.collect(ReadFrom::Origin).await?, events);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

/// Settings of a [`MemoryStore`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemoryStoreOptions {
    /// The largest event accepted, in bytes of its envelope. Default: 64 MiB.
    pub event_bytes_max: usize,
}

impl Default for MemoryStoreOptions {
    fn default() -> Self {
        Self { event_bytes_max: 64 << 20 }
    }
}

impl MemoryStoreOptions {
    /// Sets the largest event accepted, in bytes of its envelope.
    #[must_use]
    pub fn with_event_bytes_max(mut self, bytes: usize) -> Self {
        self.event_bytes_max = bytes;
        self
    }
}

#[derive(Debug)]
struct Shared {
    log: Mutex<Log>,
    changed: watch::Sender<()>,
    roster: MemoryCheckpoints,
    options: MemoryStoreOptions,
}

#[derive(Debug, Default)]
struct Log {
    events: VecDeque<Event>,
    /// The predecessor of the first event kept, when events before it are gone or were never here.
    floor_after: Option<EventId>,
}

impl MemoryStore {
    /// An empty log.
    pub fn new(options: MemoryStoreOptions) -> Self {
        let shared = Shared {
            log: Mutex::default(),
            changed: watch::Sender::default(),
            roster: MemoryCheckpoints::default(),
            options,
        };
        Self { shared: Arc::new(shared) }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(MemoryStoreOptions::default())
    }
}

impl Log {
    fn checkpoint(&self) -> Checkpoint {
        self.events.back().map_or(Checkpoint::Empty, Checkpoint::at)
    }

    /// The index of the first event behind `after`.
    fn behind(&self, after: Option<EventId>) -> usize {
        after.map_or(0, |after| self.events.partition_point(|event| event.id() <= after))
    }

    /// Where a read starts, as the event before it.
    fn start(&self, from: ReadFrom) -> Result<Option<EventId>> {
        let after = match from.exclusive() {
            ReadFrom::Origin | ReadFrom::At(_) => None,
            ReadFrom::After(id) => Some(id),
            ReadFrom::Snapshot => match self.events.iter().rposition(Event::is_snapshot) {
                Some(0) => return Ok(self.floor_after),
                Some(index) => return Ok(Some(self.events[index - 1].id())),
                None => self.floor_after,
            },
        };
        match self.events.front() {
            Some(oldest) if after < self.floor_after => Err(Error::pruned(oldest.id())),
            _ => Ok(after),
        }
    }

    fn append(&mut self, batch: Batch<'_>) -> Result<bool> {
        let checkpoint = self.checkpoint();
        let fresh = batch.fresh_after(&checkpoint)?;
        let held = batch.held_by(&checkpoint);
        if let (Some(first), Some(oldest)) = (held.first(), self.events.front())
            && batch.after() < self.floor_after
        {
            return Err(Error::pruned(oldest.id()).at(first.id()));
        }
        let stored = self.events.range(self.behind(batch.after())..);
        if let Some((event, _)) = held.iter().zip(stored).find(|(event, stored)| event != stored) {
            return Err(differs(event.id()));
        }
        if self.events.is_empty() {
            self.floor_after = batch.after();
        }
        self.events.extend(fresh.iter().cloned());
        Ok(!fresh.is_empty())
    }

    fn prune(&mut self, before: EventId) {
        let opens = |index: &usize| {
            self.events[*index].is_snapshot() && *index > 0 && self.events[index - 1].id() < before
        };
        if let Some(kept) = (0..self.events.len()).rev().find(opens) {
            self.floor_after = Some(self.events[kept - 1].id());
            self.events.drain(..kept);
        }
    }
}

#[async_trait]
impl EventSink for MemoryStore {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        batch.check_size(self.event_bytes_max())?;
        let changed = self.lock().append(batch)?;
        if changed {
            self.shared.changed.send_replace(());
        }
        Ok(())
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        Ok(self.lock().checkpoint())
    }
}

impl EventSource for MemoryStore {
    fn read(&self, from: ReadFrom) -> EventStream {
        let (start, end) = {
            let log = self.lock();
            (log.start(from), log.events.back().map(Event::id))
        };
        let store = self.clone();
        let chunks = stream::unfold(Some(start), move |after| {
            let chunk = after.and_then(|after| store.chunk(after, end));
            std::future::ready(chunk)
        });
        Box::pin(chunks.flat_map(stream::iter))
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        let changed = self.shared.changed.subscribe();
        follow_by_reading(Arc::new(self.clone()), from, move || {
            let mut changed = changed.clone();
            changed.mark_unchanged();
            async move {
                // The sender lives as long as the store that is being read.
                drop(changed.changed().await);
            }
        })
    }
}

/// Some events, and where the read continues; an error ends the read.
type Chunk = (Vec<Result<Event>>, Option<Result<Option<EventId>>>);

impl MemoryStore {
    fn chunk(&self, after: Result<Option<EventId>>, end: Option<EventId>) -> Option<Chunk> {
        let log = self.lock();
        // A read ends with `Pruned` if events after its position were pruned; it never skips them.
        let after = match after.and_then(|after| log.start(after.into())) {
            Ok(after) => after,
            Err(error) => return Some((vec![Err(error)], None)),
        };
        let from = log.behind(after);
        let events: Vec<_> = log
            .events
            .range(from..)
            .take(READ_CHUNK_EVENTS)
            .take_while(|event| Some(event.id()) <= end)
            .cloned()
            .map(Ok)
            .collect();
        let last = events.last().and_then(|event| event.as_ref().ok()).map(Event::id)?;
        Some((events, Some(Ok(Some(last)))))
    }
}

#[async_trait]
impl Prune for MemoryStore {
    async fn prune(&self, before: EventId) -> Result<()> {
        self.lock().prune(before);
        Ok(())
    }
}

#[async_trait]
impl CommitPoint for MemoryStore {
    async fn head(&self) -> Result<Checkpoint> {
        self.checkpoint().await
    }

    fn event_bytes_max(&self) -> usize {
        self.shared.options.event_bytes_max
    }
}

impl Primary for MemoryStore {
    fn roster(&self) -> Arc<dyn CheckpointStore> {
        Arc::new(self.shared.roster.clone())
    }

    fn durability(&self) -> Durability {
        Durability::Durable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, EventSourceExt};

    fn event(id: u64) -> Event {
        Event::new(EventId::new(id), &id).unwrap()
    }

    fn snapshot(id: u64) -> Event {
        Event::builder(EventId::new(id)).payload_json("{}").snapshot().build().unwrap()
    }

    #[tokio::test]
    async fn prune_keeps_the_newest_snapshot_and_errors_name_the_floor() {
        let store = MemoryStore::default();
        let log = [event(0), event(1), snapshot(2), event(3), snapshot(4), event(5)];
        let mut after = None;
        for part in Batch::segments(&log) {
            store.append(Batch::new(after, part).unwrap()).await.unwrap();
            after = part.last().map(Event::id);
        }
        store.prune(EventId::new(3)).await.unwrap();
        let error = store.collect(ReadFrom::Origin).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Pruned { oldest: EventId::new(2) });
        assert_eq!(store.collect(ReadFrom::After(EventId::new(1))).await.unwrap(), log[2..]);
        store.prune(EventId::new(99)).await.unwrap();
        assert_eq!(store.collect(ReadFrom::Snapshot).await.unwrap(), log[4..]);
        let below = Batch::new(None, &log[..2]).unwrap();
        let error = store.append(below).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Pruned { oldest: EventId::new(4) });
    }
}
