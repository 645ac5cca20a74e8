//! What the tests of this crate share: events, and directories as hydra-node leaves them.

use std::fs;
use std::path::Path;

use hydrant::{Batch, Checkpoint, Event, EventId, EventSink, EventSourceExt, ReadFrom, Result};
use hydrant_file::{FileStore, FileStoreOptions};

pub(crate) fn id(id: u64) -> EventId {
    EventId::new(id)
}

pub(crate) fn event(number: u64) -> Event {
    Event::builder(id(number)).time("2026-01-05T09:00:00Z").payload(&number).unwrap().build().unwrap()
}

pub(crate) fn snapshot(number: u64) -> Event {
    let state = format!("{{\"sum\":{number}}}");
    Event::builder(id(number)).time("2026-01-05T09:00:00Z").payload_json(state).snapshot().build().unwrap()
}

pub(crate) async fn open(dir: &Path) -> FileStore {
    FileStore::open(dir, FileStoreOptions::default()).await.unwrap()
}

/// Appends behind whatever is there.
pub(crate) async fn append(store: &FileStore, events: &[Event]) -> Result<()> {
    for segment in Batch::segments(events) {
        let after = store.checkpoint().await?.id();
        store.append(Batch::new(after, segment)?).await?;
    }
    Ok(())
}

pub(crate) async fn read(store: &FileStore, from: ReadFrom) -> Vec<Event> {
    store.collect(from).await.unwrap()
}

pub(crate) async fn ids(store: &FileStore, from: ReadFrom) -> Vec<u64> {
    read(store, from).await.iter().map(|event| event.id().get()).collect()
}

/// Opens, checks that exactly `expected` is there, appends, and checks again after reopening.
pub(crate) async fn goes_on(dir: &Path, expected: &[u64]) {
    let store = open(dir).await;
    assert_eq!(ids(&store, ReadFrom::Origin).await, expected);
    let next = expected.last().map_or(0, |last| last + 1);
    append(&store, &[event(next), event(next + 1)]).await.unwrap();
    append(&store, &[snapshot(next + 2)]).await.unwrap();
    append(&store, &[event(next + 3)]).await.unwrap();
    store.close().await.unwrap();

    let store = open(dir).await;
    let mut all = expected.to_vec();
    all.extend(next..next + 4);
    let events = read(&store, ReadFrom::Origin).await;
    assert_eq!(events.iter().map(|event| event.id().get()).collect::<Vec<_>>(), all);
    assert_eq!(store.checkpoint().await.unwrap(), Checkpoint::at(events.last().unwrap()));
    assert_eq!(ids(&store, ReadFrom::Snapshot).await, [next + 2, next + 3]);
    store.close().await.unwrap();
}

/// The lines of hydra-node's three generations, and of its checkpoints.
pub(crate) mod hydra {
    /// Before 0.16: the bare change; its id is its line number.
    pub(crate) fn bare(number: u64) -> String {
        format!("{{\"tag\":\"TickObserved\",\"chainSlot\":{number}}}\n")
    }

    /// 0.16 to 0.20.
    pub(crate) fn envelope(number: u64) -> String {
        format!(
            "{{\"eventId\":{number},\"stateChanged\":{{\"chainSlot\":{number},\"tag\":\"TickObserved\"}}}}\n"
        )
    }

    /// From 0.21.
    pub(crate) fn timed(number: u64) -> String {
        format!(
            "{{\"eventId\":{number},\"stateChanged\":{{\"chainSlot\":{number},\"tag\":\"TickObserved\"}},\"time\":\"2025-04-03T10:11:12.123456789{:03}Z\"}}\n",
            number % 1000
        )
    }

    /// The event that opens a file after a rotation.
    pub(crate) fn checkpoint(number: u64) -> String {
        format!(
            "{{\"eventId\":{number},\"stateChanged\":{{\"state\":{{\"chainSlot\":{number},\"tag\":\"Open\"}},\"tag\":\"Checkpoint\"}},\"time\":\"2025-04-03T10:11:12Z\"}}\n"
        )
    }

    pub(crate) fn lines(line: impl Fn(u64) -> String, ids: impl IntoIterator<Item = u64>) -> String {
        ids.into_iter().map(line).collect()
    }
}

/// A directory that holds these files.
pub(crate) fn dir_of(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// What recovery kept aside: all `state.torn-*`, in order of their names.
pub(crate) fn torn(dir: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|found| found.unwrap().path()).collect();
    paths.sort();
    let is_torn = |path: &&std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().contains(".torn-");
    paths.iter().filter(is_torn).map(|path| fs::read(path).unwrap()).collect()
}
