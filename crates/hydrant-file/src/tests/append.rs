//! Deadlines, the accepted head, and a sync that fails: on a disk that is slow, hangs or fails.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use hydrant::{
    Batch, Checkpoint, CommitPoint, Error, ErrorKind, EventSink, EventSourceExt, MemoryCheckpoints, Prune,
    ReadFrom, Result, Retry,
};
use tokio::time::Instant;

use super::*;
use crate::disk::{Disk, Mode};
use crate::sim::{Fault, When};
use crate::{FileStore, FileStoreOptions, Fsync};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

async fn open(disk: &SimDisk, options: FileStoreOptions) -> FileStore {
    let roster = Arc::new(MemoryCheckpoints::default());
    FileStore::open_on(Arc::new(disk.clone()), &dir(), roster, options).await.unwrap()
}

/// Appends one event behind the one before it, within a time.
async fn append(store: &FileStore, id: u64, timeout: Duration) -> Result<()> {
    let event = [event(id)];
    let batch = Batch::new(EventId::new(id).prev(), &event).unwrap();
    store.append(batch.with_deadline(Some(Instant::now() + timeout))).await
}

fn cause(error: &Error) -> (ErrorKind, Retry) {
    (error.kind(), error.retry())
}

async fn head(store: &FileStore) -> Option<u64> {
    store.head().await.unwrap().id().map(EventId::get)
}

#[tokio::test(start_paused = true)]
async fn an_append_to_a_disk_that_hangs_ends_at_its_deadline() {
    let disk = SimDisk::new(&dir());
    let store = open(&disk, FileStoreOptions::default().with_appends_waiting_max(1)).await;
    append(&store, 0, SECOND).await.unwrap();
    disk.set_pause(Some(HOUR));
    let begun = Instant::now();
    // The writer takes the first, one waits in its queue, and the others wait for a place there.
    let answers = join_all((1..6_u32).map(|id| append(&store, id.into(), id * SECOND))).await;
    assert_eq!(begun.elapsed(), 5 * SECOND, "each returns at its deadline");
    for (at, answer) in answers.iter().enumerate() {
        let retry = if at < 2 { Retry::AfterCheckpoint } else { Retry::Safe };
        assert_eq!(cause(answer.as_ref().unwrap_err()), (ErrorKind::Unavailable, retry), "append {}", at + 1);
    }
    disk.set_pause(None);
    // What was handed over ends before the next call begins; what was `Safe` was not applied.
    assert_eq!(store.checkpoint().await.unwrap().id(), Some(EventId::new(2)));
    append(&store, 3, SECOND).await.unwrap();
    assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events(0..4));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_is_safe() {
    let disk = SimDisk::new(&dir());
    let store = open(&disk, FileStoreOptions::default()).await;
    let error = append(&store, 0, Duration::ZERO).await.unwrap_err();
    assert_eq!(cause(&error), (ErrorKind::Unavailable, Retry::Safe));
    assert_eq!(store.checkpoint().await.unwrap(), Checkpoint::Empty);
    store.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_append_dropped_at_any_time_is_whole_and_has_ended() {
    for millis in (0..60).step_by(3) {
        let disk = SimDisk::new(&dir());
        let store = open(&disk, FileStoreOptions::default()).await;
        append(&store, 0, SECOND).await.unwrap();
        disk.set_pause(Some(Duration::from_millis(20)));
        drop(tokio::time::timeout(Duration::from_millis(millis), append(&store, 1, SECOND)).await);
        let held = store.checkpoint().await.unwrap().id().unwrap().get();
        let batch = [event(1), event(2)];
        store.append(Batch::new(Some(EventId::ZERO), &batch).unwrap()).await.unwrap();
        assert!(held <= 1);
        assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events(0..3));
    }
}

