//! A sink that is opened when it can be.

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
    Error::new(ErrorKind::Unavailable, retry, "nobody listens there")
}

/// Answers so often that it is down, and counts how often it is asked.
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

#[tokio::test]
async fn an_opening_that_is_dropped_is_made_anew_by_the_next_call() {
    let (store, gate) = (MemoryStore::default(), Arc::new(Semaphore::new(0)));
    let (held, opened) = (gate.clone(), store.clone());
    let sink = Deferred::new(move || {
        let (gate, store) = (held.clone(), opened.clone());
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(store)
        }
    });
    assert!(sink.checkpoint().now_or_never().is_none(), "it hangs, and is dropped");
    gate.add_permits(1);
    sink.append(batch(&events(0..3))).await.unwrap();
    assert_eq!(ids(&store).await, [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_secondary_that_is_down_at_the_start_is_named_and_catches_up_and_one_that_refuses_parks() {
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
    assert!(secondary("refusing").last_error.as_ref().unwrap().to_string().contains("nobody listens"));
    drop(log.close(Duration::from_secs(5)).await);
}
