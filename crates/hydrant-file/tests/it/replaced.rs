//! A log that is replaced, cut or rewritten under a follower: it continues where the event it returned last is still
//! in the log, and ends with an error otherwise.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{Batch, ErrorKind, Event, EventId, EventSink, EventSource, EventStream, ReadFrom, Result};
use hydrant_file::{FileSource, FileSourceOptions, FileStore, FileStoreOptions};

use crate::common::{append, event, events, open};
use crate::support::hydra::{checkpoint, lines, timed};

async fn follow(dir: &Path) -> EventStream {
    let options = FileSourceOptions::default().with_poll_interval(Duration::from_millis(1));
    FileSource::open(dir, options).await.unwrap().follow(ReadFrom::Origin)
}

/// What comes next; `None` if nothing does.
async fn next(follower: &mut EventStream, patience: Duration) -> Option<Result<Event>> {
    tokio::time::timeout(patience, follower.next()).await.ok().flatten()
}

/// What comes next must come.
async fn soon(follower: &mut EventStream) -> Result<Event> {
    next(follower, Duration::from_secs(20)).await.expect("silence")
}

async fn take(follower: &mut EventStream, ids: impl IntoIterator<Item = u64>) {
    for id in ids {
        assert_eq!(soon(follower).await.unwrap().id().get(), id);
    }
}

async fn fails(follower: &mut EventStream, what: &str) -> ErrorKind {
    let error = soon(follower).await.expect_err(what);
    assert!(!error.to_string().contains("repair"), "{what}: {error}");
    error.kind()
}

/// A log of its own in a directory: from `first` on, behind `after`.
async fn log(dir: &Path, after: Option<u64>, log: &[Event]) {
    let store = open(dir).await;
    store.append(Batch::new(after.map(EventId::new), log).unwrap()).await.unwrap();
    store.close().await.unwrap();
}

fn payloads(ids: std::ops::Range<u64>, payload: &str) -> Vec<Event> {
    let event = |id| Event::builder(EventId::new(id)).payload_json(format!("\"{payload}\"")).build().unwrap();
    ids.map(event).collect()
}

/// A directory that is replaced while it is followed.
struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn swap(&self) {
        fs::rename(self.path("log"), self.path("old")).unwrap();
        fs::rename(self.path("new"), self.path("log")).unwrap();
    }
}

#[tokio::test]
async fn a_follower_of_a_replaced_directory_does_not_change_logs() {
    let pruned = Some(ErrorKind::Pruned { oldest: EventId::new(20) });
    // The log that takes the place: its predecessor, its events, and how the follower of events 0 to 9 ends.
    let cases = [
        ("a log of its own, above", None, events(20..25, &[]), Some(ErrorKind::Diverged)),
        ("a shorter log", None, events(0..5, &[]), Some(ErrorKind::Diverged)),
        ("another log", None, payloads(0..20, "other"), Some(ErrorKind::Diverged)),
        ("pruned above", Some(19), events(20..25, &[20]), pruned),
        ("the same log, longer", None, events(0..12, &[]), None),
        ("the same log, pruned right behind it", Some(9), events(10..12, &[10]), None),
    ];
    for (what, after, replacement, expected) in cases {
        let place = Place::new();
        log(&place.path("log"), None, &events(0..10, &[])).await;
        let mut follower = follow(&place.path("log")).await;
        take(&mut follower, 0..10).await;
        log(&place.path("new"), after, &replacement).await;
        place.swap();
        match expected {
            None => take(&mut follower, 10..12).await,
            Some(expected) => match fails(&mut follower, what).await {
                ErrorKind::Unavailable => {} // between the two renames
                kind => assert_eq!(kind, expected, "{what}"),
            },
        }
    }
}

