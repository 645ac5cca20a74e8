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
async fn a_source_that_breaks_off_is_read_on_and_nothing_comes_twice() {
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
async fn a_copy_that_lost_the_tail_and_went_on_without_it_ends_the_relay() {
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

/// As a standby does that lags, and catches up.
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
