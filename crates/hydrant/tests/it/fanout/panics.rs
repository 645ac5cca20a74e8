//! Panics of foreign code: in a call, before a call returns its future, and when a future is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hydrant::{
    Batch, Checkpoint, CheckpointStore, CommitPoint, Durability, ErrorKind, EventSink, EventSource,
    EventStream, FanOut, FanOutOptions, MemoryCheckpoints, MemoryStore, Primary, ReadFrom, Relay,
    RelayOptions, Result, SecondaryOptions, SecondaryState,
};

use super::rig::{Act, Server};
use super::{SOON, status, until};
use crate::support::{batch, events, id};

/// Where it panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Append,
    Checkpoint,
    Read,
    Follow,
    Roster,
    Durability,
}

/// Panics in the call itself, before it returns a future or a stream.
#[derive(Clone)]
struct Early {
    store: MemoryStore,
    at: At,
    is_armed: Arc<AtomicBool>,
}

impl Early {
    fn new(at: At) -> Self {
        Self { store: MemoryStore::default(), at, is_armed: Arc::new(AtomicBool::new(true)) }
    }

    fn calls(&self, at: At) {
        assert!(at != self.at || !self.is_armed.load(Ordering::SeqCst), "panicked early in {at:?}");
    }
}

type Boxed<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl EventSink for Early {
    fn append<'a, 'b, 'c>(&'a self, batch: Batch<'b>) -> Boxed<'c, Result<()>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.calls(At::Append);
        self.store.append(batch)
    }

    fn checkpoint<'a, 'c>(&'a self) -> Boxed<'c, Result<Checkpoint>>
    where
        'a: 'c,
        Self: 'c,
    {
        self.calls(At::Checkpoint);
        self.store.checkpoint()
    }
}

impl EventSource for Early {
    fn read(&self, from: ReadFrom) -> EventStream {
        self.calls(At::Read);
        self.store.read(from)
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        self.calls(At::Follow);
        self.store.follow(from)
    }
}

#[async_trait]
impl CommitPoint for Early {
    async fn head(&self) -> Result<Checkpoint> {
        self.store.head().await
    }

    fn event_bytes_max(&self) -> usize {
        64 << 20
    }
}

impl Primary for Early {
    fn roster(&self) -> Arc<dyn CheckpointStore> {
        self.calls(At::Roster);
        self.store.roster()
    }

    fn durability(&self) -> Durability {
        self.calls(At::Durability);
        Durability::Durable
    }
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_panics_as_it_is_opened_is_an_error() {
    for at in [At::Checkpoint, At::Roster, At::Durability] {
        let error = FanOut::open(Early::new(at), FanOutOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bug, "{at:?}: {error}");
        assert!(error.to_string().contains("panicked early"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_panics_in_its_set_up_parks_alone() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    for (name, at) in [("append", At::Append), ("checkpoint", At::Checkpoint)] {
        log.attach(name, Early::new(at), SecondaryOptions::default()).await.unwrap();
    }
    log.attach("good", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
    log.append(batch(&events(0..3))).await.unwrap();
    for name in ["append", "checkpoint"] {
        let error = until(&log, name, SecondaryState::Parked).await.last_error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Bug, "{error}");
    }
    until(&log, "good", SecondaryState::Live).await;
    assert_eq!(log.delivered(id(2), SOON).await.unwrap_err().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_primary_whose_reads_panic_parks_only_the_reader() {
    let primary = Early::new(At::Read);
    primary.store.append(batch(&events(0..3))).await.unwrap();
    let log = FanOut::open(primary.clone(), FanOutOptions::default()).await.unwrap();
    log.attach("new", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
    let error = until(&log, "new", SecondaryState::Parked).await.last_error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Bug, "{error}");
    log.append(batch(&events(3..5))).await.unwrap();
    primary.is_armed.store(false, Ordering::SeqCst);
    log.resume("new").unwrap();
    log.delivered(id(4), SOON).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_ends_its_relay_with_a_bug() {
    for at in [At::Read, At::Follow] {
        let source = Early::new(at);
        source.store.append(batch(&events(0..3))).await.unwrap();
        let roster = Arc::new(MemoryCheckpoints::default());
        let follow = RelayOptions::default().with_follow(at == At::Follow);
        let relay = Relay::open(source, roster, follow).await.unwrap();
        relay.attach("sink", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
        let finished = tokio::time::timeout(SOON, relay.finished()).await.expect("it hangs");
        assert_eq!(finished.unwrap_err().kind(), ErrorKind::Bug, "{at:?}");
    }
}

/// A future that panics when it is dropped, at its time-out or by an operator.
#[tokio::test(start_paused = true)]
async fn a_call_that_panics_when_dropped_parks_its_sink() {
    for by_operator in [true, false] {
        let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
        let sink = Server::default();
        sink.append.set(Act::PanicOnDrop);
        log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
        log.append(batch(&events(0..3))).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        if by_operator {
            log.park("sink").unwrap();
        }
        until(&log, "sink", SecondaryState::Parked).await;
        let error = status(&log, "sink").last_error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Bug, "{error}");
        sink.append.set(Act::Fine);
        log.resume("sink").unwrap();
        log.delivered(id(2), SOON).await.unwrap();
        sink.append.set(Act::PanicOnDrop);
        log.append(batch(&events(3..4))).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        log.detach("sink").await.unwrap();
        assert!(log.close(SOON).await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_panics_when_dropped_ends_no_task() {
    let primary = Server::default();
    let log = FanOut::open(primary.clone(), FanOutOptions::default()).await.unwrap();
    for act in [Act::PanicOnDrop, Act::Panic] {
        primary.append.set(act);
        let deadline = Some(tokio::time::Instant::now() + SOON);
        let first = events(0..3);
        let error = log.append(batch(&first).with_deadline(deadline)).await.unwrap_err();
        assert_ne!(error.retry(), hydrant::Retry::Safe, "{error}");
    }
    for act in [Act::PanicOnDrop, Act::Panic, Act::Hang] {
        primary.checkpoint.set(act);
        log.checkpoint().await.unwrap_err();
    }
    primary.append.set(Act::Fine);
    primary.checkpoint.set(Act::Fine);
    log.append(batch(&events(0..3))).await.unwrap();
}

/// Panics as it is dropped itself.
struct Fragile(MemoryStore, Arc<AtomicU64>);

impl Drop for Fragile {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::SeqCst);
        assert!(std::thread::panicking(), "fragile");
    }
}

#[async_trait]
impl EventSink for Fragile {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        self.0.append(batch).await
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.0.checkpoint().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_whose_drop_panics_can_be_detached() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let dropped = Arc::new(AtomicU64::new(0));
    for name in ["one", "two"] {
        let sink = Fragile(MemoryStore::default(), dropped.clone());
        log.attach(name, sink, SecondaryOptions::default()).await.unwrap();
    }
    log.append(batch(&events(0..3))).await.unwrap();
    log.delivered(id(2), SOON).await.unwrap();
    tokio::time::timeout(SOON, log.detach("one")).await.unwrap().unwrap();
    assert!(log.close(SOON).await.is_empty());
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
}
