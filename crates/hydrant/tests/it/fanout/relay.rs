//! A relay: the same pumps over a log that somebody else writes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use hydrant::{
    Batch, Checkpoint, CheckpointEntry, CheckpointStore, ErrorKind, EventSink, EventSource, EventSourceExt,
    EventStream, MemoryCheckpoints, MemoryStore, ReadFrom, Relay, RelayOptions, Result, SecondaryOptions,
    SecondaryState, StartAt,
};

use super::SOON;
use crate::support::{Faulty, Mode, batch, event, events, id, safe};

async fn relay(log: &MemoryStore, options: RelayOptions) -> Relay {
    Relay::open(log.clone(), Arc::new(MemoryCheckpoints::default()), options.with_seed(1)).await.unwrap()
}

#[tokio::test]
async fn a_relay_follows_what_another_writes() {
    let log = MemoryStore::default();
    log.append(batch(&events(0..1_000))).await.unwrap();
    let relay = relay(&log, RelayOptions::default().with_ring(16, 1 << 20)).await;
    let (new, old) = (MemoryStore::default(), MemoryStore::default());
    old.append(batch(&events(0..700))).await.unwrap();
    relay.attach("old", old.clone(), SecondaryOptions::default()).await.unwrap();
    relay.attach("new", new.clone(), SecondaryOptions::default()).await.unwrap();
    for at in 1_000..1_200 {
        log.append(batch(&[event(at)])).await.unwrap();
    }
    relay.delivered(id(1_199), SOON).await.unwrap();
    assert_eq!(new.collect(ReadFrom::Origin).await.unwrap(), events(0..1_200));
    assert_eq!(old.collect(ReadFrom::Origin).await.unwrap(), events(0..1_200));
    assert!(relay.close(SOON).await.is_empty());
}

#[tokio::test]
async fn without_following_it_finishes_at_the_end_of_the_log() {
    let log = MemoryStore::default();
    log.append(batch(&events(0..5_000))).await.unwrap();
    let relay = relay(&log, RelayOptions::default().with_follow(false).with_ring(16, 1 << 20)).await;
    let sinks = [MemoryStore::default(), MemoryStore::default()];
    for (name, sink) in ["a", "b"].iter().zip(&sinks) {
        relay.attach(name, sink.clone(), SecondaryOptions::default()).await.unwrap();
    }
    assert!(relay.finished().await.unwrap().is_empty());
    for sink in &sinks {
        assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..5_000));
    }
}

