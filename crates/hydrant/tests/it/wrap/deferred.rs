//! A sink that is opened when that succeeds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use hydrant::{
    Deferred, Error, ErrorKind, EventSink, FanOut, FanOutOptions, MemoryStore, Retry, SecondaryOptions,
    SecondaryState,
};
use tokio::sync::Semaphore;

use super::{holding, ids};
use crate::support::{batch, events, id};

fn down(retry: Retry) -> Error {
    Error::new(ErrorKind::Unavailable, retry, "no server listens there")
}

/// Fails `failures` times, and counts how often it is asked.
fn after(failures: usize, store: &MemoryStore) -> (Deferred<MemoryStore>, Arc<AtomicUsize>) {
    let (asked, store) = (Arc::new(AtomicUsize::new(0)), store.clone());
    let counted = asked.clone();
    let open = move || {
        let asked = counted.fetch_add(1, Ordering::SeqCst);
        let store = store.clone();
        async move { if asked < failures { Err(down(Retry::Safe)) } else { Ok(store) } }
    };
    (Deferred::new(open), asked)
}

#[tokio::test]
async fn it_is_opened_by_the_first_call_that_can_and_never_again() {
    let store = holding(&[0, 1]).await;
    let (sink, asked) = after(2, &store);
    assert_eq!(asked.load(Ordering::SeqCst), 0, "nothing is opened before it is asked for");
    let log = events(0..4);
    assert_eq!(sink.checkpoint().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(sink.append(batch(&log)).await.unwrap_err().retry(), Retry::Safe);
    assert!(sink.inner().is_none());
    assert_eq!(sink.checkpoint().await.unwrap().id(), Some(id(1)));
    sink.append(batch(&log)).await.unwrap();
    assert_eq!((ids(&store).await, asked.load(Ordering::SeqCst)), (vec![0, 1, 2, 3], 3));
    assert!(sink.inner().is_some());
}

/// Opens once `gate` has a permit; counts how often it begins, and how many are under way.
#[derive(Clone)]
struct Slow {
    gate: Arc<Semaphore>,
    store: MemoryStore,
    begun: Arc<AtomicUsize>,
    under_way: Arc<AtomicUsize>,
}

impl Slow {
    fn new() -> Self {
        Self {
            gate: Arc::new(Semaphore::new(0)),
            store: MemoryStore::default(),
            begun: Arc::default(),
            under_way: Arc::default(),
        }
    }

    fn deferred(&self) -> Deferred<MemoryStore> {
        struct Counted(Arc<AtomicUsize>);
        impl Drop for Counted {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let this = self.clone();
        Deferred::new(move || {
            let this = this.clone();
            async move {
                this.begun.fetch_add(1, Ordering::SeqCst);
                this.under_way.fetch_add(1, Ordering::SeqCst);
                let _counted = Counted(this.under_way.clone());
                this.gate.acquire().await.unwrap().forget();
                Ok(this.store)
            }
        })
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    fn under_way(&self) -> usize {
        self.under_way.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_dropped_call_does_not_end_the_opening() {
    let slow = Slow::new();
    let sink = slow.deferred();
    for _ in 0..3 {
        assert!(sink.checkpoint().now_or_never().is_none(), "it is not open yet");
        tokio::task::yield_now().await;
        assert_eq!((slow.begun(), slow.under_way()), (1, 1));
    }
    slow.gate.add_permits(1);
    sink.append(batch(&events(0..3))).await.unwrap();
    assert_eq!((ids(&slow.store).await, slow.begun(), slow.under_way()), (vec![0, 1, 2], 1, 0));
}

#[tokio::test]
async fn calls_at_once_wait_for_one_opening() {
    let slow = Slow::new();
    let sink = slow.deferred();
    let opened = async {
        tokio::task::yield_now().await;
        slow.gate.add_permits(1);
    };
    let (one, other, ()) = tokio::join!(sink.checkpoint(), sink.checkpoint(), opened);
    assert!(one.is_ok() && other.is_ok());
    assert_eq!(slow.begun(), 1);
}

#[tokio::test]
async fn the_opening_ends_when_the_sink_is_dropped() {
    let slow = Slow::new();
    let sink = slow.deferred();
    assert!(sink.checkpoint().now_or_never().is_none());
    tokio::task::yield_now().await;
    assert_eq!(slow.under_way(), 1);
    drop(sink);
    while slow.under_way() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_panic_while_opening_is_a_bug_and_the_next_call_opens() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let sink = Deferred::new(move || {
        let asked = counted.fetch_add(1, Ordering::SeqCst);
        assert!(asked != 0, "the closure");
        async move {
            assert!(asked != 1, "the future");
            Ok(MemoryStore::default())
        }
    });
    for text in ["the closure", "the future"] {
        let error = sink.checkpoint().await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Bug, Retry::Never));
        assert!(error.message().contains(text), "{error}");
    }
    sink.append(batch(&events(0..3))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_opening_that_hangs_is_begun_anew_after_its_time_out() {
    let slow = Slow::new();
    let sink = slow.deferred().with_open_timeout(Duration::from_secs(90));
    let error = sink.checkpoint().await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe));
    assert!(error.message().contains("90s"), "{error}");
    assert_eq!((slow.begun(), slow.under_way()), (1, 0));
    slow.gate.add_permits(1);
    sink.checkpoint().await.unwrap();
    assert_eq!(slow.begun(), 2);
}

/// Each call is dropped by the time-out of the secondary, long before the sink is open.
#[tokio::test(start_paused = true)]
async fn a_sink_that_opens_slower_than_the_call_time_out_opens_once() {
    let (store, begun) = (MemoryStore::default(), Arc::new(AtomicUsize::new(0)));
    let (opened, counted) = (store.clone(), begun.clone());
    let sink = Deferred::new(move || {
        let store = opened.clone();
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            tokio::time::sleep(Duration::from_secs(100)).await;
            Ok(store)
        }
    });
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let options = SecondaryOptions::default().with_call_timeout(Duration::from_secs(5));
    log.attach("slow", sink, options).await.unwrap();
    log.append(batch(&events(0..10))).await.unwrap();
    log.delivered(id(9), Duration::from_secs(300)).await.unwrap();
    assert_eq!((ids(&store).await.len(), begun.load(Ordering::SeqCst)), (10, 1));
    drop(log.close(Duration::from_secs(5)).await);
}

#[tokio::test(start_paused = true)]
async fn down_at_the_start_a_secondary_catches_up_refused_it_parks() {
    let (late, refusing) =
        (MemoryStore::default(), Deferred::new(|| async { Err::<MemoryStore, _>(down(Retry::Never)) }));
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let (sink, asked) = after(5, &late);
    log.attach("late", sink, SecondaryOptions::default()).await.unwrap();
    log.attach("refusing", refusing, SecondaryOptions::default()).await.unwrap();
    log.append(batch(&events(0..10))).await.unwrap();
    let laggards = log.delivered(id(9), Duration::from_secs(60)).await.unwrap_err();
    assert!(
        laggards.to_string().contains("refusing") && !laggards.to_string().contains("late"),
        "{laggards}"
    );
    assert_eq!((ids(&late).await.len(), asked.load(Ordering::SeqCst)), (10, 6));
    let status = log.status();
    let secondary = |name: &str| status.secondaries.iter().find(|secondary| secondary.name == name).unwrap();
    assert_eq!(secondary("refusing").state, SecondaryState::Parked);
    assert!(secondary("refusing").last_error.as_ref().unwrap().to_string().contains("no server listens"));
    drop(log.close(Duration::from_secs(5)).await);
}
