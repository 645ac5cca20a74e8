//! `reserve` and `submit`: ids at once, outcomes later.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use hydrant::{
    Error, ErrorKind, EventId, EventSourceExt, Journal, MemoryStore, ReadFrom, Result, Retry, Submitted,
};
use serde_json::value::RawValue;

use super::{log, open, options, settle};
use crate::support::{Fault, Scripted, poll_once};

/// Submits texts together, without metadata.
fn submit(journal: &Journal<String>, texts: &[&str]) -> Result<Submitted> {
    let events: Vec<_> = texts.iter().map(|text| ((*text).to_owned(), None)).collect();
    journal.try_reserve()?.submit(&events)
}

fn ids(submitted: &Submitted) -> (u64, u64) {
    (submitted.ids.start().get(), submitted.ids.end().get())
}

fn advice(error: &Error) -> (ErrorKind, Retry) {
    (error.kind(), error.retry())
}

const VOID: (ErrorKind, Retry) = (ErrorKind::Unavailable, Retry::Safe);

#[tokio::test(start_paused = true)]
async fn submit_assigns_ids_in_call_order() {
    let store = Scripted::new([Some(Fault::Slow(Duration::from_secs(1)))]);
    let journal = open(store.clone()).await;
    let text = "b".to_owned();
    let first = submit(&journal, &["a"]).unwrap();
    let mut append = Box::pin(journal.append(&text));
    assert!(poll_once(&mut append).await.is_pending());
    let second = submit(&journal, &["c", "d"]).unwrap();
    settle().await;
    let third = submit(&journal, &["e"]).unwrap();
    assert_eq!([ids(&first), ids(&second), ids(&third)], [(0, 0), (2, 3), (4, 4)]);
    assert_eq!(journal.head(), None, "nothing is durable yet");
    for durable in [first.durable, second.durable, third.durable] {
        durable.await.unwrap();
    }
    assert_eq!(append.await.unwrap(), EventId::new(1));
    assert_eq!(log(&store).await, ["0:a", "1:b", "2:c", "3:d", "4:e"]);
}

#[tokio::test]
async fn submit_keeps_the_metadata_of_each_event() {
    let store = MemoryStore::default();
    let journal = open(store.clone()).await;
    let raw = |json: &str| Some(RawValue::from_string(json.to_owned()).unwrap());
    let events = [("a".to_owned(), raw("{\"v\": 1}")), ("b".to_owned(), None), ("c".to_owned(), raw("null"))];
    journal.reserve().await.unwrap().submit(&events).unwrap().durable.await.unwrap();
    let events = store.collect(ReadFrom::Origin).await.unwrap();
    let metadata: Vec<_> = events.iter().map(hydrant::Event::metadata).collect();
    assert_eq!(metadata, [Some(b"{\"v\": 1}".as_slice()), None, Some(b"null")]);
}

/// Later submissions fail, appends move up, and the ids are issued again.
#[tokio::test(start_paused = true)]
async fn a_failed_commit_fails_the_submissions_after_it() {
    let store = Scripted::new([Some(Fault::Busy)]);
    let journal = open(store.clone()).await;
    let text = "append".to_owned();
    let sent = submit(&journal, &["a"]).unwrap();
    settle().await; // the store has it
    let pair = submit(&journal, &["b", "c"]).unwrap();
    let mut append = Box::pin(journal.append(&text));
    assert!(poll_once(&mut append).await.is_pending());
    let last = submit(&journal, &["d"]).unwrap();
    assert_eq!([ids(&sent), ids(&pair), ids(&last)], [(0, 0), (1, 2), (4, 4)]);
    for durable in [sent.durable, pair.durable, last.durable] {
        assert_eq!(advice(&durable.await.unwrap_err()), VOID);
    }
    let next = submit(&journal, &["e"]).unwrap();
    assert_eq!((append.await.unwrap(), ids(&next)), (EventId::ZERO, (1, 1)));
    next.durable.await.unwrap();
    assert_eq!(log(&store).await, ["0:append", "1:e"]);
}

#[tokio::test]
async fn an_invalid_event_spares_the_submissions_before_it() {
    let store = Scripted::default();
    store.refuse("bad");
    let journal = open(store.clone()).await;
    let text = "d".to_owned();
    let a = submit(&journal, &["a"]).unwrap();
    let bad = submit(&journal, &["x", "bad"]).unwrap();
    let c = submit(&journal, &["c"]).unwrap();
    let mut d = Box::pin(journal.append(&text));
    assert!(poll_once(&mut d).await.is_pending());
    a.durable.await.unwrap();
    assert_eq!(bad.durable.await.unwrap_err().kind(), ErrorKind::Invalid);
    let error = c.durable.await.unwrap_err();
    assert_eq!(advice(&error), VOID);
    assert!(error.to_string().contains("this store does not take it"), "{error}");
    assert_eq!(d.await.unwrap(), EventId::new(1));
    assert_eq!(log(&store).await, ["0:a", "1:d"]);
}

