//! A relay: the same pumps over a log that another program writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use hydrant::{
    Batch, CheckpointEntry, CheckpointStore, ErrorKind, Event, EventSink, EventSource, EventSourceExt,
    EventStream, MemoryCheckpoints, MemoryStore, ReadFrom, Relay, RelayOptions, Result, SecondaryOptions,
    SecondaryState, StartAt,
};

use super::SOON;
use super::rig::Forgetful;
use crate::support::{Faulty, Mode, batch, event, events, id, safe, snapshot};

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
async fn finished_reports_what_is_parked() {
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

/// Panics when it is followed.
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
async fn a_source_that_panics_ends_the_relay_with_its_error() {
    let roster = Arc::new(MemoryCheckpoints::default());
    let relay = Relay::open(Broken, roster, RelayOptions::default()).await.unwrap();
    relay.attach("a", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
    let finished = tokio::time::timeout(SOON, relay.finished()).await.expect("it hangs");
    assert_eq!(finished.unwrap_err().kind(), ErrorKind::Bug);
    assert_eq!(relay.status().stopped.unwrap().kind(), ErrorKind::Bug);
}

/// Moves an entry at once, and replies a second later.
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

/// The pump drops its swap when it is parked. That the entry moved all the same is no other runner.
#[tokio::test(start_paused = true)]
async fn a_pump_parked_during_a_swap_does_not_fence_itself() {
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

#[tokio::test(start_paused = true)]
async fn finished_ends_when_another_handle_closes_the_relay() {
    let log = MemoryStore::default();
    log.append(batch(&events(0..3))).await.unwrap();
    let relay = relay(&log, RelayOptions::default()).await;
    relay.attach("a", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
    relay.attach("hung", Faulty::new(Mode::Hang), SecondaryOptions::default()).await.unwrap();
    let waiting = tokio::spawn({
        let relay = relay.clone();
        async move { relay.finished().await }
    });
    tokio::time::sleep(SOON).await;
    assert!(!waiting.is_finished());
    assert_eq!(relay.close(SOON).await.len(), 1);
    let finished = tokio::time::timeout(SOON, waiting).await.expect("it hangs").unwrap().unwrap();
    assert_eq!(finished.len(), 1, "{finished}");
    assert!(relay.finished().await.is_ok(), "also once it is closed");
}

#[tokio::test(start_paused = true)]
async fn finished_waits_for_a_sink_and_ends_when_all_are_parked() {
    let log = MemoryStore::default();
    log.append(batch(&events(0..50))).await.unwrap();
    let relay = relay(&log, RelayOptions::default()).await;
    assert!(tokio::time::timeout(SOON, relay.finished()).await.is_err(), "nothing is attached");
    let sink = Faulty::new(Mode::Panic);
    relay.attach("a", sink.clone(), SecondaryOptions::default()).await.unwrap();
    assert_eq!(relay.finished().await.unwrap()[0].state, SecondaryState::Parked);
    sink.set(Mode::Fine);
    relay.resume("a").unwrap();
    assert!(tokio::time::timeout(SOON, relay.finished()).await.is_err(), "it follows again");
    relay.delivered(id(49), SOON).await.unwrap();
    assert!(relay.close(SOON).await.is_empty());
}

/// A source that was closed under the relay: the log is not complete.
#[tokio::test(start_paused = true)]
async fn a_source_that_ends_with_an_error_is_not_complete() {
    for kind in [ErrorKind::Closed, ErrorKind::Corrupt, ErrorKind::Denied] {
        struct Ends(MemoryStore, ErrorKind);

        impl EventSource for Ends {
            fn read(&self, from: ReadFrom) -> EventStream {
                let error = hydrant::Error::new(self.1, hydrant::Retry::Never, "it ends here");
                self.0.read(from).chain(futures_util::stream::once(async { Err(error) })).boxed()
            }

            fn follow(&self, from: ReadFrom) -> EventStream {
                self.read(from)
            }
        }

        for follow in [true, false] {
            let log = MemoryStore::default();
            log.append(batch(&events(0..5))).await.unwrap();
            let roster = Arc::new(MemoryCheckpoints::default());
            let options = RelayOptions::default().with_follow(follow);
            let relay = Relay::open(Ends(log, kind), roster, options).await.unwrap();
            let sink = MemoryStore::default();
            relay.attach("a", sink.clone(), SecondaryOptions::default()).await.unwrap();
            assert_eq!(relay.finished().await.unwrap_err().kind(), kind);
            assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..5), "what came before");
            assert_eq!(relay.status().stopped.unwrap().kind(), kind);
        }
    }
}

/// One that starts at an event which is still to come.
#[tokio::test(start_paused = true)]
async fn a_start_beyond_the_end_delays_no_other_sink() {
    let log = MemoryStore::default();
    log.append(batch(&events(0..50))).await.unwrap();
    let relay = relay(&log, RelayOptions::default()).await;
    let later = SecondaryOptions::default().with_start(StartAt::After(id(54)));
    let ahead = Forgetful::default();
    relay.attach("ahead", ahead.clone(), later).await.unwrap();
    tokio::time::sleep(SOON).await;
    let sink = MemoryStore::default();
    relay.attach("b", sink.clone(), SecondaryOptions::default()).await.unwrap();
    relay.delivered(id(49), Duration::ZERO).await.unwrap_err().into_iter().for_each(drop);
    for at in 50..60 {
        tokio::time::sleep(Duration::from_secs(30)).await;
        log.append(batch(&[event(at)])).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(sink.checkpoint().await.unwrap().id(), Some(id(at)));
    }
    let statuses = relay.status().secondaries;
    assert!(statuses.iter().all(|now| now.last_error_at.is_none()), "{statuses:?}");
    assert_eq!(*ahead.0.lock().unwrap(), [55, 56, 57, 58, 59]);
}

/// Large events that are all ready: what is taken at once is bounded in bytes.
#[tokio::test(start_paused = true)]
async fn chunks_of_the_source_are_bounded_in_bytes() {
    struct Counting(MemoryStore, Arc<AtomicUsize>);

    impl EventSource for Counting {
        fn read(&self, from: ReadFrom) -> EventStream {
            self.0.read(from)
        }

        fn follow(&self, from: ReadFrom) -> EventStream {
            let taken = self.1.clone();
            let count = move |_: &Result<Event>| {
                taken.fetch_add(1, Ordering::SeqCst);
            };
            self.0.follow(from).inspect(count).boxed()
        }
    }

    let log = MemoryStore::default();
    let large: Vec<_> = (0..40).map(|at| Event::new(id(at), &"x".repeat(100_000)).unwrap()).collect();
    log.append(batch(&large)).await.unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let roster = Arc::new(MemoryCheckpoints::default());
    let options = RelayOptions::default().with_ring(1_000, 500_000);
    let relay = Relay::open(Counting(log, taken.clone()), roster, options).await.unwrap();
    let sink = Faulty::new(Mode::Hang);
    relay.attach("a", sink.clone(), SecondaryOptions::default()).await.unwrap();
    tokio::time::sleep(SOON).await;
    // A ring and a chunk that waits for room in it.
    assert!(taken.load(Ordering::SeqCst) <= 12, "{} were taken", taken.load(Ordering::SeqCst));
    sink.set(Mode::Fine);
    relay.delivered(id(39), Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn sinks_that_start_at_different_places_all_finish() {
    let log = MemoryStore::default();
    crate::support::append_log(&log, &[events(0..20), vec![snapshot(20)], events(21..50)].concat()).await;
    hydrant::Prune::prune(&log, id(30)).await.unwrap();
    let relay = relay(&log, RelayOptions::default().with_follow(false).with_ring(4, 1 << 20)).await;
    let oldest = SecondaryOptions::default().with_start(StartAt::OldestSnapshot);
    let after = SecondaryOptions::default().with_start(StartAt::After(id(45)));
    let head = SecondaryOptions::default().with_start(StartAt::Head);
    let (full, some, none) = (MemoryStore::default(), Forgetful::default(), Forgetful::default());
    relay.attach("oldest", full.clone(), oldest).await.unwrap();
    relay.attach("after", some.clone(), after).await.unwrap();
    relay.attach("head", none.clone(), head).await.unwrap();
    relay.attach("strict", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
    let laggards = tokio::time::timeout(SOON, relay.finished()).await.expect("it hangs").unwrap();
    assert_eq!(laggards.iter().map(|laggard| &*laggard.name).collect::<Vec<_>>(), ["strict"], "{laggards}");
    assert_eq!(full.collect(ReadFrom::Snapshot).await.unwrap().len(), 30);
    assert_eq!(*some.0.lock().unwrap(), [46, 47, 48, 49]);
    assert!(none.0.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_empty_source_that_begins_at_a_snapshot_is_relayed() {
    let log = MemoryStore::default();
    let relay = relay(&log, RelayOptions::default().with_seed(1)).await;
    let oldest = SecondaryOptions::default().with_start(StartAt::OldestSnapshot);
    let sink = MemoryStore::default();
    relay.attach("oldest", sink.clone(), oldest).await.unwrap();
    relay.attach("strict", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
    tokio::time::sleep(SOON).await;
    let first = [snapshot(7), event(8)];
    log.append(hydrant::Batch::new(Some(id(6)), &first).unwrap()).await.unwrap();
    while sink.checkpoint().await.unwrap().id() != Some(id(8)) {
        assert_eq!(relay.status().stopped.map(|error| error.to_string()), None);
        tokio::time::sleep(SOON / 100).await;
    }
    log.append(batch(&[event(9)])).await.unwrap();
    tokio::time::sleep(SOON).await;
    assert_eq!(sink.collect(ReadFrom::Snapshot).await.unwrap().len(), 3);
    let strict = relay.status().secondaries.pop().unwrap();
    assert_eq!(strict.last_error.unwrap().kind(), ErrorKind::Pruned { oldest: id(7) });
}

/// One that was pruned before it is relayed.
/// A source whose stream takes a second to begin.
#[derive(Clone)]
struct SlowToFollow(MemoryStore);

impl EventSource for SlowToFollow {
    fn read(&self, from: ReadFrom) -> EventStream {
        self.0.read(from)
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        let store = self.0.clone();
        let begin = async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            store.follow(from)
        };
        stream::once(begin).flatten().boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_between_two_events_does_not_end_a_relay() {
    let store = MemoryStore::default();
    let log = [event(0), event(2), event(4), event(6), event(8)];
    store.append(Batch::new(None, &log).unwrap()).await.unwrap();
    let roster = Arc::new(MemoryCheckpoints::default());
    let relay = Relay::open(SlowToFollow(store), roster, RelayOptions::default().with_seed(1)).await.unwrap();
    let start = SecondaryOptions::default().with_start(StartAt::After(id(5)));
    relay.attach("forgetful", Forgetful::default(), start).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let sink = MemoryStore::default();
    relay.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    tokio::time::sleep(SOON).await;
    assert_eq!(relay.status().stopped.map(|error| error.to_string()), None);
    relay.delivered(id(8), SOON).await.unwrap();
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), log);
}
