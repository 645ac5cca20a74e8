//! The journal sets the deadline of each attempt, and is the one that resolves an unknown outcome.

use std::time::Duration;

use hydrant::{Clock, ErrorKind, Journal, MemoryStore, Retry};
use tokio::time::Instant;

use super::{append_each, log, open, options};
use crate::support::{Fault, Scripted};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn each_attempt_has_a_deadline_of_its_own() {
    let faults = [Fault::Hang { applied: false }, Fault::Lost, Fault::After];
    let store = Scripted::new(faults.map(Some));
    let options = options().with_append_timeout(Duration::from_secs(7));
    let journal = Journal::open(store.clone(), options).await.unwrap();
    assert!(append_each(&journal, &["a"]).await[0].is_ok());
    assert_eq!(store.time_left(), [Some(Duration::from_secs(7)); 4]);
}

#[tokio::test(start_paused = true)]
async fn back_pressure_goes_to_the_callers_and_never_stops() {
    let store = Scripted::new(vec![Some(Fault::Busy); 1_000]);
    let journal = open(store.clone()).await;
    let started = Instant::now();
    while started.elapsed() < 2 * HOUR {
        let error = append_each(&journal, &["a"]).await.remove(0).unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe));
    }
    store.clear();
    assert_eq!(*append_each(&journal, &["b"]).await[0].as_ref().unwrap(), 0);
    assert_eq!(log(&store).await, ["0:b"]);
}

/// The first write may have been applied, so the same bytes are sent until they are accepted, however long that is.
#[tokio::test(start_paused = true)]
async fn back_pressure_after_an_unknown_outcome_never_stops() {
    for first in [Fault::Lost, Fault::After, Fault::Hang { applied: true }] {
        let script = std::iter::once(first).chain(std::iter::repeat_n(Fault::Busy, 500));
        let store = Scripted::new(script.map(Some));
        let journal = open(store.clone()).await;
        let started = Instant::now();
        assert_eq!(*append_each(&journal, &["a"]).await[0].as_ref().unwrap(), 0);
        assert!(started.elapsed() > 4 * HOUR);
        let sent = store.sent();
        assert!(sent.iter().all(|batch| batch == &sent[0]), "the same bytes");
        assert_eq!(log(&store).await, ["0:a"]);
    }
}

/// Back-pressure gives the search for an outcome its time back, and no more than that.
#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_after_back_pressure_still_ends() {
    let script = [Fault::Lost, Fault::Busy].into_iter().chain(std::iter::repeat_n(Fault::Lost, 10_000));
    let store = Scripted::new(script.map(Some));
    let options = options().with_resolve_timeout(Duration::from_secs(60));
    let journal = Journal::open(store, options).await.unwrap();
    let started = Instant::now();
    let error = append_each(&journal, &["a"]).await.remove(0).unwrap_err();
    assert_eq!(error.retry(), Retry::AfterCheckpoint);
    assert!(started.elapsed() < Duration::from_secs(100), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn close_ends_under_back_pressure_without_end() {
    let script = std::iter::once(Fault::After).chain(std::iter::repeat_n(Fault::Busy, 10_000));
    let store = Scripted::new(script.map(Some));
    let journal = open(store.clone()).await;
    let text = "a".to_owned();
    let mut append = Box::pin(journal.append(&text));
    assert!(tokio::time::timeout(HOUR, &mut append).await.is_err());
    let started = Instant::now();
    assert_eq!(journal.close().await.unwrap_err().retry(), Retry::AfterCheckpoint);
    assert!(started.elapsed() <= Duration::from_secs(300 + 30 + 2), "{:?}", started.elapsed());
    assert_eq!(append.await.unwrap_err().retry(), Retry::AfterCheckpoint);
}

#[tokio::test(start_paused = true)]
async fn time_outs_without_end_and_pauses_of_zero_work() {
    let store = Scripted::new([Some(Fault::Lost); 20]);
    let options = options()
        .with_append_timeout(Duration::MAX)
        .with_resolve_timeout(Duration::MAX)
        .with_backoff(Duration::ZERO, Duration::ZERO);
    let journal = Journal::open(store.clone(), options).await.unwrap();
    assert!(append_each(&journal, &["a"]).await[0].is_ok());
}

/// Without a pause between attempts, simulated time would not advance.
#[tokio::test(start_paused = true)]
async fn attempts_without_backoff_do_not_spin() {
    let store = Scripted::new(vec![Some(Fault::Lost); 100_000]);
    let options =
        options().with_resolve_timeout(Duration::from_secs(1)).with_backoff(Duration::ZERO, Duration::ZERO);
    let journal = Journal::open(store.clone(), options).await.unwrap();
    assert!(append_each(&journal, &["a"]).await[0].is_err());
    assert!(store.sent().len() <= 1_002, "{}", store.sent().len());
}

#[tokio::test]
async fn a_clock_that_jumps_changes_nothing_but_times() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::SystemTime;
    let store = MemoryStore::default();
    let calls = AtomicUsize::new(0);
    let clock = Clock::from_fn(move || match calls.fetch_add(1, Ordering::Relaxed) % 4 {
        0 => SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 60),
        1 => SystemTime::UNIX_EPOCH - Duration::from_secs(1 << 60),
        2 => SystemTime::UNIX_EPOCH + HOUR,
        _ => SystemTime::UNIX_EPOCH,
    });
    let journal = Journal::open(store.clone(), options().with_clock(clock)).await.unwrap();
    for text in ["a", "b", "c", "d"] {
        journal.append(&text.to_owned()).await.unwrap();
    }
    assert_eq!(log(&store).await, ["0:a", "1:b", "2:c", "3:d"]);
}