#[tokio::test]
async fn a_directory_replaced_in_mid_read_is_not_mixed() {
    let place = Place::new();
    for (name, payload) in [("log", "ours"), ("new", "other")] {
        let store = open(&place.path(name)).await;
        for first in (0..300).step_by(3) {
            let mut batch = payloads(first..first + 3, payload);
            batch[0] = crate::common::snapshot(first);
            append(&store, &batch).await;
        }
        store.close().await.unwrap();
    }
    let source = FileSource::open(place.path("log"), FileSourceOptions::default()).await.unwrap();
    for mut stream in [source.read(ReadFrom::Origin), source.follow(ReadFrom::Origin)] {
        take(&mut stream, 0..2).await;
        place.swap();
        let error = loop {
            match soon(&mut stream).await {
                Ok(event) => assert_ne!(event.payload(), b"\"other\"", "event {} of another log", event.id()),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Diverged, "{error}");
        fs::rename(place.path("log"), place.path("new")).unwrap();
        fs::rename(place.path("old"), place.path("log")).unwrap();
    }
}

/// Changes `state` while a follower stands at the end of it.
async fn change(
    before: &str,
    ids: std::ops::Range<u64>,
    change: impl FnOnce(&Path),
) -> (tempfile::TempDir, EventStream) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("state"), before).unwrap();
    let mut follower = follow(dir.path()).await;
    take(&mut follower, ids).await;
    change(dir.path());
    (dir, follower)
}

fn by_rename(dir: &Path, text: &str) {
    fs::write(dir.join(".t"), text).unwrap();
    fs::rename(dir.join(".t"), dir.join("state")).unwrap();
}

fn in_place(dir: &Path, text: &str) {
    fs::write(dir.join("state"), text).unwrap();
}

#[tokio::test]
async fn a_state_with_the_same_history_and_more_continues() {
    for replace in [by_rename, in_place] {
        for (old, new) in [(0..5, 0..7), (0..5, 2..7)] {
            let text = lines(timed, new);
            let (dir, mut follower) = change(&lines(timed, old), 0..5, |dir| replace(dir, &text)).await;
            take(&mut follower, 5..7).await;
            let more = text.clone() + &timed(7);
            in_place(dir.path(), &more);
            take(&mut follower, [7]).await;
        }
    }
}

#[tokio::test]
async fn a_state_with_another_history_is_diverged() {
    let other = |id: u64| timed(id).replace("chainSlot", "otherSlot");
    let cases = [
        ("nothing", String::new()),
        ("a shorter one", lines(timed, 0..3)),
        ("later ones only", lines(timed, 5..10)),
        ("others of the same length", lines(other, 0..5)),
        ("others, more", lines(other, 0..9)),
        ("others, fewer", lines(other, 0..2)),
        ("one that differs at the end", lines(timed, 0..4) + &lines(other, 4..8)),
    ];
    for replace in [by_rename, in_place] {
        for (what, text) in &cases {
            let (_dir, mut follower) = change(&lines(timed, 0..5), 0..5, |dir| replace(dir, text)).await;
            assert_eq!(fails(&mut follower, what).await, ErrorKind::Diverged, "{what}");
        }
    }
}

#[tokio::test]
async fn a_state_of_our_own_that_is_rewritten_is_diverged() {
    for keep in [0, 1, 3] {
        for more in [0, 1, 20] {
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path()).await;
            for event in events(0..6, &[]) {
                append(&store, &[event]).await;
            }
            store.close().await.unwrap();
            let mut follower = follow(dir.path()).await;
            take(&mut follower, 0..6).await;
            let whole = fs::read_to_string(dir.path().join("state")).unwrap();
            let kept: String = whole.split_inclusive('\n').take(keep).collect();
            in_place(dir.path(), &(kept + &lines(timed, 50..50 + more)));
            let kind = fails(&mut follower, &format!("{keep} kept, {more} more")).await;
            assert_eq!(kind, ErrorKind::Diverged, "{keep} kept, {more} more");
        }
    }
}

