//! A primary that is empty, or older than all of its sinks, as when its volume is missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use hydrant::{
    Batch, Checkpoint, Checkpointed, ErrorKind, EventSink, EventSource, EventSourceExt, EventStream, FanOut,
    FanOutOptions, MemoryCheckpoints, MemoryStore, ReadFrom, Relay, RelayOptions, Result, Retry,
    SecondaryOptions, SecondaryState, StartAt,
};

use super::rig::{Act, Server};
use super::{SOON, until};
use crate::support::{batch, events, id, safe, snapshot};

/// A fan-out over this many events, and two sinks that hold ten.
async fn stale(held: u64, options: FanOutOptions) -> (FanOut<Server>, [MemoryStore; 2]) {
    let primary = Server::holding(&events(0..held)).await;
    let log = FanOut::open(primary, options).await.unwrap();
    let sinks = [MemoryStore::default(), MemoryStore::default()];
    for (name, sink) in ["one", "two"].iter().zip(&sinks) {
        sink.append(batch(&events(0..10))).await.unwrap();
        log.attach(name, sink.clone(), SecondaryOptions::default()).await.unwrap();
        until(&log, name, SecondaryState::Parked).await;
    }
    (log, sinks)
}

#[tokio::test(start_paused = true)]
async fn the_status_names_a_primary_older_than_its_sinks() {
    for (held, says) in [(0, "is empty"), (5, "ends at event 4")] {
        let (log, sinks) = stale(held, FanOutOptions::default()).await;
        let error = log.status().stale.expect("not seen");
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Diverged, Retry::Never));
        assert!(error.to_string().contains(says) && error.to_string().contains("copy"), "{error}");
        // No sink stops a primary.
        log.append(batch(&events(held..held + 1))).await.unwrap();
        assert_eq!(sinks[0].collect(ReadFrom::Origin).await.unwrap(), events(0..10));
    }
}

#[tokio::test(start_paused = true)]
async fn by_option_appends_stop_while_the_primary_is_stale() {
    let (log, _) = stale(0, FanOutOptions::default().with_stop_if_stale(true)).await;
    let error = log.append(batch(&events(0..1))).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Diverged, Retry::Safe), "{error}");
    // An operator finds that the sinks belong to another log.
    log.detach("one").await.unwrap();
    log.append(batch(&events(0..1))).await.unwrap_err();
    log.detach("two").await.unwrap();
    assert!(log.status().stale.is_none());
    log.append(batch(&events(0..1))).await.unwrap();
}

/// An empty sink, one without a checkpoint and one that is down know nothing; one that agrees settles it.
#[tokio::test(start_paused = true)]
async fn a_sink_that_agrees_settles_that_the_primary_is_right() {
    struct Forgetful;

    #[async_trait]
    impl EventSink for Forgetful {
        async fn append(&self, _: Batch<'_>) -> Result<()> {
            Ok(())
        }

        async fn checkpoint(&self) -> Result<Checkpoint> {
            Ok(Checkpoint::Unknown)
        }
    }

    let (log, _) = stale(3, FanOutOptions::default()).await;
    let down = Server::default();
    down.checkpoint.set(Act::Fail(safe()));
    log.attach("down", down.clone(), SecondaryOptions::default()).await.unwrap();
    let at_head = SecondaryOptions::default().with_start(StartAt::Head);
    log.attach("forgetful", Forgetful, at_head).await.unwrap();
    tokio::time::sleep(SOON).await;
    assert!(log.status().stale.is_none(), "the one without memory follows this primary");
    log.detach("forgetful").await.unwrap();
    assert!(log.status().stale.is_some());
    let agrees = MemoryStore::default();
    agrees.append(batch(&events(0..2))).await.unwrap();
    log.attach("agrees", agrees, SecondaryOptions::default()).await.unwrap();
    until(&log, "agrees", SecondaryState::Live).await;
    assert!(log.status().stale.is_none());
}

