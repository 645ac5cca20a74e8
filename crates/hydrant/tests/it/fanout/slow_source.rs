//! A source that takes longer to answer than any call into a sink may take.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use hydrant::{
    Batch, Checkpoint, CheckpointStore, EventSink, EventSource, EventSourceExt, EventStream,
    MemoryCheckpoints, MemoryStore, ReadFrom, Relay, RelayOptions, Result, SecondaryOptions, SecondaryState,
};
use tokio::time::Instant;

use crate::support::{batch, events, id};

const LONG: Duration = Duration::from_secs(60 * 60);

/// A store that needs long to find where a read begins, and time for each event.
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
            // In steps, like a source that polls a server: it makes progress only while it is polled.
            for _ in 0..before_each.as_secs() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
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
    relay_by(Arc::new(MemoryCheckpoints::default()), before_the_first, before_each).await
}

async fn relay_by(
    roster: Arc<dyn CheckpointStore>,
    before_the_first: Duration,
    before_each: Duration,
) -> Relay {
    let store = MemoryStore::default();
    store.append(batch(&events(0..10))).await.unwrap();
    let source = Slow { store, before_the_first, before_each };
    let options = RelayOptions::default().with_ring(1, 1 << 20).with_seed(1);
    Relay::open(source, roster, options).await.unwrap()
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
async fn park_and_detach_do_not_wait_for_a_read_that_never_begins() {
    let relay = relay(Duration::MAX, Duration::ZERO).await;
    let sink = MemoryStore::default();
    sink.append(batch(&events(0..4))).await.unwrap();
    relay.attach("a", sink, SecondaryOptions::default()).await.unwrap();
    tokio::time::sleep(LONG).await;
    assert_eq!(relay.status().secondaries[0].state, SecondaryState::Starting);
    relay.park("a").unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(relay.status().secondaries[0].state, SecondaryState::Parked);
    relay.resume("a").unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    tokio::time::timeout(Duration::from_secs(1), relay.detach("a")).await.unwrap().unwrap();
}

/// Acknowledges at once, is durable forty seconds later, and takes two to report its checkpoint.
#[derive(Clone, Default)]
struct SyncedLater {
    store: MemoryStore,
    acknowledged: Arc<Mutex<Vec<(Instant, Checkpoint)>>>,
}

#[async_trait]
impl EventSink for SyncedLater {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        self.store.append(batch).await?;
        self.acknowledged.lock().unwrap().push((Instant::now(), Checkpoint::at(batch.last())));
        Ok(())
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let acknowledged = self.acknowledged.lock().unwrap();
        let durable = acknowledged.iter().rfind(|(at, _)| at.elapsed() >= Duration::from_secs(40));
        Ok(durable.map_or(Checkpoint::Empty, |(_, checkpoint)| *checkpoint))
    }
}

#[tokio::test(start_paused = true)]
async fn progress_is_recorded_during_a_slow_read() {
    let roster = Arc::new(MemoryCheckpoints::default());
    let relay = relay_by(roster.clone(), Duration::ZERO, Duration::from_secs(30)).await;
    let sink = SyncedLater::default();
    let options = SecondaryOptions::default().with_batch(2, 1 << 20);
    let start = Instant::now();
    relay.attach("a", sink.clone(), options).await.unwrap();
    for last in [1, 3, 5, 7] {
        relay.delivered(id(last), LONG).await.unwrap();
        tokio::time::sleep(Duration::from_secs(50)).await;
        // The next two events take a minute to read.
        assert_eq!(sink.store.checkpoint().await.unwrap().id(), Some(id(last)));
        assert_eq!(roster.load("a").await.unwrap().unwrap().checkpoint.id(), Some(id(last)));
    }
    relay.delivered(id(9), LONG).await.unwrap();
    assert_eq!(sink.store.collect(ReadFrom::Origin).await.unwrap(), events(0..10));
    // The read was not begun anew, nor did it stop while the sink was asked. (Before each batch, the source's newest event
    // is read once more: 30 s here.)
    assert!(start.elapsed() < Duration::from_secs(480), "{:?}", start.elapsed());
}

/// A source of which some reads hang: these, counted from the first.
#[derive(Clone)]
struct Hanging {
    store: MemoryStore,
    reads: Arc<Mutex<u32>>,
    hangs: fn(u32) -> bool,
}

impl EventSource for Hanging {
    fn read(&self, from: ReadFrom) -> EventStream {
        let mut reads = self.reads.lock().unwrap();
        *reads += 1;
        // Begins, and hangs after two events.
        let taken = if (self.hangs)(*reads) { 2 } else { usize::MAX };
        let hung = stream::pending::<Result<hydrant::Event>>().take(usize::from(taken == 2));
        self.store.read(from).take(taken).chain(hung).boxed()
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        self.store.follow(from)
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_hangs_is_begun_anew() {
    let cases: [fn(u32) -> bool; 4] =
        [|read| read == 1, |read| read == 2, |read| read == 3, |read| read % 3 == 0];
    for hangs in cases {
        let store = MemoryStore::default();
        store.append(batch(&events(0..10))).await.unwrap();
        let source = Hanging { store, reads: Arc::default(), hangs };
        let roster = Arc::new(MemoryCheckpoints::default());
        let options = RelayOptions::default().with_ring(1, 1 << 20).with_seed(1);
        let relay = Relay::open(source, roster, options).await.unwrap();
        let sink = MemoryStore::default();
        relay.attach("a", sink.clone(), SecondaryOptions::default()).await.unwrap();
        relay.delivered(id(9), LONG).await.unwrap();
        assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..10));
    }
}

/// The source is far slower than the time-out of a read, and is still read to its end.
#[tokio::test(start_paused = true)]
async fn a_very_slow_source_does_not_begin_anew_for_ever() {
    let relay = relay(Duration::from_secs(20 * 60), Duration::ZERO).await;
    let (new, old) = (MemoryStore::default(), MemoryStore::default());
    old.append(batch(&events(0..4))).await.unwrap();
    for (name, sink) in [("new", &new), ("old", &old)] {
        let options = SecondaryOptions::default().with_batch(2, 1 << 20);
        relay.attach(name, sink.clone(), options).await.unwrap();
    }
    relay.delivered(id(9), LONG * 24).await.unwrap();
    for sink in [new, old] {
        assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..10));
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_time_out_of_zero_grows_too() {
    let store = MemoryStore::default();
    store.append(batch(&events(0..10))).await.unwrap();
    let before_the_first = Duration::from_millis(20);
    let source = Slow { store, before_the_first, before_each: Duration::ZERO };
    let options =
        RelayOptions::default().with_ring(1, 1 << 20).with_seed(1).with_read_timeout(Duration::ZERO);
    let relay = Relay::open(source, Arc::new(MemoryCheckpoints::default()), options).await.unwrap();
    for name in ["first", "second"] {
        relay.attach(name, MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
        relay.delivered(id(9), LONG).await.unwrap();
    }
}
