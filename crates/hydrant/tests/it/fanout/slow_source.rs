//! A source that takes longer to answer than any call into a sink may take.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use hydrant::{
    Batch, Checkpoint, EventSink, EventSource, EventSourceExt, EventStream, MemoryCheckpoints, MemoryStore,
    ReadFrom, Relay, RelayOptions, Result, SecondaryOptions, State,
};

use crate::support::{batch, events, id};

const LONG: Duration = Duration::from_secs(60 * 60);

/// A store that has to look long for the place where a read begins, and takes its time for each event.
#[derive(Clone)]
struct Slow {
    store: MemoryStore,
    before_the_first: Duration,
    before_each: Duration,
}

impl EventSource for Slow {
    fn read(&self, from: ReadFrom) -> EventStream {
        let (store, before_the_first, before_each) =
            (self.store.clone(), self.before_the_first, self.before_each);
        let events = async move {
            tokio::time::sleep(before_the_first).await;
            store.read(from)
        };
        let events = stream::once(events).flatten().then(move |event| async move {
            tokio::time::sleep(before_each).await;
            event
        });
        events.boxed()
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        self.store.follow(from)
    }
}

/// A relay over a log of ten events of which almost none are in memory.
async fn relay(before_the_first: Duration, before_each: Duration) -> Relay {
    let store = MemoryStore::default();
    store.append(batch(&events(0..10))).await.unwrap();
    let source = Slow { store, before_the_first, before_each };
    let options = RelayOptions::default().with_ring(1, 1 << 20).with_seed(1);
    Relay::open(source, Arc::new(MemoryCheckpoints::default()), options).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_read_that_begins_later_than_a_call_may_take_is_waited_for() {
    let relay = relay(Duration::from_secs(60), Duration::ZERO).await;
    let (new, old) = (MemoryStore::default(), MemoryStore::default());
    old.append(batch(&events(0..4))).await.unwrap();
    let options = SecondaryOptions::default().with_call_timeout(Duration::from_secs(30));
    relay.attach("new", new.clone(), options.clone()).await.unwrap();
    relay.attach("old", old.clone(), options).await.unwrap();
    relay.delivered(id(9), LONG).await.unwrap();
    for sink in [new, old] {
        assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..10));
    }
    let retries: u64 = relay.status().secondaries.iter().map(|secondary| secondary.retries).sum();
    assert_eq!(retries, 0);
}

#[tokio::test(start_paused = true)]
async fn who_parks_or_detaches_does_not_wait_for_a_read_that_never_begins() {
    let relay = relay(Duration::MAX, Duration::ZERO).await;
    let sink = MemoryStore::default();
    sink.append(batch(&events(0..4))).await.unwrap();
    relay.attach("a", sink, SecondaryOptions::default()).await.unwrap();
    tokio::time::sleep(LONG).await;
    assert_eq!(relay.status().secondaries[0].state, State::Starting);
    relay.park("a").unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(relay.status().secondaries[0].state, State::Parked);
    relay.resume("a").unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    tokio::time::timeout(Duration::from_secs(1), relay.detach("a")).await.unwrap().unwrap();
}

/// Acknowledges at once, and never says that it holds anything durably.
#[derive(Clone, Default)]
struct NeverSynced(MemoryStore);

#[async_trait]
impl EventSink for NeverSynced {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        self.0.append(batch).await
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        Ok(Checkpoint::Empty)
    }
}

#[tokio::test(start_paused = true)]
async fn the_roster_is_told_while_a_slow_read_goes_on() {
    let relay = relay(Duration::ZERO, Duration::from_secs(5)).await;
    let sink = NeverSynced::default();
    let options = SecondaryOptions::default().with_batch(2, 1 << 20);
    relay.attach("a", sink.clone(), options).await.unwrap();
    relay.delivered(id(9), LONG).await.unwrap();
    assert_eq!(sink.0.collect(ReadFrom::Origin).await.unwrap(), events(0..10));
}
