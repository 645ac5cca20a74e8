//! Snapshots: of the newest state, and readable.

use std::collections::BTreeMap;

use futures_util::FutureExt;
use hydrant::{
    Batch, ErrorKind, Event, EventId, EventSink, EventSourceExt, Journal, MemoryStore, ReadFrom, Retry,
};
use serde::{Deserialize, Serialize};

use super::{log, open, options, settle};
use crate::support::{Fault, Scripted};

fn snapshot_ids(events: &[Event]) -> Vec<u64> {
    events.iter().filter(|event| event.is_snapshot()).map(|event| event.id().get()).collect()
}

/// The state may be ahead of the disk: the snapshot is of the last id that was assigned.
#[tokio::test(start_paused = true)]
async fn a_snapshot_is_of_the_last_assigned_event() {
    let store = Scripted::new([Some(Fault::Slow(std::time::Duration::from_secs(1)))]);
    let journal = open(store.clone()).await;
    let submitted = journal.try_reserve().unwrap().submit(&[("a".to_owned(), None)]).unwrap();
    let of = *submitted.ids.end();
    settle().await;
    assert_eq!(journal.head(), None);
    let error = journal.snapshot(None, &"outdated".to_owned()).now_or_never().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert_eq!(journal.snapshot(Some(of), &"state".to_owned()).await.unwrap(), EventId::new(1));
    submitted.durable.await.unwrap();
    assert_eq!(log(&store).await, ["0:a", "1:state"]);
}

/// A snapshot never moves up: its state holds events that were not saved.
#[tokio::test(start_paused = true)]
async fn a_snapshot_of_unsaved_events_fails_and_is_not_written() {
    let store = Scripted::new([Some(Fault::Busy)]);
    let journal = open(store.clone()).await;
    let text = "a".to_owned();
    let (append, snapshot, later) = tokio::join!(
        journal.append(&text),
        async {
            settle().await;
            journal.snapshot(Some(EventId::ZERO), &"state".to_owned()).await
        },
        async {
            settle().await;
            settle().await;
            journal.append(&"b".to_owned()).await
        }
    );
    for error in [append.unwrap_err(), snapshot.unwrap_err()] {
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe));
    }
    assert_eq!(later.unwrap(), EventId::ZERO);
    assert_eq!(log(&store).await, ["0:b"]);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "tag")]
enum Change {
    Set { key: u32, value: u32 },
    Snapshot { state: BTreeMap<u32, u32> },
}

#[derive(Debug, Serialize, Deserialize)]
enum Float {
    Snapshot(f64),
}

/// serde writes a map with integer keys inside of a tagged enum, and cannot read it.
#[tokio::test]
async fn a_snapshot_that_cannot_be_decoded_is_refused() {
    let store = MemoryStore::default();
    let journal: Journal<Change> = Journal::open(store.clone(), options()).await.unwrap();
    let head = journal.append(&Change::Set { key: 1, value: 2 }).await.unwrap();
    let snapshot = Change::Snapshot { state: BTreeMap::from([(1, 2)]) };
    let error = journal.snapshot(Some(head), &snapshot).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Invalid, Retry::Never));
    assert!(error.message().contains("read back"), "{error}");
    // The journal continues, and so does the next start.
    let empty = Change::Snapshot { state: BTreeMap::new() };
    assert_eq!(journal.snapshot(Some(head), &empty).await.unwrap(), EventId::new(1));
    assert_eq!(journal.append(&Change::Set { key: 3, value: 4 }).await.unwrap(), EventId::new(2));
    let events = store.collect(ReadFrom::Origin).await.unwrap();
    assert_eq!((events.len(), snapshot_ids(&events)), (3, vec![1]));
    let changes = journal.hydrate(Vec::new(), Vec::push).await.unwrap().state;
    assert_eq!(changes, [empty, Change::Set { key: 3, value: 4 }]);

    let journal: Journal<Float> = Journal::open(MemoryStore::default(), options()).await.unwrap();
    let error = journal.snapshot(None, &Float::Snapshot(f64::NAN)).await.unwrap_err();
    assert_eq!((error.kind(), journal.head()), (ErrorKind::Invalid, None), "NaN is written as null");
}

#[tokio::test]
async fn the_last_id_is_taken_and_nothing_after_it() {
    let store = MemoryStore::default();
    let events = [Event::new(EventId::new(u64::MAX - 3), "first").unwrap()];
    store.append(Batch::new(None, &events).unwrap()).await.unwrap();
    let journal = open(store.clone()).await;
    let submit = |texts: &[&str]| {
        let events: Vec<_> = texts.iter().map(|text| ((*text).to_owned(), None)).collect();
        journal.try_reserve().unwrap().submit(&events)
    };
    assert_eq!(submit(&["a", "b", "c", "d"]).unwrap_err().kind(), ErrorKind::Invalid);
    let pair = submit(&["a", "b"]).unwrap();
    assert_eq!(*pair.ids.end(), EventId::new(u64::MAX - 1));
    let refused = journal.append_all(&["c".to_owned(), "d".to_owned()]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let last = journal.snapshot(Some(EventId::new(u64::MAX - 1)), &"state".to_owned()).await.unwrap();
    assert_eq!(last, EventId::new(u64::MAX));
    pair.durable.await.unwrap();
    let error = journal.append(&"e".to_owned()).await.unwrap_err();
    assert!(error.message().contains("begin another log"), "{error}");
    assert_eq!(submit(&["e"]).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(
        open(store.clone()).await.append(&"f".to_owned()).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    journal.close().await.unwrap();
}
