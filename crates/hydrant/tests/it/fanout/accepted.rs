//! A primary that accepts before it is durable: `Ok` means accepted, and only durable events are seen.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use hydrant::{
    Batch, Checkpoint, CheckpointStore, CommitPoint, Durability, Event, EventId, EventSink, EventSource,
    EventSourceExt, EventStream, FanOut, FanOutOptions, MemoryStore, Primary, Prune, ReadFrom, Result,
    SecondaryOptions,
};

use super::SOON;
use crate::support::{batch, events, id, snapshot};

/// Takes everything at once, and is durable only as far as `sync` was called.
#[derive(Clone, Default)]
struct Lazy {
    durable: MemoryStore,
    accepted: Arc<Mutex<Vec<Event>>>,
}

impl Lazy {
    async fn sync(&self, upto: u64) {
        let ready: Vec<_> = {
            let mut accepted = self.accepted.lock().unwrap();
            let count = accepted.iter().take_while(|event| event.id() <= id(upto)).count();
            accepted.drain(..count).collect()
        };
        let after: Option<EventId> = self.durable.checkpoint().await.unwrap().id();
        let mut after = after;
        for part in Batch::segments(&ready) {
            self.durable.append(Batch::new(after, part).unwrap()).await.unwrap();
            after = part.last().map(Event::id);
        }
    }
}

#[async_trait]
impl EventSink for Lazy {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        self.accepted.lock().unwrap().extend_from_slice(batch.events());
        Ok(())
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.durable.checkpoint().await
    }
}

impl EventSource for Lazy {
    fn read(&self, from: ReadFrom) -> EventStream {
        self.durable.read(from)
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        self.durable.follow(from)
    }
}

#[async_trait]
impl CommitPoint for Lazy {
    async fn head(&self) -> Result<Checkpoint> {
        let newest = self.accepted.lock().unwrap().last().map(Checkpoint::at);
        match newest {
            Some(newest) => Ok(newest),
            None => self.durable.checkpoint().await,
        }
    }

    fn event_bytes_max(&self) -> usize {
        self.durable.event_bytes_max()
    }
}

impl Primary for Lazy {
    fn roster(&self) -> Arc<dyn CheckpointStore> {
        self.durable.roster()
    }

    fn durability(&self) -> Durability {
        Durability::Accepted
    }
}

#[tokio::test(start_paused = true)]
async fn no_event_is_seen_before_it_is_durable() {
    // Once with all accepted events in memory, once with a ring that is too small for them.
    for ring_events in [64, 2] {
        let primary = Lazy::default();
        let options = FanOutOptions::default().with_ring(ring_events, 1 << 20);
        let log = FanOut::open(primary.clone(), options).await.unwrap();
        let sink = MemoryStore::default();
        log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
        let mut live = log.follow(ReadFrom::Origin);
        log.append(batch(&events(0..10))).await.unwrap();

        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(sink.checkpoint().await.unwrap(), Checkpoint::Empty);
        assert!(tokio::time::timeout(SOON, live.next()).await.is_err(), "fed before it was durable");
        assert_eq!(log.status().head, None);

        primary.sync(6).await;
        tokio::time::sleep(SOON).await;
        assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..7));
        log.append(batch(&events(10..11))).await.unwrap();
        primary.sync(10).await;
        log.delivered(id(10), SOON).await.unwrap();
        assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..11));
        let seen: Vec<_> = live.take(11).map(Result::unwrap).collect().await;
        assert_eq!(seen, events(0..11));
    }
}

/// Events that the primary accepted before the fan-out was opened, and that are durable later, are no hole.
#[tokio::test(start_paused = true)]
async fn events_accepted_before_opening_are_not_skipped() {
    let primary = Lazy::default();
    primary.append(batch(&events(0..10))).await.unwrap();
    primary.sync(4).await;
    let log = FanOut::open(primary.clone(), FanOutOptions::default()).await.unwrap();
    let sink = MemoryStore::default();
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    log.delivered(id(4), SOON).await.unwrap();
    log.append(batch(&events(10..11))).await.unwrap();
    primary.sync(10).await;
    log.delivered(id(10), SOON).await.unwrap();
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..11));
}

/// As a secondary: events that it accepted and has not made durable are still needed, by its roster entry too.
#[tokio::test(start_paused = true)]
async fn what_a_secondary_has_only_accepted_is_not_pruned() {
    let primary = MemoryStore::default();
    let log = FanOut::open(primary.clone(), FanOutOptions::default()).await.unwrap();
    let sink = Lazy::default();
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    for segment in 0..4 {
        let mut piece = vec![snapshot(segment * 10)];
        piece.extend(events(segment * 10 + 1..segment * 10 + 10));
        log.append(batch(&piece)).await.unwrap();
    }
    log.delivered(id(39), SOON).await.unwrap();
    sink.sync(14).await;
    log.prune(id(39)).await.unwrap();
    let oldest = primary.collect(ReadFrom::After(id(9))).await.unwrap()[0].id();
    assert_eq!(oldest, id(10), "11 to 14 are durable in the sink, the rest is not");

    // A power cut of the sink takes back what it had accepted, and both begin again.
    tokio::time::sleep(Duration::from_secs(5)).await;
    drop(log.close(SOON).await);
    drop(log);
    sink.accepted.lock().unwrap().clear();
    let log = FanOut::open(primary.clone(), FanOutOptions::default()).await.unwrap();
    log.prune(id(39)).await.unwrap();
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    log.delivered(id(39), SOON).await.unwrap();
    sink.sync(39).await;
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap().len(), 40);
}