#[tokio::test]
async fn a_log_of_our_own_that_was_cut_is_never_read_as_a_shorter_one() {
    for keep in [0, 1, 3] {
        let dir = tempfile::tempdir().unwrap();
        log(dir.path(), None, &events(0..6, &[])).await;
        let whole = fs::read_to_string(dir.path().join("state")).unwrap();
        let kept: String = whole.split_inclusive('\n').take(keep).collect();
        in_place(dir.path(), &kept);
        let source = FileSource::open(dir.path(), FileSourceOptions::default()).await.unwrap();
        assert_eq!(source.checkpoint().await.unwrap_err().kind(), ErrorKind::Corrupt, "{keep} kept");
        let first = source.read(ReadFrom::Origin).next().await.unwrap();
        assert_eq!(first.unwrap_err().kind(), ErrorKind::Corrupt, "{keep} kept");
        let opened = FileStore::open(dir.path(), FileStoreOptions::default()).await;
        assert_eq!(opened.map(drop).unwrap_err().kind(), ErrorKind::Corrupt, "{keep} kept");
        let findings: Vec<_> = hydrant_file::verify(dir.path(), &FileSourceOptions::default())
            .map(Result::unwrap)
            .collect()
            .await;
        let says = |finding: &hydrant_file::Finding| finding.what.contains("was synced up to");
        assert!(findings.iter().any(says), "{keep} kept: {findings:?}");
        let report = hydrant_file::repair(dir.path(), FileStoreOptions::default()).await.unwrap();
        assert_eq!((report.repaired.len(), report.remaining.len()), (1, 0), "{keep} kept: {report:?}");
        open(dir.path()).await.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_copy_that_truncates_leaves_a_log_that_continues() {
    let (dir, mut follower) = change(&lines(timed, 0..100), 0..100, |dir| {
        fs::copy(dir.join("state"), dir.join("state-99")).unwrap();
        in_place(dir, "");
        in_place(dir, &(checkpoint(99) + &lines(timed, 100..106)));
    })
    .await;
    take(&mut follower, 100..106).await;
    // hydra-node's own rotation, and the sealed file is archived right behind the follower.
    fs::rename(dir.path().join("state"), dir.path().join("state-105")).unwrap();
    in_place(dir.path(), &checkpoint(105));
    assert!(next(&mut follower, Duration::from_millis(50)).await.is_none());
    fs::remove_file(dir.path().join("state-105")).unwrap();
    fs::remove_file(dir.path().join("state-99")).unwrap();
    in_place(dir.path(), &(checkpoint(105) + &lines(timed, 106..108)));
    take(&mut follower, 106..108).await;
}

#[tokio::test]
async fn a_state_that_is_removed_is_an_error() {
    let (_dir, mut follower) =
        change(&lines(timed, 0..5), 0..5, |dir| fs::remove_file(dir.join("state")).unwrap()).await;
    assert_eq!(fails(&mut follower, "removed").await, ErrorKind::Diverged);
}

#[tokio::test]
async fn a_large_state_rewritten_under_a_read_is_not_mixed() {
    let other = |id: u64| timed(id).replace("chainSlot", "otherSlot");
    let dir = tempfile::tempdir().unwrap();
    in_place(dir.path(), &lines(timed, 0..40_000));
    for replace in [by_rename, in_place] {
        for ids in [0..50_000, 0..100] {
            in_place(dir.path(), &lines(timed, 0..40_000));
            let mut follower = follow(dir.path()).await;
            take(&mut follower, 0..1000).await;
            replace(dir.path(), &lines(other, ids));
            let mut at = 1000;
            let error = loop {
                match soon(&mut follower).await {
                    Ok(event) => {
                        assert_eq!(event.id().get(), at);
                        let payload = std::str::from_utf8(event.payload()).unwrap();
                        assert!(payload.contains("chainSlot"), "another log's event {at}");
                        at += 1;
                    }
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), ErrorKind::Diverged, "{error}");
        }
    }
}

#[tokio::test]
async fn a_state_replaced_under_its_writer_is_no_silence() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    append(&store, &events(0..5, &[])).await;
    let mut follower = follow(dir.path()).await;
    take(&mut follower, 0..5).await;
    by_rename(dir.path(), &lines(timed, 0..9));
    assert!(soon(&mut follower).await.is_err());
    append_fails(&store).await;
}

async fn append_fails(store: &FileStore) {
    let batch = [event(5)];
    store.append(Batch::new(Some(EventId::new(4)), &batch).unwrap()).await.unwrap_err();
}