/// An operator resumes it and parks it again, before the history could be compared.
#[tokio::test(start_paused = true)]
async fn a_sink_without_memory_agrees_once_it_was_compared() {
    #[derive(Clone)]
    struct Source(Server, Arc<AtomicBool>);

    impl EventSource for Source {
        fn read(&self, from: ReadFrom) -> EventStream {
            if self.1.load(Ordering::SeqCst) { stream::pending().boxed() } else { self.0.read(from) }
        }

        fn follow(&self, from: ReadFrom) -> EventStream {
            self.0.follow(from)
        }
    }

    /// Takes its time, so that the relay's ring is ahead of it.
    struct Slow;

    #[async_trait]
    impl EventSink for Slow {
        async fn append(&self, _: Batch<'_>) -> Result<()> {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(())
        }

        async fn checkpoint(&self) -> Result<Checkpoint> {
            Ok(Checkpoint::Unknown)
        }
    }

    let server = Server::holding(&events(0..100)).await;
    let hangs = Arc::new(AtomicBool::new(false));
    let roster = Arc::new(MemoryCheckpoints::default());
    let options = RelayOptions::default().with_ring(1, 1 << 20).with_seed(1);
    let relay = Relay::open(Source(server.clone(), hangs.clone()), roster, options).await.unwrap();
    let start = SecondaryOptions::default().with_start(StartAt::Origin).with_batch(10, 1 << 20);
    relay.attach("slow", Slow, start).await.unwrap();
    while relay.status().secondaries[0].checkpoint < Some(id(9)) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    relay.park("slow").unwrap();
    server.fail_over(&[events(0..9), vec![snapshot(9)], events(10..100)].concat()).await;
    tokio::time::sleep(SOON).await;
    relay.resume("slow").unwrap();
    tokio::time::sleep(SOON).await;
    assert!(relay.status().stale.is_some(), "{:?}", relay.status());
    hangs.store(true, Ordering::SeqCst);
    relay.resume("slow").unwrap();
    tokio::time::sleep(SOON).await;
    relay.park("slow").unwrap();
    tokio::time::sleep(SOON).await;
    assert!(relay.status().stale.is_some(), "{:?}", relay.status());
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_is_right_is_never_stale() {
    let log = FanOut::open(Server::holding(&events(0..3)).await, FanOutOptions::default()).await.unwrap();
    assert!(log.status().stale.is_none(), "without a sink");
    log.attach("new", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
    log.delivered(id(2), SOON).await.unwrap();
    assert!(log.status().stale.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_lost_its_events_makes_no_primary_stale() {
    let options = FanOutOptions::default().with_stop_if_stale(true).with_seed(1);
    let log = FanOut::open(MemoryStore::default(), options).await.unwrap();
    let server = Server::default();
    let sink =
        Checkpointed::open(server.clone(), Arc::new(MemoryCheckpoints::default()), "a", "a").await.unwrap();
    log.attach("sink", sink, SecondaryOptions::default()).await.unwrap();
    log.append(batch(&events(0..3))).await.unwrap();
    log.delivered(id(2), SOON).await.unwrap();
    server.fail_over(&[]).await;
    log.append(batch(&events(3..4))).await.unwrap();
    until(&log, "sink", SecondaryState::Parked).await;
    assert_eq!(log.status().stale.map(|error| error.to_string()), None);
    log.append(batch(&events(4..5))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_was_replaced_makes_no_primary_stale() {
    let options = FanOutOptions::default().with_stop_if_stale(true).with_seed(1);
    let log = FanOut::open(MemoryStore::default(), options).await.unwrap();
    let sink = Server::default();
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    log.append(batch(&events(0..10))).await.unwrap();
    log.delivered(id(9), SOON).await.unwrap();
    sink.fail_over(&[events(0..9), vec![snapshot(9)]].concat()).await;
    until(&log, "sink", SecondaryState::Parked).await;
    assert_eq!(log.status().stale.map(|error| error.to_string()), None);
    log.append(batch(&events(10..11))).await.unwrap();
}
