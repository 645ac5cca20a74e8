//! Foreign code that panics: serde implementations and the clock. The caller unwinds, the journal continues.

use std::panic::AssertUnwindSafe;
use std::time::SystemTime;

use futures_util::FutureExt;
use hydrant::{Clock, ErrorKind, EventId, Journal, MemoryStore, Retry};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::options;

/// Panics when it is written, or when it is read, or never.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    Fine,
    PanicsWritten,
    PanicsRead,
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert_ne!(*self, Self::PanicsWritten, "the type is broken");
        serializer.serialize_bool(*self == Self::PanicsRead)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        assert!(!bool::deserialize(deserializer)?, "the type is broken");
        Ok(Self::Fine)
    }
}

/// Room for one event, so that room that is lost is noticed.
async fn open(tasks: usize) -> Journal<Value> {
    let options = options().with_in_flight_events_max(1).with_hydrate_tasks(tasks);
    Journal::open(MemoryStore::default(), options).await.unwrap()
}

async fn unwinds(call: impl Future) -> bool {
    AssertUnwindSafe(call).catch_unwind().await.is_err()
}

#[tokio::test]
async fn a_value_that_panics_when_written_leaves_no_trace() {
    let journal = open(0).await;
    let bad = Value::PanicsWritten;
    for _ in 0..3 {
        assert!(unwinds(journal.append(&bad)).await);
        assert!(unwinds(journal.append_all(&[Value::Fine, bad])).await);
        assert!(unwinds(journal.snapshot(None, &bad)).await);
        assert!(unwinds(async { journal.reserve().await.unwrap().submit(&[(bad, None)]) }).await);
    }
    assert_eq!(journal.append(&Value::Fine).await.unwrap(), EventId::ZERO);
    journal.close().await.unwrap();
}

#[tokio::test]
async fn a_snapshot_that_panics_when_read_is_not_written() {
    let journal = open(0).await;
    assert!(unwinds(journal.snapshot(None, &Value::PanicsRead)).await);
    assert_eq!(journal.append(&Value::Fine).await.unwrap(), EventId::ZERO);
}

#[tokio::test]
async fn a_panic_in_hydrate_leaves_a_journal_that_works() {
    for tasks in [0, 2] {
        let journal = open(tasks).await;
        journal.append(&Value::PanicsRead).await.unwrap();
        let hydrate = journal.hydrate((), |(), _| ());
        match AssertUnwindSafe(hydrate).catch_unwind().await {
            Ok(answer) => assert_eq!((tasks, answer.unwrap_err().kind()), (2, ErrorKind::Bug)),
            Err(_) => assert_eq!(tasks, 0),
        }
        assert_eq!(journal.append(&Value::Fine).await.unwrap(), EventId::new(1));
        journal.close().await.unwrap();
    }
}

/// The clock runs in the journal's own task, which ends with it: every caller gets an answer.
#[tokio::test(start_paused = true)]
async fn a_clock_that_panics_stops_the_journal() {
    let clock = Clock::from_fn(|| -> SystemTime { panic!("the clock is broken") });
    let journal = Journal::open(MemoryStore::default(), options().with_clock(clock)).await.unwrap();
    let slot = journal.reserve().await.unwrap();
    let error = journal.append(&"a".to_owned()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Closed, Retry::AfterCheckpoint));
    assert_eq!(slot.submit(&[("b".to_owned(), None)]).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(journal.close().await.unwrap_err().kind(), ErrorKind::Bug);
}
