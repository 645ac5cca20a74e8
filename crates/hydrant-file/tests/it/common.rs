//! Small helpers.

use hydrant::{Batch, Checkpoint, Event, EventId, EventSink, EventSourceExt, ReadFrom};
use hydrant_file::{FileStore, FileStoreOptions};
use std::path::Path;

pub(crate) fn event(id: u64) -> Event {
    Event::builder(EventId::new(id))
        .payload_json(format!(r#"{{"tag":"T","value":{id}}}"#))
        .time("2026-01-05T09:00:00Z")
        .build()
        .unwrap()
}

pub(crate) fn snapshot(id: u64) -> Event {
    Event::builder(EventId::new(id)).payload_json(r#"{"state":{}}"#).snapshot().build().unwrap()
}

/// Events of these ids; a snapshot where the id is in `snapshots`.
pub(crate) fn events(ids: impl IntoIterator<Item = u64>, snapshots: &[u64]) -> Vec<Event> {
    ids.into_iter().map(|id| if snapshots.contains(&id) { snapshot(id) } else { event(id) }).collect()
}

pub(crate) async fn open(dir: &Path) -> FileStore {
    FileStore::open(dir, FileStoreOptions::default()).await.unwrap()
}

/// Appends right behind the head, in a batch for each segment.
pub(crate) async fn append(store: &FileStore, events: &[Event]) {
    for segment in Batch::segments(events) {
        let after = store.checkpoint().await.unwrap().id();
        store.append(Batch::new(after, segment).unwrap()).await.unwrap();
    }
}

pub(crate) async fn all(store: &FileStore) -> Vec<Event> {
    store.collect(ReadFrom::Origin).await.unwrap()
}

pub(crate) async fn head(store: &FileStore) -> Option<u64> {
    match store.checkpoint().await.unwrap() {
        Checkpoint::At { id, .. } => Some(id.get()),
        _ => None,
    }
}

/// The names in a directory, without the store's own housekeeping.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("state"))
        .collect();
    names.sort();
    names
}
