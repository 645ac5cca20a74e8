//! Other events in place of the source's.

use std::sync::Arc;
use std::time::Duration;

use hydrant::{
    Batch, Checkpointed, Error, ErrorKind, Event, EventSink, EventSourceExt, FanOut, FanOutOptions, Mapped,
    MemoryCheckpoints, MemoryStore, Prune, ReadFrom, Result, Retry, SecondaryOptions, StartAt,
};

use super::{Forgetful, ids};
use crate::support::{batch, event, events, id, snapshot};

fn anonymous(event: &Event) -> Result<Event> {
    Event::builder(event.id()).payload_json(r#""anonymous""#).build()
}

#[tokio::test]
async fn each_event_becomes_another_under_its_id() {
    let store = MemoryStore::default();
    let wrapped = Mapped::new(store.clone(), anonymous);
    let log = events(0..4);
    wrapped.append(batch(&log[..2])).await.unwrap();
    wrapped.append(batch(&log[1..])).await.unwrap();
    let held = store.collect(ReadFrom::Origin).await.unwrap();
    let mapped: Vec<Event> = log.iter().map(|event| anonymous(event).unwrap()).collect();
    assert_eq!(held, mapped);
    assert_eq!(wrapped.checkpoint().await.unwrap(), store.checkpoint().await.unwrap());
}

#[tokio::test]
async fn a_map_that_changes_an_id_is_a_bug_at_that_event() {
    let store = MemoryStore::default();
    let wrapped = Mapped::new(store.clone(), |event| {
        Ok(crate::support::event(event.id().get() + event.id().get() / 2))
    });
    let error = wrapped.append(batch(&events(0..4))).await.unwrap_err();
    assert_eq!((error.kind(), error.event()), (ErrorKind::Bug, Some(id(2))));
    assert_eq!(ids(&store).await, [0, 1], "what is before it is delivered");
}

#[tokio::test]
async fn an_event_that_cannot_be_mapped_is_named() {
    let store = MemoryStore::default();
    let wrapped = Mapped::new(store.clone(), |event| {
        if event.id() == id(1) { Err(Error::invalid("no such account")) } else { Ok(event.clone()) }
    });
    let error = wrapped.append(batch(&[event(0), event(1)])).await.unwrap_err();
    assert_eq!((error.kind(), error.event()), (ErrorKind::Invalid, Some(id(1))));
    assert!(ids(&store).await.is_empty());
}

#[tokio::test]
async fn a_map_that_panics_is_a_bug_at_that_event() {
    let store = MemoryStore::default();
    let wrapped = Mapped::new(store.clone(), |event| {
        assert!(event.id() != id(2), "unforeseen");
        Ok(event.clone())
    });
    let error = wrapped.append(batch(&events(0..4))).await.unwrap_err();
    assert_eq!((error.kind(), error.retry(), error.event()), (ErrorKind::Bug, Retry::Never, Some(id(2))));
    assert!(error.message().contains("unforeseen"), "{error}");
    assert_eq!(ids(&store).await, [0, 1]);
    let error = wrapped.append(batch(&events(2..4))).await.unwrap_err();
    assert_eq!(error.event(), Some(id(2)));
}

#[tokio::test]
async fn an_error_of_the_map_is_about_the_event_mapped() {
    let wrapped = Mapped::new(Forgetful::default(), |event| {
        if event.id() < id(2) {
            return Ok(event.clone());
        }
        Err(Error::unavailable("the key server is down").at(id(77)))
    });
    let error = wrapped.append(batch(&events(0..4))).await.unwrap_err();
    assert_eq!((error.event(), error.retry()), (Some(id(2)), Retry::AfterCheckpoint));
    assert_eq!(wrapped.inner().taken(), [0, 1]);
    let error = wrapped.append(batch(&events(2..4))).await.unwrap_err();
    assert_eq!((error.event(), error.retry()), (Some(id(2)), Retry::Safe), "nothing was applied");
}

#[tokio::test]
async fn the_snapshot_mark_stays_whatever_the_map_returns() {
    let store = MemoryStore::default();
    let wrapped = Mapped::new(store.clone(), |event| {
        let other = Event::builder(event.id()).payload_json("0").member("m", "1");
        if event.is_snapshot() { other.build() } else { other.snapshot().build() }
    });
    wrapped.append(Batch::new(Some(id(5)), &[snapshot(6), event(7)]).unwrap()).await.unwrap();
    let held = store.collect(ReadFrom::Snapshot).await.unwrap();
    assert_eq!(
        held.iter().map(|event| (event.id().get(), event.is_snapshot())).collect::<Vec<_>>(),
        [(6, true), (7, false)]
    );
    let marked = Event::builder(id(6)).payload_json("0").member("m", "1").snapshot().build().unwrap();
    assert_eq!(held[0], marked, "only the mark differs");
}

#[tokio::test(start_paused = true)]
async fn a_mapped_sink_starts_at_the_oldest_snapshot() {
    let primary = MemoryStore::default();
    primary.append(batch(&events(0..3))).await.unwrap();
    primary.append(batch(&[snapshot(3), event(4)])).await.unwrap();
    primary.prune(id(3)).await.unwrap();
    let log = FanOut::open(primary, FanOutOptions::default()).await.unwrap();
    let store = MemoryStore::default();
    let sink = Mapped::new(store.clone(), anonymous);
    let sink =
        Checkpointed::open(sink, Arc::new(MemoryCheckpoints::default()), "mapped", "memory").await.unwrap();
    let options = SecondaryOptions::default().with_start(StartAt::OldestSnapshot);
    log.attach("mapped", sink, options).await.unwrap();
    log.append(batch(&[event(5)])).await.unwrap();
    log.delivered(id(5), Duration::from_secs(60)).await.unwrap();
    let held = store.collect(ReadFrom::Snapshot).await.unwrap();
    assert_eq!(held.iter().map(|event| event.id().get()).collect::<Vec<_>>(), [3, 4, 5]);
}