#[tokio::test]
async fn an_empty_log_finishes_at_once() {
    let relay = relay(&MemoryStore::default(), RelayOptions::default().with_follow(false)).await;
    relay.attach("a", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
    assert!(relay.finished().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_hung_secondary_holds_up_neither_the_source_nor_the_others() {
    let log = MemoryStore::default();
    log.append(batch(&events(0..5_000))).await.unwrap();
    let relay = relay(&log, RelayOptions::default().with_ring(16, 1 << 20)).await;
    let good = MemoryStore::default();
    relay.attach("hung", Faulty::new(Mode::Hang), SecondaryOptions::default()).await.unwrap();
    relay.attach("good", good.clone(), SecondaryOptions::default()).await.unwrap();
    let laggards = relay.delivered(id(4_999), SOON).await.unwrap_err();
    assert_eq!(laggards.len(), 1, "{laggards:?}");
    assert_eq!(laggards[0].name, "hung");
    assert_eq!(good.collect(ReadFrom::Origin).await.unwrap().len(), 5_000);
}

#[tokio::test(start_paused = true)]
async fn finished_reports_who_is_parked() {
    let log = MemoryStore::default();
    log.append(batch(&events(0..50))).await.unwrap();
    let relay = relay(&log, RelayOptions::default().with_follow(false).with_ring(16, 1 << 20)).await;
    relay.attach("broken", Faulty::new(Mode::Panic), SecondaryOptions::default()).await.unwrap();
    let laggards = tokio::time::timeout(SOON, relay.finished()).await.unwrap().unwrap();
    assert_eq!((laggards[0].name.as_str(), laggards[0].state), ("broken", SecondaryState::Parked));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_the_tasks() {
    let log = MemoryStore::default();
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let relay = relay(&log, RelayOptions::default()).await;
    relay.attach("down", Faulty::new(Mode::Before(safe())), SecondaryOptions::default()).await.unwrap();
    drop(relay);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), before);
}

/// Its own log cannot be read any more: reading it panics.
struct Broken;

impl EventSource for Broken {
    fn read(&self, _from: ReadFrom) -> EventStream {
        MemoryStore::default().read(ReadFrom::Origin)
    }

    fn follow(&self, _from: ReadFrom) -> EventStream {
        futures_util::stream::poll_fn(|_| panic!("the source is broken")).boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_ends_the_relay_and_is_told() {
    let roster = Arc::new(MemoryCheckpoints::default());
    let relay = Relay::open(Broken, roster, RelayOptions::default()).await.unwrap();
    relay.attach("a", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
    let finished = tokio::time::timeout(SOON, relay.finished()).await.expect("it hangs");
    assert_eq!(finished.unwrap_err().kind(), ErrorKind::Bug);
    assert_eq!(relay.status().stopped.unwrap().kind(), ErrorKind::Bug);
}

/// Moves an entry at once, and takes a second to say so.
#[derive(Clone, Default)]
struct SlowAnswer(MemoryCheckpoints);

#[async_trait]
impl CheckpointStore for SlowAnswer {
    async fn load(&self, name: &str) -> Result<Option<CheckpointEntry>> {
        self.0.load(name).await
    }

    async fn list(&self) -> Result<Vec<CheckpointEntry>> {
        self.0.list().await
    }

    async fn swap(
        &self,
        name: &str,
        expected: Option<&CheckpointEntry>,
        new: Option<&CheckpointEntry>,
    ) -> Result<()> {
        self.0.swap(name, expected, new).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    }
}

/// The pump gives up what it does when it is parked; that its entry moved all the same is not another's work.
#[tokio::test(start_paused = true)]
async fn parked_while_the_roster_is_told_it_does_not_fence_itself() {
    let log = MemoryStore::default();
    let roster = SlowAnswer::default();
    let relay = Relay::open(log.clone(), Arc::new(roster.clone()), RelayOptions::default()).await.unwrap();
    let sink = MemoryStore::default();
    relay.attach("a", sink.clone(), SecondaryOptions::default()).await.unwrap();
    log.append(batch(&events(0..1))).await.unwrap();
    while roster.0.load("a").await.unwrap().is_none_or(|entry| entry.checkpoint.id().is_none()) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    relay.park("a").unwrap();
    tokio::time::sleep(SOON).await;
    relay.resume("a").unwrap();
    for at in 1..5 {
        log.append(batch(&[event(at)])).await.unwrap();
        tokio::time::sleep(SOON).await;
    }
    let status = relay.status().secondaries.remove(0);
    assert_eq!(
        (status.state, status.checkpoint),
        (SecondaryState::Live, Some(id(4))),
        "{:?}",
        status.last_error
    );
    assert_eq!(roster.0.load("a").await.unwrap().unwrap().checkpoint.id(), Some(id(4)));
}

#[tokio::test(start_paused = true)]
async fn a_relay_without_memory_for_events_does_not_stall() {
    let log = MemoryStore::default();
    log.append(batch(&events(0..1_000))).await.unwrap();
    for (events_max, bytes_max) in [(0, 1 << 20), (16, 0)] {
        let relay = relay(&log, RelayOptions::default().with_ring(events_max, bytes_max)).await;
        let sink = MemoryStore::default();
        relay.attach("a", sink.clone(), SecondaryOptions::default()).await.unwrap();
        relay.delivered(id(999), SOON).await.unwrap();
        assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..1_000));
    }
}

/// Takes what it is given, and cannot tell where it stands.
#[derive(Clone, Default)]
struct Forgetful(Arc<std::sync::Mutex<Vec<u64>>>);

#[async_trait]
impl EventSink for Forgetful {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        self.0.lock().unwrap().extend(batch.events().iter().map(|event| event.id().get()));
        Ok(())
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        Ok(Checkpoint::Unknown)
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_head_of_a_relay_is_at_the_end_of_its_log() {
    let log = MemoryStore::default();
    log.append(batch(&events(0..50))).await.unwrap();
    let relay = relay(&log, RelayOptions::default()).await;
    let sinks = [Forgetful::default(), Forgetful::default()];
    for (name, sink) in ["first", "later"].iter().zip(&sinks) {
        let options = SecondaryOptions::default().with_start(StartAt::Head);
        relay.attach(name, sink.clone(), options).await.unwrap();
        tokio::time::sleep(SOON).await;
    }
    log.append(batch(&events(50..52))).await.unwrap();
    relay.delivered(id(51), SOON).await.unwrap();
    for sink in &sinks {
        assert_eq!(*sink.0.lock().unwrap(), [50, 51]);
    }
}
