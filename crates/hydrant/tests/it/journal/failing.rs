//! Errors of the store: refused, unknown, fenced.

use std::error::Error as _;
use std::time::Duration;

use hydrant::{ErrorKind, EventId, Journal, MemoryStore, Result, Retry};

use super::{append_each, log, open, options, settle};
use crate::support::{Fault, Scripted};

fn kinds(answers: &[Result<u64>]) -> Vec<Result<u64, ErrorKind>> {
    answers.iter().map(|answer| answer.as_ref().map(|id| *id).map_err(hydrant::Error::kind)).collect()
}

#[tokio::test]
async fn an_invalid_event_fails_its_own_caller_and_the_others_move_up() {
    let store = Scripted::default();
    store.refuse("bad");
    let journal = open(store.clone()).await;
    let answers = append_each(&journal, &["a", "bad 1", "b", "bad 2", "c"]).await;
    let invalid = Err(ErrorKind::Invalid);
    assert_eq!(kinds(&answers), [Ok(0), invalid, Ok(1), invalid, Ok(2)]);
    assert_eq!(log(&store).await, ["0:a", "1:b", "2:c"]);
    assert_eq!(journal.append(&"d".to_owned()).await.unwrap(), EventId::new(3));
}

#[tokio::test]
async fn an_invalid_event_fails_all_that_its_caller_appends_together() {
    let store = Scripted::default();
    store.refuse("bad");
    let journal = open(store.clone()).await;
    let texts = ["x".to_owned(), "bad".to_owned()];
    let (together, alone) = tokio::join!(journal.append_all(&texts), append_each(&journal, &["a"]));
    let error = together.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("event 2 of 2"), "{error}");
    assert_eq!(kinds(&alone), [Ok(0)]);
    assert_eq!(log(&store).await, ["0:a"]);
}

#[tokio::test]
async fn a_safe_error_goes_to_the_callers_and_its_ids_are_free_again() {
    let store = Scripted::new([Some(Fault::Before(ErrorKind::Full))]);
    let journal = open(store.clone()).await;
    let answers = append_each(&journal, &["a", "b"]).await;
    assert_eq!(kinds(&answers), [Err(ErrorKind::Full), Err(ErrorKind::Full)]);
    assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|error| error.retry() == Retry::Safe)));
    assert_eq!(kinds(&append_each(&journal, &["c"]).await), [Ok(0)]);
    assert_eq!(log(&store).await, ["0:c"]);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_sends_the_same_bytes_under_the_same_ids() {
    let faults = [
        Fault::Lost,
        Fault::After,
        Fault::Before(ErrorKind::Unavailable),
        Fault::Hang { applied: true },
        Fault::Hang { applied: false },
        Fault::Lost,
    ];
    let store = Scripted::new(faults.map(Some));
    let options = options().with_append_timeout(Duration::from_secs(1));
    let journal = Journal::open(store.clone(), options).await.unwrap();
    let (answers, ()) = tokio::join!(append_each(&journal, &["a", "b"]), async {
        settle().await;
        assert_eq!(journal.head(), None, "the head waits for the answer");
    });
    assert_eq!(kinds(&answers), [Ok(0), Ok(1)]);
    let sent = store.sent();
    assert_eq!(sent.len(), 7);
    for again in &sent[1..] {
        assert_eq!(again, &sent[0]);
    }
    assert_eq!(log(&store).await, ["0:a", "1:b"]);
}

/// A first `Safe` frees the ids of a group; a `Safe` after an unknown outcome says nothing about it.
#[tokio::test(start_paused = true)]
async fn a_safe_error_does_not_settle_an_unknown_outcome() {
    let script =
        std::iter::once(Fault::After).chain(std::iter::repeat_n(Fault::Before(ErrorKind::Full), 1_000));
    let store = Scripted::new(script.map(Some));
    let journal = open(store.clone()).await;
    let answers = append_each(&journal, &["a"]).await;
    let error = answers[0].as_ref().unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Full, Retry::AfterCheckpoint));
    assert!(error.to_string().contains("not known"), "{error}");
    let sent = store.sent();
    assert!(sent.iter().all(|batch| batch == &sent[0]));
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_stays_unknown_stops_the_journal() {
    let store = Scripted::new(vec![Some(Fault::Lost); 100_000]);
    let started = tokio::time::Instant::now();
    let options = options().with_resolve_timeout(Duration::from_secs(10));
    let journal = Journal::open(store.clone(), options).await.unwrap();
    let answers = append_each(&journal, &["a", "b"]).await;
    assert!(started.elapsed() >= Duration::from_secs(10));
    for answer in answers {
        let error = answer.unwrap_err();
        assert_eq!(error.retry(), Retry::AfterCheckpoint);
        assert!(error.to_string().contains("open the store and a journal again"), "{error}");
    }
    let error = journal.append(&"c".to_owned()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Closed, Retry::Never));
    assert!(error.source().is_some());
    assert_eq!(journal.close().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(log(&store).await.is_empty());
}

#[tokio::test]
async fn of_two_journals_over_one_store_one_is_fenced_and_stops() {
    let store = MemoryStore::default();
    let one = open(store.clone()).await;
    let other = open(store.clone()).await;
    assert_eq!(kinds(&append_each(&one, &["one"]).await), [Ok(0)]);
    assert_eq!(kinds(&append_each(&other, &["other"]).await), [Err(ErrorKind::Fenced)]);
    assert_eq!(kinds(&append_each(&other, &["again"]).await), [Err(ErrorKind::Closed)]);
    assert_eq!(kinds(&append_each(&one, &["two"]).await), [Ok(1)]);
    assert_eq!(log(&store).await, ["0:one", "1:two"]);
}

#[tokio::test]
async fn an_error_that_needs_an_operator_stops_the_journal() {
    let store = Scripted::new([Some(Fault::Never(ErrorKind::Corrupt))]);
    let journal = open(store.clone()).await;
    let error = append_each(&journal, &["a"]).await.remove(0).unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Corrupt, Retry::AfterCheckpoint));
    assert_eq!(kinds(&append_each(&journal, &["b"]).await), [Err(ErrorKind::Closed)]);
}

#[tokio::test]
async fn a_store_that_panics_stops_the_journal() {
    let store = Scripted::new([Some(Fault::Panic)]);
    let journal = open(store.clone()).await;
    let error = append_each(&journal, &["a"]).await.remove(0).unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Bug, Retry::AfterCheckpoint));
    assert_eq!(kinds(&append_each(&journal, &["b"]).await), [Err(ErrorKind::Closed)]);
    assert_eq!(journal.close().await.unwrap_err().kind(), ErrorKind::Bug);
}

/// Requests after the group that stops the journal were never sent, and their answer says so.
#[tokio::test]
async fn requests_after_a_stop_report_that_nothing_was_written() {
    let store = Scripted::new([Some(Fault::Never(ErrorKind::Denied))]);
    let journal = open(store.clone()).await;
    let (text, snapshot) = ("a".to_owned(), "snapshot".to_owned());
    let (sent, never_sent) =
        tokio::join!(journal.append(&text), journal.snapshot(Some(EventId::ZERO), &snapshot));
    assert_eq!(sent.unwrap_err().retry(), Retry::AfterCheckpoint);
    let error = never_sent.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Closed, Retry::Never));
    assert!(error.message().contains("nothing of this append was written"), "{error}");
}
