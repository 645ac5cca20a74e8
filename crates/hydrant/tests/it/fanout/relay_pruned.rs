//! Sources that were pruned: what a sink needs that is not there delays no other sink.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use hydrant::{
    Batch, Deferred, ErrorKind, EventSink, EventSource, EventSourceExt, EventStream, FanOut, FanOutOptions,
    MemoryCheckpoints, MemoryStore, Prune, ReadFrom, Relay, RelayOptions, SecondaryOptions, StartAt,
};

use super::SOON;
use super::rig::Forgetful;
use crate::support::{append_log, batch, events, id, safe, snapshot};

async fn relay(log: &MemoryStore, follow: bool) -> Relay {
    let options = RelayOptions::default().with_follow(follow).with_seed(1);
    Relay::open(log.clone(), Arc::new(MemoryCheckpoints::default()), options).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_pruned_source_parks_a_sink_that_needs_its_origin() {
    let log = MemoryStore::default();
    log.append(Batch::new(Some(id(6)), &[snapshot(7)]).unwrap()).await.unwrap();
    let relay = relay(&log, true).await;
    relay.attach("strict", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
    let laggards = tokio::time::timeout(SOON, relay.finished()).await.unwrap().unwrap();
    assert_eq!(laggards[0].last_error.as_ref().unwrap().kind(), ErrorKind::Pruned { oldest: id(7) });
}

/// It needs pruned events, and replies first.
#[tokio::test(start_paused = true)]
async fn a_new_sink_of_a_pruned_source_ends_no_other() {
    for follow in [false, true] {
        let log = MemoryStore::default();
        append_log(&log, &[events(0..20), vec![snapshot(20)], events(21..50)].concat()).await;
        Prune::prune(&log, id(30)).await.unwrap();
        let relay = relay(&log, follow).await;
        relay.attach("new", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
        let archive = MemoryStore::default();
        archive
            .append(Batch::new(Some(id(19)), &[vec![snapshot(20)], events(21..40)].concat()).unwrap())
            .await
            .unwrap();
        let opened = archive.clone();
        let slow = Deferred::new(move || {
            let opened = opened.clone();
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(opened)
            }
        });
        relay.attach("archive", slow, SecondaryOptions::default()).await.unwrap();
        if follow {
            let laggards = relay.delivered(id(49), SOON).await.unwrap_err();
            assert_eq!(laggards.iter().map(|one| &one.name).collect::<Vec<_>>(), ["new"]);
            assert!(relay.status().stopped.is_none(), "{:?}", relay.status());
        } else {
            let laggards = relay.finished().await.unwrap();
            assert_eq!(laggards.iter().map(|one| &one.name).collect::<Vec<_>>(), ["new"]);
        }
        assert_eq!(archive.checkpoint().await.unwrap().id(), Some(id(49)));
    }
}

/// The only sink has begun at a snapshot that is pruned while the source is down.
#[tokio::test(start_paused = true)]
async fn a_start_pruned_before_the_first_delivery_is_found_again() {
    #[derive(Clone)]
    struct Down(MemoryStore, Arc<AtomicBool>);

    impl EventSource for Down {
        fn read(&self, from: ReadFrom) -> EventStream {
            self.0.read(from)
        }

        fn follow(&self, from: ReadFrom) -> EventStream {
            if self.1.load(Ordering::SeqCst) {
                return stream::once(async { Err(safe()) }).boxed();
            }
            self.0.follow(from)
        }
    }

    let log = MemoryStore::default();
    let all =
        [events(0..10), vec![snapshot(10)], events(11..20), vec![snapshot(20)], events(21..30)].concat();
    append_log(&log, &all).await;
    Prune::prune(&log, id(15)).await.unwrap();
    let is_down = Arc::new(AtomicBool::new(true));
    let roster = Arc::new(MemoryCheckpoints::default());
    let options = RelayOptions::default().with_seed(1);
    let relay = Relay::open(Down(log.clone(), is_down.clone()), roster, options).await.unwrap();
    let oldest = SecondaryOptions::default().with_start(StartAt::OldestSnapshot);
    let sink = MemoryStore::default();
    relay.attach("sink", sink.clone(), oldest).await.unwrap();
    tokio::time::sleep(SOON).await;
    Prune::prune(&log, id(25)).await.unwrap();
    is_down.store(false, Ordering::SeqCst);
    relay.delivered(id(29), Duration::from_secs(60)).await.unwrap();
    assert_eq!(sink.collect(ReadFrom::Snapshot).await.unwrap()[0].id(), id(20));
}

/// It is attached to an empty log, which then begins at a snapshot: nothing is missing between.
#[tokio::test(start_paused = true)]
async fn at_the_head_of_an_empty_log_is_before_its_first_event() {
    let log = MemoryStore::default();
    let fan_out = FanOut::open(log.clone(), FanOutOptions::default()).await.unwrap();
    let relay = relay(&log, true).await;
    let (here, there) = (Forgetful::default(), Forgetful::default());
    let start = SecondaryOptions::default().with_start(StartAt::Head);
    fan_out.attach("here", here.clone(), start.clone()).await.unwrap();
    relay.attach("there", there.clone(), start).await.unwrap();
    tokio::time::sleep(SOON).await;
    fan_out.append(Batch::new(Some(id(6)), &[snapshot(7)]).unwrap()).await.unwrap();
    fan_out.append(batch(&events(8..9))).await.unwrap();
    fan_out.delivered(id(8), SOON).await.unwrap();
    relay.delivered(id(8), SOON).await.unwrap();
    for (sink, status) in [(here, fan_out.status()), (there, relay.status())] {
        assert_eq!(*sink.0.lock().unwrap(), [7, 8]);
        assert_eq!(status.secondaries[0].floor, Some(id(7)));
    }
}
