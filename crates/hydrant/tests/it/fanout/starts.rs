//! Where a secondary starts, while sinks are down and sources are pruned.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use hydrant::{
    Deferred, EventSink, EventSource, EventStream, FanOut, FanOutOptions, MemoryCheckpoints, MemoryStore,
    Prune, ReadFrom, Relay, RelayOptions, SecondaryOptions, StartAt,
};

use super::SOON;
use super::rig::Forgetful;
use crate::support::{append_log, batch, events, id, snapshot};

/// A sink that opens after a second.
fn down(sink: &Forgetful) -> Deferred<Forgetful> {
    let sink = sink.clone();
    Deferred::new(move || {
        let sink = sink.clone();
        async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(sink)
        }
    })
}

fn at(start: StartAt) -> SecondaryOptions {
    SecondaryOptions::default().with_start(start)
}

async fn relay(source: impl EventSource + 'static) -> Relay {
    let options = RelayOptions::default().with_seed(1);
    Relay::open(source, Arc::new(MemoryCheckpoints::default()), options).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn at_the_head_nothing_is_skipped_while_the_sink_is_down() {
    for held in [0, 10] {
        let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
        if held > 0 {
            log.append(batch(&events(0..held))).await.unwrap();
        }
        let sink = Forgetful::default();
        log.attach("down", down(&sink), at(StartAt::Head)).await.unwrap();
        log.append(batch(&events(held..held + 3))).await.unwrap();
        log.delivered(id(held + 2), Duration::from_secs(10)).await.unwrap();
        assert_eq!(*sink.0.lock().unwrap(), (held..held + 3).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_head_of_a_relay_nothing_is_skipped_either() {
    let log = MemoryStore::default();
    log_of(&log, 10).await;
    let (relay, sink) = (relay(log.clone()).await, Forgetful::default());
    relay.attach("down", down(&sink), at(StartAt::Head)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    append_log(&log, &events(10..12)).await;
    relay.delivered(id(11), Duration::from_secs(10)).await.unwrap();
    assert_eq!(*sink.0.lock().unwrap(), [10, 11]);
}

async fn log_of(log: &MemoryStore, held: u64) {
    append_log(log, &events(0..held)).await;
}

/// The ring begins at the floor, because of a sink that needs what was pruned. That place cannot be read.
#[tokio::test(start_paused = true)]
async fn the_head_of_a_pruned_relay_is_found() {
    let log = MemoryStore::default();
    append_log(&log, &[events(0..20), vec![snapshot(20)], events(21..50)].concat()).await;
    Prune::prune(&log, id(30)).await.unwrap();
    let relay = relay(log.clone()).await;
    relay.attach("strict", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
    tokio::time::sleep(SOON).await;
    let sink = Forgetful::default();
    relay.attach("metrics", sink.clone(), at(StartAt::Head)).await.unwrap();
    tokio::time::sleep(SOON).await;
    append_log(&log, &events(50..52)).await;
    tokio::time::sleep(SOON).await;
    assert_eq!(*sink.0.lock().unwrap(), [50, 51], "{:?}", relay.status());
}

/// Is pruned once, between two reads that find a start.
#[derive(Clone)]
struct PrunedOnce {
    log: MemoryStore,
    read: ReadFrom,
    is_pruned: Arc<AtomicBool>,
}

impl PrunedOnce {
    async fn on(read: ReadFrom) -> Self {
        let log = MemoryStore::default();
        let all =
            [events(0..10), vec![snapshot(10)], events(11..20), vec![snapshot(20)], events(21..30)].concat();
        append_log(&log, &all).await;
        Prune::prune(&log, id(15)).await.unwrap();
        Self { log, read, is_pruned: Arc::default() }
    }
}

impl EventSource for PrunedOnce {
    fn read(&self, from: ReadFrom) -> EventStream {
        if from != self.read || self.is_pruned.swap(true, Ordering::SeqCst) {
            return self.log.read(from);
        }
        let (log, prune) = (self.log.clone(), self.log.clone());
        let pruned = async move {
            Prune::prune(&prune, id(25)).await.unwrap();
            log.read(ReadFrom::At(id(10)))
        };
        stream::once(pruned).flatten().boxed()
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        self.log.follow(from)
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_pruned_while_it_is_looked_for_is_found_again() {
    let source = PrunedOnce::on(ReadFrom::At(id(10))).await;
    let (relay, sink) = (relay(source.clone()).await, MemoryStore::default());
    relay.attach("new", sink.clone(), at(StartAt::OldestSnapshot)).await.unwrap();
    relay.delivered(id(29), Duration::from_secs(60)).await.unwrap();
    assert!(source.is_pruned.load(Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn a_prune_while_a_relay_looks_for_its_start_does_not_end_it() {
    let source = PrunedOnce::on(ReadFrom::Snapshot).await;
    let (relay, sink) = (relay(source.clone()).await, Forgetful::default());
    relay.attach("later", sink.clone(), at(StartAt::After(id(31)))).await.unwrap();
    tokio::time::sleep(SOON).await;
    append_log(&source.log, &events(30..34)).await;
    relay.delivered(id(33), Duration::from_secs(60)).await.unwrap();
    assert_eq!(*sink.0.lock().unwrap(), [32, 33]);
    assert!(source.is_pruned.load(Ordering::SeqCst));
}