/// The caller that sees its failure may submit again at once, and its new ids hold.
#[tokio::test(start_paused = true)]
async fn submit_after_a_failure_gets_ids_that_hold() {
    let store = Scripted::new([Some(Fault::Before(ErrorKind::Full)); 3]);
    let journal = open(store.clone()).await;
    for _ in 0..3 {
        let submitted = submit(&journal, &["again"]).unwrap();
        assert_eq!(ids(&submitted), (0, 0));
        assert_eq!(advice(&submitted.durable.await.unwrap_err()), (ErrorKind::Full, Retry::Safe));
    }
    submit(&journal, &["again"]).unwrap().durable.await.unwrap();
    assert_eq!(log(&store).await, ["0:again"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_answers_every_submission() {
    let store = Scripted::new([Some(Fault::Never(ErrorKind::Corrupt))]);
    let journal = open(store.clone()).await;
    let slot = journal.reserve().await.unwrap();
    let sent = submit(&journal, &["a"]).unwrap();
    journal.snapshot(Some(EventId::ZERO), &"s".to_owned()).now_or_never();
    let queued = submit(&journal, &["b"]).unwrap();
    assert_eq!(advice(&sent.durable.await.unwrap_err()), (ErrorKind::Corrupt, Retry::AfterCheckpoint));
    assert_eq!(queued.durable.await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(slot.submit(&[("late".to_owned(), None)]).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(journal.reserve().await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(advice(&journal.try_reserve().unwrap_err()), (ErrorKind::Closed, Retry::Never));
}

#[tokio::test]
async fn a_refused_submission_changes_nothing_for_others() {
    let store = MemoryStore::new(hydrant::MemoryStoreOptions::default().with_event_bytes_max(200));
    let journal: Journal<Box<RawValue>> =
        Journal::open(store.clone(), options().with_in_flight_events_max(3)).await.unwrap();
    let raw = |json: String| RawValue::from_string(json).unwrap();
    let fine = || raw("1".to_owned());
    let first = journal.try_reserve().unwrap().submit(&[(fine(), None)]).unwrap();
    let refused = [
        vec![],
        vec![(fine(), None), (raw(format!("\"{}\"", "x".repeat(200))), None)],
        vec![(fine(), Some(raw(format!("\"{}\"", "x".repeat(200)))))],
        vec![(raw("[1,\n2]".to_owned()), None)],
        vec![(fine(), None), (fine(), Some(raw("[1,\n2]".to_owned())))],
    ];
    for events in refused {
        let error = journal.try_reserve().unwrap().submit(&events).unwrap_err();
        assert_eq!(advice(&error), (ErrorKind::Invalid, Retry::Never), "{error}");
    }
    let second = journal.try_reserve().unwrap().submit(&[(fine(), None), (fine(), None)]).unwrap();
    assert_eq!(ids(&second), (1, 2));
    assert_eq!(advice(&journal.try_reserve().unwrap_err()), VOID, "one and two take all room");
    first.durable.await.unwrap();
    second.durable.await.unwrap();
    drop(journal.try_reserve().unwrap());
}

/// An event that is too large for the store is refused by `append` as well, and never sent.
#[tokio::test]
async fn an_event_at_the_limit_is_taken_and_one_above_refused() {
    let limit = |bytes| hydrant::MemoryStoreOptions::default().with_event_bytes_max(bytes);
    let sample = MemoryStore::default();
    open(sample.clone()).await.append(&"x".repeat(500)).await.unwrap();
    let size = sample.collect(ReadFrom::Origin).await.unwrap()[0].size();
    let journal = open(MemoryStore::new(limit(size))).await;
    assert_eq!(journal.append(&"x".repeat(500)).await.unwrap(), EventId::ZERO);
    let store = MemoryStore::new(limit(size - 1));
    let journal = open(store.clone()).await;
    let error = journal.append(&"x".repeat(500)).await.unwrap_err();
    assert!(error.message().contains("event_bytes_max"), "{error}");
    assert_eq!(journal.append(&"x".to_owned()).await.unwrap(), EventId::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_slot_gives_its_room_back_when_dropped() {
    for options in [options().with_in_flight_events_max(1), options().with_in_flight_bytes_max(1)] {
        let journal: Journal<String> = Journal::open(MemoryStore::default(), options).await.unwrap();
        let slot = journal.try_reserve().unwrap();
        assert_eq!(advice(&journal.try_reserve().unwrap_err()), VOID);
        let mut waiting = Box::pin(journal.reserve());
        assert!(poll_once(&mut waiting).await.is_pending());
        drop(Box::pin(journal.reserve()).now_or_never()); // dropped while it waits: it takes nothing
        drop(slot);
        drop(waiting.await.unwrap());
        journal.append(&"a".to_owned()).await.unwrap();
        drop(journal.try_reserve().unwrap());
    }
}

#[tokio::test]
async fn bounds_of_zero_still_let_one_through() {
    let options = options().with_in_flight_events_max(0).with_in_flight_bytes_max(0);
    let journal: Journal<String> = Journal::open(MemoryStore::default(), options).await.unwrap();
    for id in 0..3 {
        let submitted = submit(&journal, &["a", "b"]).unwrap();
        assert_eq!(ids(&submitted), (3 * id, 3 * id + 1));
        assert_eq!(advice(&journal.try_reserve().unwrap_err()), VOID);
        submitted.durable.await.unwrap();
        assert_eq!(journal.append(&"c".to_owned()).await.unwrap(), EventId::new(3 * id + 2));
    }
}

/// A submission that is larger than its slot never waits; later callers wait until it is paid back.
#[tokio::test(start_paused = true)]
async fn a_submission_larger_than_the_bounds_delays_later_ones() {
    let slow = Some(Fault::Slow(Duration::from_secs(1)));
    let store = Scripted::new([slow; 3]);
    let options = options().with_in_flight_events_max(2).with_in_flight_bytes_max(10);
    let journal: Journal<String> = Journal::open(store.clone(), options).await.unwrap();
    let (one, two) = (journal.try_reserve().unwrap(), journal.try_reserve().unwrap());
    let many: Vec<_> = (0..5).map(|_| ("x".repeat(100), None)).collect();
    let (one, two) = (one.submit(&many).unwrap(), two.submit(&many).unwrap());
    assert_eq!([ids(&one), ids(&two)], [(0, 4), (5, 9)]);
    let mut next = Box::pin(journal.reserve());
    assert!(poll_once(&mut next).await.is_pending());
    one.durable.await.unwrap();
    two.durable.await.unwrap();
    drop(next.await.unwrap());
    let (first, second) = (journal.try_reserve().unwrap(), journal.try_reserve().unwrap());
    assert!(journal.try_reserve().is_err(), "no room was won or lost");
    drop((first, second));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_outcome_changes_nothing_for_the_events() {
    let store = Scripted::new([Some(Fault::Slow(Duration::from_secs(1)))]);
    let journal = open(store.clone()).await;
    drop(submit(&journal, &["a"]).unwrap().durable);
    drop(submit(&journal, &["b"]).unwrap());
    journal.close().await.unwrap();
    assert_eq!(log(&store).await, ["0:a", "1:b"]);
}

#[tokio::test(start_paused = true)]
async fn a_slot_keeps_its_journal_open() {
    let store = MemoryStore::default();
    let journal = open(store.clone()).await;
    let slot = journal.reserve().await.unwrap();
    drop(journal);
    settle().await;
    slot.submit(&[("a".to_owned(), None)]).unwrap().durable.await.unwrap();
    assert_eq!(log(&store).await, ["0:a"]);
}

/// `close` does not wait for slots, and callers that wait for room do not wait for a store that hangs.
#[tokio::test(start_paused = true)]
async fn close_refuses_slots_and_callers_that_wait_for_room() {
    let store = Scripted::new([Some(Fault::Hang { applied: false })]);
    let options = options().with_in_flight_events_max(2).with_append_timeout(Duration::from_secs(1));
    let journal: Journal<String> = Journal::open(store.clone(), options).await.unwrap();
    let slot = journal.reserve().await.unwrap();
    let hung = submit(&journal, &["a"]).unwrap();
    settle().await;
    let text = "b".to_owned();
    let (mut reserve, mut append) = (Box::pin(journal.reserve()), Box::pin(journal.append(&text)));
    assert!(poll_once(&mut reserve).await.is_pending());
    assert!(poll_once(&mut append).await.is_pending());
    let mut close = pin!(journal.close());
    assert!(poll_once(&mut close).await.is_pending());
    assert_eq!(reserve.now_or_never().unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(append.now_or_never().unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(slot.submit(&[(text, None)]).unwrap_err().kind(), ErrorKind::Closed);
    close.await.unwrap();
    hung.durable.await.unwrap();
    assert_eq!(log(&store).await, ["0:a"]);
}

#[test]
fn a_runtime_that_ends_answers_slots_and_submissions() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (first, second) = (runtime(), runtime());
    let store = Scripted::new([Some(Fault::Hang { applied: false })]);
    let journal: Journal<String> = first.block_on(Journal::open(store, options())).unwrap();
    let slot = journal.try_reserve().unwrap();
    let sent = submit(&journal, &["a"]).unwrap();
    first.block_on(settle());
    let queued = submit(&journal, &["b"]).unwrap();
    drop(first);
    let answer = |durable: hydrant::Durable| second.block_on(durable).unwrap_err();
    assert_eq!(advice(&answer(sent.durable)), (ErrorKind::Closed, Retry::AfterCheckpoint));
    assert_eq!(advice(&answer(queued.durable)), (ErrorKind::Closed, Retry::Never));
    assert_eq!(slot.submit(&[("c".to_owned(), None)]).unwrap_err().kind(), ErrorKind::Closed);
}

/// `Durable` and `Slot` move to other tasks.
#[test]
fn slots_and_outcomes_are_send() {
    fn is_send<T: Send + 'static>() {}
    fn is_future<T: Future<Output = Result<()>> + Send + Unpin>() {}
    is_send::<hydrant::Slot<String>>();
    is_send::<Submitted>();
    is_future::<hydrant::Durable>();
}
