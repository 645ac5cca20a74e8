//! The times at which each event was acknowledged and arrived.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hydrant::{
    Batch, Checkpoint, CheckpointStore, CommitPoint, Durability, Event, EventSink, EventSource, EventStream,
    Primary, ReadFrom,
};
use tokio::time::Instant;

use crate::micros;

/// The time at which each event reached some point.
#[derive(Debug)]
pub struct Stamps {
    origin: Instant,
    nanos: Vec<AtomicU64>,
}

impl Stamps {
    /// Creates stamps for events with the ids 0 to `events`, and starts the clock.
    pub fn new(events: u64) -> Self {
        Self { origin: Instant::now(), nanos: (0..events).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Creates stamps for the same events, on the same clock.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { origin: self.origin, nanos: self.nanos.iter().map(|_| AtomicU64::new(0)).collect() }
    }

    /// Stamps these events with the current time. A repeated batch keeps its first stamps.
    pub fn stamp(&self, events: &[Event]) {
        let now = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        for event in events {
            if let Some(nanos) = usize::try_from(event.id().get()).ok().and_then(|at| self.nanos.get(at)) {
                nanos.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).ok();
            }
        }
    }

    /// Returns the time from each of these stamps to the later one, in microseconds.
    pub fn until(&self, later: &Self) -> Vec<f64> {
        let nanos = |stamps: &Self| -> Vec<u64> {
            stamps.nanos.iter().map(|nanos| nanos.load(Ordering::Relaxed)).collect()
        };
        let pairs = nanos(self).into_iter().zip(nanos(later));
        pairs.map(|(from, to)| micros(Duration::from_nanos(to.saturating_sub(from)))).collect()
    }
}

/// A store that records when it acknowledged each event.
#[derive(Debug)]
pub struct Stamped<S> {
    /// The store itself.
    pub store: S,
    /// The times of the acknowledgements.
    pub stamps: Arc<Stamps>,
}

#[async_trait]
impl<S: EventSink> EventSink for Stamped<S> {
    async fn append(&self, batch: Batch<'_>) -> hydrant::Result<()> {
        self.store.append(batch).await?;
        self.stamps.stamp(batch.events());
        Ok(())
    }

    async fn checkpoint(&self) -> hydrant::Result<Checkpoint> {
        self.store.checkpoint().await
    }
}

impl<S: EventSource> EventSource for Stamped<S> {
    fn read(&self, from: ReadFrom) -> EventStream {
        self.store.read(from)
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        self.store.follow(from)
    }
}

#[async_trait]
impl<S: CommitPoint> CommitPoint for Stamped<S> {
    async fn head(&self) -> hydrant::Result<Checkpoint> {
        self.store.head().await
    }

    fn event_bytes_max(&self) -> usize {
        self.store.event_bytes_max()
    }
}

impl<S: Primary> Primary for Stamped<S> {
    fn roster(&self) -> Arc<dyn CheckpointStore> {
        self.store.roster()
    }

    fn durability(&self) -> Durability {
        self.store.durability()
    }
}