#[tokio::test(start_paused = true)]
async fn the_head_is_accepted_and_the_checkpoint_durable() {
    let disk = SimDisk::new(&dir());
    let store = open(&disk, FileStoreOptions::default().with_fsync(Fsync::Never)).await;
    assert_eq!(store.head().await.unwrap(), Checkpoint::Empty);
    append(&store, 0, SECOND).await.unwrap();
    assert_eq!((head(&store).await, store.checkpoint().await.unwrap()), (Some(0), Checkpoint::Empty));
    store.sync().await.unwrap();
    append(&store, 1, SECOND).await.unwrap();
    assert_eq!((head(&store).await, store.checkpoint().await.unwrap()), (Some(1), Checkpoint::at(&event(0))));
    store.prune(EventId::ZERO).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(store.head().await.unwrap_err().kind(), ErrorKind::Closed);
    let store = open(&disk, FileStoreOptions::default().with_fsync(Fsync::Never)).await;
    assert_eq!((head(&store).await, store.checkpoint().await.unwrap()), (Some(1), Checkpoint::at(&event(1))));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_takes_the_head_back() {
    for fsync in [Fsync::Always, Fsync::Never, Fsync::Interval(SECOND)] {
        for fault in [Fault::Short, Fault::Error(std::io::ErrorKind::Other)] {
            let disk = SimDisk::new(&dir());
            let store = open(&disk, FileStoreOptions::default().with_fsync(fsync)).await;
            append(&store, 0, SECOND).await.unwrap();
            disk.fail(When::Next("write /log/state".to_owned()), fault);
            assert_eq!(append(&store, 1, SECOND).await.unwrap_err().retry(), Retry::Safe);
            assert_eq!(head(&store).await, Some(0), "{fsync:?}, {fault:?}");
            let snapshot = [snapshot(1)];
            disk.fail(When::Next("create /log/state.next-0".to_owned()), fault);
            let rotation = Batch::new(Some(EventId::ZERO), &snapshot).unwrap();
            assert_eq!(store.append(rotation).await.unwrap_err().retry(), Retry::Safe);
            assert_eq!(head(&store).await, Some(0), "{fsync:?}, {fault:?}, a rotation");
            append(&store, 1, SECOND).await.unwrap();
            assert_eq!(head(&store).await, Some(1));
            store.close().await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_safe_and_the_handle_continues() {
    let disk = SimDisk::new(&dir());
    let store = open(&disk, FileStoreOptions::default()).await;
    append(&store, 0, SECOND).await.unwrap();
    disk.set_capacity(Some(600));
    let mut held = 1;
    let error = loop {
        match append(&store, held, SECOND).await {
            Ok(()) => held += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(cause(&error), (ErrorKind::Full, Retry::Safe));
    assert_eq!(head(&store).await, Some(held - 1));
    disk.set_capacity(None);
    append(&store, held, SECOND).await.unwrap();
    assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events(0..held + 1));
}

/// Counts what is logged as an error.
#[derive(Clone, Default)]
struct Errors(Arc<AtomicUsize>);

impl tracing::Subscriber for Errors {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_fails_stops_the_log_and_is_logged_once() {
    let errors = Errors::default();
    let _guard = tracing::subscriber::set_default(errors.clone());
    for fsync in [Fsync::Always, Fsync::Interval(Duration::from_millis(5))] {
        errors.0.store(0, Ordering::SeqCst);
        let disk = SimDisk::new(&dir());
        let store = open(&disk, FileStoreOptions::default().with_fsync(fsync)).await;
        disk.fail(When::Every("sync /log/state".to_owned()), Fault::Error(std::io::ErrorKind::Other));
        let synced = disk.steps().len();
        let appended = append(&store, 0, SECOND).await;
        tokio::time::sleep(HOUR).await;
        if fsync == Fsync::Always {
            assert_eq!(cause(&appended.unwrap_err()), (ErrorKind::Unavailable, Retry::AfterCheckpoint));
        } else {
            appended.unwrap();
        }
        for _ in 0..3 {
            assert_eq!(append(&store, 1, SECOND).await.unwrap_err().kind(), ErrorKind::Closed);
            assert_eq!(store.head().await.unwrap_err().kind(), ErrorKind::Closed);
            assert_eq!(store.checkpoint().await.unwrap_err().kind(), ErrorKind::Closed);
            assert_eq!(store.sync().await.unwrap_err().kind(), ErrorKind::Closed);
            tokio::time::sleep(HOUR).await;
        }
        let syncs = disk.steps()[synced..].iter().filter(|step| step.starts_with("sync /log/state")).count();
        assert_eq!((syncs, errors.0.load(Ordering::SeqCst)), (1, 1), "{fsync:?}: tried and logged once");
        let closed = store.close().await.unwrap_err();
        assert_eq!(closed.kind(), ErrorKind::Closed, "what was accepted is not durable: {closed}");
        store.close().await.unwrap();
        disk.heal();
        let store = open(&disk, FileStoreOptions::default()).await;
        assert!(store.collect(ReadFrom::Origin).await.unwrap().len() <= 1);
        store.close().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_file_that_cannot_be_written_is_logged_once() {
    let errors = Errors::default();
    let _guard = tracing::subscriber::set_default(errors.clone());
    let disk = SimDisk::new(&dir());
    let store = open(&disk, FileStoreOptions::default()).await;
    disk.fail(When::Every("write /log/lock".to_owned()), Fault::Error(std::io::ErrorKind::Other));
    for id in 0..5 {
        append(&store, id, SECOND).await.unwrap();
    }
    assert_eq!(errors.0.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_sync_of_a_file_that_was_changed_is_no_ok() {
    let other = segment(Opens::Root, &[events(0..9)]);
    for content in [b"".as_slice(), other.as_slice()] {
        for preallocate in [0, 4096] {
            let disk = SimDisk::new(&dir());
            let options = FileStoreOptions::default().with_fsync(Fsync::Interval(HOUR));
            let store = open(&disk, options.with_preallocate_bytes(preallocate)).await;
            append(&store, 0, SECOND).await.unwrap();
            disk.write_over(&dir().join("state"), content);
            let error = store.sync().await.unwrap_err();
            assert_eq!(cause(&error), (ErrorKind::Unavailable, Retry::AfterCheckpoint), "{error}");
            let stopped = append(&store, 1, SECOND).await.unwrap_err();
            assert_eq!(stopped.kind(), ErrorKind::Closed, "{stopped}");
        }
    }
}

/// The file is cut between the writer's look at its length and the write.
#[tokio::test(start_paused = true)]
async fn a_write_behind_a_cut_is_no_ok() {
    let mut holes = 0;
    for (fsync, seed) in
        [Fsync::Always, Fsync::Never].into_iter().flat_map(|it| (0..200).map(move |n| (it, n)))
    {
        let disk = SimDisk::new(&dir());
        let store = open(&disk, FileStoreOptions::default().with_fsync(fsync)).await;
        append(&store, 0, SECOND).await.unwrap();
        disk.set_stepped(seed);
        let state = dir().join("state");
        let content = disk.files()[&state].clone();
        let cut = async {
            for _ in 0..seed % 10 {
                tokio::task::yield_now().await;
            }
            disk.write_over(&state, &content[..content.len() - 1]);
        };
        let (appended, ()) = tokio::join!(append(&store, 1, SECOND), cut);
        let has_hole = disk.files()[&state].contains(&0);
        holes += usize::from(has_hole);
        if has_hole {
            let error = appended.expect_err("event 1 is behind a hole");
            assert_eq!(cause(&error), (ErrorKind::Unavailable, Retry::AfterCheckpoint), "{error}");
            assert_eq!(append(&store, 2, SECOND).await.unwrap_err().kind(), ErrorKind::Closed);
        }
    }
    assert!(holes > 10, "{holes} holes");
}

/// Each step and each look of a plain append and of a rotation fails once.
#[tokio::test(start_paused = true)]
async fn an_append_that_failed_safely_is_never_in_the_log() {
    let mut failures = 0;
    for (rotates, looks) in [(false, false), (false, true), (true, false), (true, true)] {
        for at in 0.. {
            let disk = SimDisk::new(&dir());
            let store = open(&disk, FileStoreOptions::default()).await;
            append(&store, 0, SECOND).await.unwrap();
            let when =
                if looks { When::Look(disk.looks() + at) } else { When::Step(disk.steps().len() + at) };
            disk.fail(when, Fault::Error(std::io::ErrorKind::Other));
            let next = [if rotates { snapshot(1) } else { event(1) }];
            let appended = store.append(Batch::new(Some(EventId::new(0)), &next).unwrap()).await;
            if !disk.planned().is_empty() {
                break; // no more steps
            }
            failures += usize::from(appended.is_err());
            drop(store.close().await);
            drop(store);
            let held =
                open(&disk, FileStoreOptions::default()).await.collect(ReadFrom::Origin).await.unwrap();
            match appended {
                Ok(()) => assert_eq!(held.len(), 2, "rotates {rotates}, looks {looks}, at {at}"),
                Err(error) if error.retry() == Retry::Safe => {
                    assert_eq!(held.len(), 1, "rotates {rotates}, looks {looks}, at {at}: {error}");
                }
                Err(_) => {}
            }
        }
    }
    assert!(failures > 10, "{failures} failures");
}

#[tokio::test(start_paused = true)]
async fn close_keeps_what_another_process_wrote() {
    const LINE: &[u8] = b"{\"eventId\":1,\"stateChanged\":{\"tag\":\"T\"}}\n";
    for (ahead, closes) in [(0, true), (0, false), (4096, true), (4096, false)] {
        let disk = SimDisk::new(&dir());
        let store = open(&disk, FileStoreOptions::default().with_preallocate_bytes(ahead)).await;
        append(&store, 0, SECOND).await.unwrap();
        let node = disk.process().open(&dir().join("state"), Mode::Write).unwrap();
        node.write_at(LINE, node.stat().unwrap().len).unwrap();
        if closes {
            let error = store.close().await.unwrap_err();
            assert_eq!(cause(&error), (ErrorKind::Unavailable, Retry::AfterCheckpoint), "{error}");
        } else {
            drop(store);
            tokio::time::sleep(SECOND).await;
        }
        let what = format!("ahead {ahead}, closes {closes}");
        assert!(disk.files()[&dir().join("state")].ends_with(LINE), "{what}");
        assert!(text(&disk, "lock").contains(" stopped "), "{what}: {}", text(&disk, "lock"));
    }
}

#[tokio::test(start_paused = true)]
async fn close_of_a_log_that_was_replaced_is_an_error() {
    let disk = SimDisk::new(&dir());
    let store = open(&disk, FileStoreOptions::default()).await;
    append(&store, 0, SECOND).await.unwrap();
    disk.put(&dir().join("state"), b"");
    assert_eq!(store.close().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(text(&disk, "lock").contains(" stopped "));
}
