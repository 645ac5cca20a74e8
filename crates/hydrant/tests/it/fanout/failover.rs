//! A relay whose source breaks off and comes back, perhaps as another copy of the log.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use hydrant::{
    ErrorKind, Event, EventId, EventSink, EventSource, EventSourceExt, EventStream, MemoryCheckpoints,
    MemoryStore, Prune, ReadFrom, Relay, RelayOptions, SecondaryOptions,
};
use tokio::sync::watch;

use super::SOON;
use super::rig::{self, Act};
use crate::support::{append_log, batch, event, events, id, safe, snapshot};

/// One address, behind which there is now one copy of the log and then another.
#[derive(Clone)]
struct Server {
    copy: Arc<Mutex<MemoryStore>>,
    breaks: watch::Sender<()>,
}

impl Server {
    async fn holding(log: &[Event]) -> Self {
        Self { copy: Arc::new(Mutex::new(copy_of(log).await)), breaks: watch::Sender::new(()) }
    }

    /// Ends what is read now with an error; what is read from now on comes from this copy.
    fn fail_over(&self, to: &MemoryStore) {
        *self.copy.lock().unwrap() = to.clone();
        self.breaks.send_replace(());
    }

    fn until_it_breaks(&self, events: EventStream) -> EventStream {
        let mut breaks = self.breaks.subscribe();
        let broken = async move { drop(breaks.changed().await) };
        events.take_until(broken).chain(stream::once(async { Err(safe()) })).boxed()
    }
}

impl EventSource for Server {
    fn read(&self, from: ReadFrom) -> EventStream {
        self.copy.lock().unwrap().read(from)
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        let events = self.copy.lock().unwrap().follow(from);
        self.until_it_breaks(events)
    }
}

async fn copy_of(log: &[Event]) -> MemoryStore {
    let store = MemoryStore::default();
    append_log(&store, log).await;
    store
}

/// A relay that has relayed the first ten events, and its sink.
async fn relayed(server: &Server) -> (Relay, MemoryStore) {
    let roster = Arc::new(MemoryCheckpoints::default());
    let relay = Relay::open(server.clone(), roster, RelayOptions::default().with_seed(1)).await.unwrap();
    let sink = MemoryStore::default();
    relay.attach("a", sink.clone(), SecondaryOptions::default()).await.unwrap();
    relay.delivered(id(9), SOON).await.unwrap();
    (relay, sink)
}

#[tokio::test(start_paused = true)]
async fn a_source_that_breaks_off_is_read_again_without_duplicates() {
    let server = Server::holding(&events(0..10)).await;
    let (relay, sink) = relayed(&server).await;
    for end in 10..15 {
        server.fail_over(&copy_of(&events(0..end + 1)).await);
        relay.delivered(id(end), SOON).await.unwrap();
    }
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..15));
    assert!(relay.close(SOON).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_continued_without_the_tail_ends_the_relay() {
    let other = |id: u64| Event::new(EventId::new(id), "another").unwrap();
    let under_the_same_ids = [events(0..8), vec![other(8), other(9), other(10)]].concat();
    let all_but_the_last = [events(0..9), vec![other(9), other(10)]].concat();
    for log in [under_the_same_ids, all_but_the_last] {
        let server = Server::holding(&events(0..10)).await;
        let (relay, sink) = relayed(&server).await;
        server.fail_over(&copy_of(&log).await);
        let error = tokio::time::timeout(SOON, relay.finished()).await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.event()), (ErrorKind::Diverged, Some(id(9))), "{error}");
        assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..10), "nothing of the other");
    }
}

/// A standby that lags, and catches up.
#[tokio::test(start_paused = true)]
async fn a_copy_that_is_behind_is_waited_for() {
    let server = Server::holding(&events(0..10)).await;
    let (relay, sink) = relayed(&server).await;
    let behind = copy_of(&events(0..8)).await;
    server.fail_over(&behind);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(relay.status().stopped.map(|error| error.kind()), None);
    behind.append(batch(&events(8..12))).await.unwrap();
    relay.delivered(id(11), SOON).await.unwrap();
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..12));
}

#[tokio::test(start_paused = true)]
async fn what_was_pruned_meanwhile_is_not_asked_for_again() {
    let server = Server::holding(&events(0..10)).await;
    let (relay, sink) = relayed(&server).await;
    let pruned = copy_of(&[events(0..10), vec![snapshot(10), event(11)]].concat()).await;
    pruned.prune(id(11)).await.unwrap();
    server.fail_over(&pruned);
    relay.delivered(id(11), SOON).await.unwrap();
    assert_eq!(sink.collect(ReadFrom::After(id(9))).await.unwrap(), [snapshot(10), event(11)]);
}

