//! Dropped futures: committed or not, wholly.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use super::{log, open, options, settle};
use crate::support::{Fault, Scripted, poll_once};

/// Polls `future` up to `times` times, and lets other tasks run in between. Returns whether it was done.
async fn poll_times(future: impl Future, times: usize) -> bool {
    let mut future = pin!(future);
    for _ in 0..times {
        if poll_once(&mut future).await.is_ready() {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

#[tokio::test(start_paused = true)]
async fn an_append_dropped_at_any_poll_is_whole_or_absent() {
    for faults in [vec![], vec![Fault::After], vec![Fault::Lost], vec![Fault::Slow(Duration::from_secs(1))]] {
        let mut done = false;
        for polls in 0..32 {
            let store = Scripted::new(faults.iter().copied().map(Some));
            let journal = open(store.clone()).await;
            let texts = ["a", "b", "c"].map(str::to_owned);
            done = poll_times(journal.append_all(&texts), polls).await;
            let last = journal.append(&"last".to_owned()).await.unwrap().get();
            let log = log(&store).await;
            let expected: &[&str] = match last {
                0 => &["0:last"],
                _ => &["0:a", "1:b", "2:c", "3:last"],
            };
            assert_eq!(log, expected, "{faults:?}, dropped after {polls} polls");
            assert_eq!(last == 0, polls == 0, "the first poll hands over");
        }
        let waits_for_time = !faults.is_empty();
        assert!(done || waits_for_time, "32 polls are enough to get through");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_dropped_while_it_waits_for_room_writes_nothing() {
    let store = Scripted::new([Some(Fault::Slow(Duration::from_secs(1)))]);
    let options = options().with_in_flight_events_max(1);
    let journal = hydrant::Journal::open(store.clone(), options).await.unwrap();
    let first = tokio::spawn({
        let journal = journal.clone();
        async move { journal.append(&"first".to_owned()).await }
    });
    settle().await;
    assert!(!poll_times(journal.append(&"dropped".to_owned()), 5).await);
    first.await.unwrap().unwrap();
    journal.append(&"last".to_owned()).await.unwrap();
    assert_eq!(log(&store).await, ["0:first", "1:last"]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_close_continues_in_the_background() {
    let store = Scripted::new([Some(Fault::Slow(Duration::from_secs(1)))]);
    let journal = open(store.clone()).await;
    let text = "a".to_owned();
    let mut append = pin!(journal.append(&text));
    assert!(poll_once(&mut append).await.is_pending());
    assert!(!poll_times(journal.close(), 3).await);
    append.await.unwrap();
    assert!(journal.append(&"late".to_owned()).await.is_err());
}
