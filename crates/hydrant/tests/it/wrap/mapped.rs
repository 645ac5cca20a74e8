//! Other events in place of the source's.

use hydrant::{Error, ErrorKind, Event, EventSink, EventSourceExt, Mapped, MemoryStore, ReadFrom, Result};

use super::ids;
use crate::support::{batch, event, events, id};

fn anonymous(event: &Event) -> Result<Event> {
    Event::builder(event.id()).payload_json(r#""somebody""#).build()
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
async fn a_map_that_changes_an_id_is_a_bug_and_writes_nothing() {
    let store = MemoryStore::default();
    let wrapped = Mapped::new(store.clone(), |event| {
        Ok(crate::support::event(event.id().get() + event.id().get() / 2))
    });
    let error = wrapped.append(batch(&events(0..4))).await.unwrap_err();
    assert_eq!((error.kind(), error.event()), (ErrorKind::Bug, Some(id(2))));
    assert!(ids(&store).await.is_empty());
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