/// The fast sink is at the head, the slow one below the ring, as the source fails over to a copy with other events.
#[tokio::test(start_paused = true)]
async fn a_slow_sink_is_given_one_history_only() {
    let other = |at: u64| Event::new(id(at), "another").unwrap();
    // The copy is as long as the log, shorter, or longer; the slow sink is below and above where they part.
    for (parts_at, to) in [(50, 100), (50, 80), (50, 200), (5, 100), (99, 100), (100, 120)] {
        let server = rig::Server::holding(&events(0..100)).await;
        let options = RelayOptions::default().with_ring(10, 1 << 20).with_seed(1);
        let relay =
            Relay::open(server.clone(), Arc::new(MemoryCheckpoints::default()), options).await.unwrap();
        let (fast, slow) = (MemoryStore::default(), rig::Server::default());
        relay.attach("fast", fast.clone(), SecondaryOptions::default()).await.unwrap();
        slow.append.set(Act::Slow(Duration::from_millis(20)));
        let small = SecondaryOptions::default().with_batch(10, 1 << 20);
        relay.attach("slow", slow.clone(), small).await.unwrap();
        while fast.checkpoint().await.unwrap().id() < Some(id(99)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        while slow.checkpoint().await.unwrap().id() < Some(id(19)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let copy: Vec<_> = events(0..parts_at).into_iter().chain((parts_at..to).map(other)).collect();
        server.fail_over(&copy).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        let held = slow.copy().collect(ReadFrom::Origin).await.unwrap();
        if parts_at == 100 {
            // It only has more.
            assert_eq!(held, copy, "{parts_at}..{to}");
            continue;
        }
        assert!(
            held.len() < 100 && held == events(0..held.len() as u64),
            "{parts_at}..{to}: {} events",
            held.len()
        );
        assert_eq!(fast.collect(ReadFrom::Origin).await.unwrap(), events(0..100));
        if to >= 100 {
            assert_eq!(relay.finished().await.unwrap_err().kind(), ErrorKind::Diverged, "{parts_at}..{to}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_ends_early_is_read_again_with_pauses() {
    for end in [20, 30, 50] {
        let server = rig::Server::holding(&events(0..100)).await;
        let options = RelayOptions::default().with_ring(4, 1 << 20).with_seed(1);
        let relay =
            Relay::open(server.clone(), Arc::new(MemoryCheckpoints::default()), options).await.unwrap();
        let (fast, slow) = (MemoryStore::default(), rig::Server::default());
        relay.attach("fast", fast.clone(), SecondaryOptions::default()).await.unwrap();
        slow.append.set(Act::Slow(Duration::from_millis(20)));
        // Its chunks end where the copy ends.
        relay
            .attach("slow", slow.clone(), SecondaryOptions::default().with_batch(10, 1 << 20))
            .await
            .unwrap();
        while slow.checkpoint().await.unwrap().id() < Some(id(9)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let behind = server.fail_over(&events(0..end)).await;
        let reads = server.reads();
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(server.reads() - reads < 400, "{} reads in 100 s", server.reads() - reads);
        behind.append(batch(&events(end..110))).await.unwrap();
        relay.delivered(id(109), Duration::from_secs(120)).await.unwrap();
        assert_eq!(slow.copy().collect(ReadFrom::Origin).await.unwrap(), events(0..110));
    }
}

/// Fails one read, and then has another history, without the event that the sink ends with.
#[tokio::test(start_paused = true)]
async fn a_relay_begins_only_where_its_fastest_sink_is() {
    #[derive(Clone)]
    struct Source(Server, Arc<Mutex<u32>>, MemoryStore);

    impl EventSource for Source {
        fn read(&self, from: ReadFrom) -> EventStream {
            let mut reads = self.1.lock().unwrap();
            *reads += 1;
            if *reads == 2 {
                self.0.fail_over(&self.2);
                return stream::once(async { Err(safe()) }).boxed();
            }
            self.0.read(from)
        }

        fn follow(&self, from: ReadFrom) -> EventStream {
            self.0.follow(from)
        }
    }

    let server = Server::holding(&events(0..10)).await;
    let other = copy_of(&events(0..8)).await;
    let skips = [event(10), event(11)];
    other.append(hydrant::Batch::new(Some(id(7)), &skips).unwrap()).await.unwrap();
    let source = Source(server, Arc::default(), other);
    let roster = Arc::new(MemoryCheckpoints::default());
    let relay = Relay::open(source, roster, RelayOptions::default().with_seed(1)).await.unwrap();
    let sink = copy_of(&events(0..10)).await;
    relay.attach("a", sink.clone(), SecondaryOptions::default()).await.unwrap();
    let ended = tokio::time::timeout(SOON, relay.finished()).await.expect("it does not end");
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Diverged);
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..10));
}
