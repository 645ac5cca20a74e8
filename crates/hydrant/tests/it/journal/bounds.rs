//! Callers wait for room.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hydrant::{ErrorKind, EventId, Journal};
use serde::{Serialize, Serializer};

use super::{log, open, options, settle};
use crate::support::{Fault, Scripted, poll_once};

async fn is_ready(future: impl Future) -> bool {
    poll_once(&mut pin!(future)).await.is_ready()
}

#[tokio::test(start_paused = true)]
async fn callers_without_room_wait_in_order_of_arrival() {
    let slow = Some(Fault::Slow(Duration::from_secs(1)));
    let store = Scripted::new([slow; 4]);
    let options = options().with_in_flight_events_max(2);
    let journal = Journal::open(store.clone(), options).await.unwrap();
    let append = |text: &str| {
        let (journal, text) = (journal.clone(), text.to_owned());
        tokio::spawn(async move { journal.append(&text).await })
    };
    let appends: Vec<_> = ["a", "b", "c", "d", "e"].map(append).into_iter().collect();
    for append in appends {
        append.await.unwrap().unwrap();
    }
    assert_eq!(log(&store).await, ["0:a", "1:b", "2:c", "3:d", "4:e"]);
    assert!(store.sent().iter().all(|batch| batch.len() <= 2), "{:?}", store.sent());
}

#[tokio::test(start_paused = true)]
async fn an_append_larger_than_a_bound_goes_alone() {
    let slow = Some(Fault::Slow(Duration::from_secs(1)));
    let store = Scripted::new([slow; 3]);
    let options = options().with_in_flight_events_max(2).with_in_flight_bytes_max(10);
    let journal = Journal::open(store.clone(), options).await.unwrap();
    let small = "s".to_owned();
    let many = vec!["x".repeat(100); 3];
    let (first, large, last) =
        tokio::join!(journal.append(&small), journal.append_all(&many), journal.append(&small));
    assert_eq!(first.unwrap(), EventId::ZERO);
    assert_eq!(*large.unwrap().end(), EventId::new(3));
    assert_eq!(last.unwrap(), EventId::new(4));
    let sizes: Vec<usize> = store.sent().iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 3, 1]);
}

/// Counts how often it is encoded.
struct Counted(Arc<AtomicUsize>);

impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.fetch_add(1, Ordering::Relaxed);
        serializer.serialize_str("0123456789")
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_waits_for_bytes_holds_no_payload() {
    let store = Scripted::new([Some(Fault::Slow(Duration::from_secs(1)))]);
    let options = options().with_in_flight_bytes_max(15);
    let journal = Journal::open(store.clone(), options).await.unwrap();
    let [one, two] = [(); 2].map(|()| Counted(Arc::default()));
    let (a, b) = tokio::join!(journal.append(&one), journal.append(&two));
    assert!(a.is_ok() && b.is_ok());
    assert_eq!(one.0.load(Ordering::Relaxed), 1);
    assert_eq!(two.0.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn room_comes_back_after_failures_and_dropped_calls() {
    let store = Scripted::new([
        Some(Fault::Before(ErrorKind::Unavailable)),
        Some(Fault::Slow(Duration::from_secs(1))),
    ]);
    let options = options().with_in_flight_events_max(1);
    let journal = Journal::open(store.clone(), options).await.unwrap();
    let text = "a".to_owned();
    assert!(journal.append(&text).await.is_err());
    assert!(!is_ready(journal.append(&text)).await, "handed over, and left");
    assert!(!is_ready(journal.append(&text)).await, "waited for room, and left");
    settle().await;
    assert_eq!(journal.append(&text).await.unwrap(), EventId::new(1));
    drop(open(store).await);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_waits_for_room_fails_after_a_stop() {
    for options in [options().with_in_flight_events_max(1), options().with_in_flight_bytes_max(1)] {
        let store = Scripted::new([Some(Fault::Never(ErrorKind::Denied)); 2]);
        let journal = Journal::open(store, options).await.unwrap();
        let text = "a".to_owned();
        let (first, second, third) =
            tokio::join!(journal.append(&text), journal.append(&text), journal.append(&text));
        assert_eq!(first.unwrap_err().kind(), ErrorKind::Denied);
        assert_eq!(second.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(third.unwrap_err().kind(), ErrorKind::Closed);
    }
}
