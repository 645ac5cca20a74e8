//! Append, read, follow, rotate, reopen.

use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{Batch, ErrorKind, Event, EventId, EventSink, EventSource, EventSourceExt, ReadFrom, Retry};
use hydrant_file::{FileSource, FileSourceOptions, FileStore, FileStoreOptions, Fsync};

use crate::common::{all, append, event, events, head, names, open, snapshot};

#[tokio::test]
async fn what_was_appended_is_read_and_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let log = events(0..1000, &[]);
    let store = open(dir.path()).await;
    assert_eq!(head(&store).await, None);
    for batch in log.chunks(7) {
        append(&store, batch).await;
    }
    assert_eq!(all(&store).await, log);
    store.close().await.unwrap();
    let error = store.append(Batch::new(Some(EventId::new(999)), &[event(1000)]).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);

    let store = open(dir.path()).await;
    assert!(store.recovered().is_empty());
    assert_eq!(head(&store).await, Some(999));
    assert_eq!(all(&store).await, log);
    for after in [0, 1, 500, 997, 998, 999, 5000] {
        let tail = store.collect(ReadFrom::After(EventId::new(after))).await.unwrap();
        assert_eq!(tail, log[log.len().min(usize::try_from(after).unwrap() + 1)..]);
    }
}

#[tokio::test]
async fn a_large_log_is_searched_and_every_start_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let log = events((0..30_000).map(|id| id * 3), &[9000, 60_000]);
    let store = open(dir.path()).await;
    for batch in log.chunks(1000) {
        append(&store, batch).await;
    }
    assert_eq!(names(dir.path()), ["state", "state-59997", "state-8997"]);
    for after in (0..91_000).step_by(997) {
        let read = store.read(ReadFrom::After(EventId::new(after))).next().await.transpose().unwrap();
        let expected = log.iter().find(|event| event.id().get() > after);
        assert_eq!(read.as_ref(), expected, "after {after}");
    }
    assert_eq!(all(&store).await, log);
}

#[tokio::test]
async fn each_snapshot_opens_a_segment() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let log = events(0..20, &[5, 9, 12, 15]);
    append(&store, &log[..3]).await;
    append(&store, &log[3..7]).await;
    append(&store, &log[7..8]).await;
    append(&store, &log[8..17]).await;
    append(&store, &log[17..]).await;
    assert_eq!(names(dir.path()), ["state", "state-11", "state-14", "state-4", "state-8"]);
    assert_eq!(all(&store).await, log);
    assert_eq!(store.collect(ReadFrom::Snapshot).await.unwrap(), log[15..]);
    store.close().await.unwrap();
    let store = open(dir.path()).await;
    assert_eq!(all(&store).await, log);
    append(&store, &[snapshot(20)]).await;
    append(&store, &[snapshot(21)]).await;
    assert_eq!(store.collect(ReadFrom::Snapshot).await.unwrap(), [snapshot(21)]);
}

#[tokio::test]
async fn compare_and_append() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let log = events((0..10).map(|id| id * 2), &[]);
    append(&store, &log[..8]).await;
    let before = std::fs::read(dir.path().join("state")).unwrap();
    let append = async |after: Option<u64>, events: &[hydrant::Event]| {
        store.append(Batch::new(after.map(EventId::new), events).unwrap()).await
    };
    append(None, &log[..8]).await.unwrap();
    append(Some(4), &log[3..6]).await.unwrap();
    assert_eq!(append(Some(4), &[event(7)]).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(append(Some(14), &[event(15), event(16)]).await.map_err(|error| error.kind()), Ok(()));
    assert_eq!(append(Some(14), &log[8..9]).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(append(Some(20), &[event(21)]).await.unwrap_err().kind(), ErrorKind::Gap);
    assert_eq!(append(Some(2), &[snapshot(4)]).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(append(Some(0), &[event(2), event(3), event(4)]).await.unwrap_err().kind(), ErrorKind::Fenced);
    let after = std::fs::read(dir.path().join("state")).unwrap();
    assert!(after.starts_with(&before));
    assert_eq!(head(&store).await, Some(16));
}

#[tokio::test]
async fn an_empty_log_may_begin_at_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    store.append(Batch::new(Some(EventId::new(6)), &[snapshot(7), event(8)]).unwrap()).await.unwrap();
    for _ in 0..2 {
        let error = store.collect(ReadFrom::Origin).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Pruned { oldest: EventId::new(7) });
        assert_eq!(store.collect(ReadFrom::After(EventId::new(6))).await.unwrap().len(), 2);
        assert_eq!(store.collect(ReadFrom::Snapshot).await.unwrap().len(), 2);
    }
    store.close().await.unwrap();
    let store = open(dir.path()).await;
    let error = store.collect(ReadFrom::After(EventId::new(5))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Pruned { oldest: EventId::new(7) });
    let below =
        Batch::new(None, std::slice::from_ref(&below_event())).map(|batch| batch.first().clone()).unwrap();
    let error = store.append(Batch::new(None, &[below]).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Pruned { oldest: EventId::new(7) });
}

fn below_event() -> hydrant::Event {
    event(3)
}

#[tokio::test]
async fn followers_see_everything_through_rotations() {
    let dir = tempfile::tempdir().unwrap();
    let log = events(0..400, &[50, 51, 200, 399]);
    let store = open(dir.path()).await;
    let other = FileSource::open(
        dir.path(),
        FileSourceOptions::default().with_poll_interval(Duration::from_millis(1)),
    )
    .await
    .unwrap();
    let streams = [store.follow(ReadFrom::Origin), other.follow(ReadFrom::Origin)];
    let followers = streams.map(|stream| {
        tokio::spawn(async move { stream.take(400).map(Result::unwrap).collect::<Vec<_>>().await })
    });
    for batch in log.chunks(3) {
        append(&store, batch).await;
        // What is acknowledged is there for a read of another process that begins now.
        let last = batch.last().unwrap().id().get();
        let seen = other.checkpoint().await.unwrap();
        assert_eq!(seen.id(), Some(EventId::new(last)));
    }
    for follower in followers {
        assert_eq!(follower.await.unwrap(), log);
    }
    let mut follow = store.follow(ReadFrom::After(EventId::new(399)));
    store.close().await.unwrap();
    assert_eq!(follow.next().await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert!(follow.next().await.is_none());
    assert_eq!(other.collect(ReadFrom::Origin).await.unwrap(), log);
}

#[tokio::test]
async fn a_second_writer_is_fenced() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let error = FileStore::open(dir.path(), FileStoreOptions::default()).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert!(error.to_string().contains("another handle in this process"), "{error}");
    drop(store);
    open(dir.path()).await.close().await.unwrap();
}

#[tokio::test]
async fn weak_modes_show_only_what_was_synced() {
    let dir = tempfile::tempdir().unwrap();
    for fsync in [Fsync::Never, Fsync::Interval(Duration::from_millis(20))] {
        let path = dir.path().join(format!("{fsync:?}"));
        let store = FileStore::open(&path, FileStoreOptions::default().with_fsync(fsync)).await.unwrap();
        store.append(Batch::new(None, &events(0..3, &[])).unwrap()).await.unwrap();
        if fsync == Fsync::Never {
            assert_eq!(head(&store).await, None);
            assert!(all(&store).await.is_empty());
            store.append(Batch::new(Some(EventId::new(1)), &events(2..4, &[])).unwrap()).await.unwrap();
            store.sync().await.unwrap();
        } else {
            let seen: Vec<_> = store.follow(ReadFrom::Origin).take(3).collect().await;
            assert_eq!(seen.len(), 3);
            append(&store, &events(3..4, &[])).await;
        }
        store.close().await.unwrap();
        let store = open(&path).await;
        assert_eq!(all(&store).await, events(0..4, &[]));
    }
}

#[tokio::test]
async fn preallocated_space_is_cut_at_close_and_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let options = FileStoreOptions::default().with_preallocate_bytes(64 << 10);
    let log = events(0..2000, &[700]);
    let store = FileStore::open(dir.path(), options.clone()).await.unwrap();
    for batch in log.chunks(100) {
        append(&store, batch).await;
    }
    let state = dir.path().join("state");
    let open_bytes = std::fs::read(&state).unwrap();
    assert_eq!(open_bytes.last(), Some(&0));
    let lock = std::fs::read(dir.path().join("lock")).unwrap();
    store.close().await.unwrap();
    assert_eq!(std::fs::read(&state).unwrap().last(), Some(&b'\n'));
    // As if it had been killed.
    std::fs::write(&state, open_bytes).unwrap();
    std::fs::write(dir.path().join("lock"), lock).unwrap();
    let store = FileStore::open(dir.path(), options).await.unwrap();
    assert!(store.recovered().is_empty());
    assert_eq!(all(&store).await, log);
}

#[tokio::test]
async fn an_event_at_the_limit_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let options = FileStoreOptions::default().with_event_bytes_max(event(0).size());
    let store = FileStore::open(dir.path(), options).await.unwrap();
    append(&store, &[event(0)]).await;
    let error = store.append(Batch::new(Some(EventId::ZERO), &[event(10)]).unwrap()).await.unwrap_err();
    assert_eq!((error.kind(), error.event()), (ErrorKind::Invalid, Some(EventId::new(10))));
    assert_eq!(all(&store).await, [event(0)]);
}

/// The last event is longer than what is read at first, and shorter than the limit.
#[tokio::test]
async fn the_last_event_is_found_whatever_its_length() {
    for bytes in [60_000, 90_000, 500_000, 900_000] {
        let dir = tempfile::tempdir().unwrap();
        let limit = bytes + 1_000;
        let options = FileStoreOptions::default().with_event_bytes_max(limit);
        let store = FileStore::open(dir.path(), options).await.unwrap();
        let large = |id| Event::new(EventId::new(id), &"x".repeat(bytes)).unwrap();
        append(&store, &[large(0), large(1), large(2)]).await;
        let options = FileSourceOptions::default().with_event_bytes_max(limit);
        let source = FileSource::open(dir.path(), options).await.unwrap();
        assert_eq!(source.checkpoint().await.unwrap().id(), Some(EventId::new(2)), "{bytes}");
    }
}

#[tokio::test]
async fn a_file_that_was_deleted_or_written_by_others_stops_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let store = open(dir.path()).await;
    append(&store, &[event(0)]).await;
    std::fs::rename(&state, dir.path().join("elsewhere")).unwrap();
    let error = store.append(Batch::new(Some(EventId::ZERO), &[event(1)]).unwrap()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::AfterCheckpoint));
    assert_eq!(store.checkpoint().await.unwrap_err().kind(), ErrorKind::Closed);
    drop(store);
    std::fs::rename(dir.path().join("elsewhere"), &state).unwrap();
    let store = open(dir.path()).await;
    assert_eq!(all(&store).await[0], event(0));
    let next = head(&store).await.unwrap();
    std::fs::OpenOptions::new()
        .append(true)
        .open(&state)
        .map(|mut file| {
            use std::io::Write;
            file.write_all(b"{\"eventId\":9,\"stateChanged\":{\"tag\":\"T\"}}\n").unwrap();
        })
        .unwrap();
    let error = store.append(Batch::new(Some(EventId::new(next)), &[event(5)]).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    drop(store);
    assert_eq!(head(&open(dir.path()).await).await, Some(9));
}

/// Between two steps of a rotation, `state` has the name of a sealed segment too. Another process may look
/// just then, or find it so after a crash: it is one file, read once.
#[tokio::test]
async fn a_file_with_two_names_in_a_rotation_is_read_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = events(0..20, &[10]);
    let store = open(dir.path()).await;
    append(&store, &log[..10]).await;
    append(&store, &log[10..]).await;
    for closed in [false, true] {
        let other = FileSource::open(dir.path(), FileSourceOptions::default()).await.unwrap();
        std::fs::hard_link(dir.path().join("state"), dir.path().join("state-19")).unwrap();
        std::fs::write(dir.path().join("state.next-19"), "").unwrap();
        assert_eq!(other.collect(ReadFrom::Origin).await.unwrap(), log, "closed: {closed}");
        assert_eq!(other.collect(ReadFrom::After(EventId::new(12))).await.unwrap(), log[13..]);
        assert_eq!(other.collect(ReadFrom::Snapshot).await.unwrap(), log[10..]);
        assert_eq!(other.checkpoint().await.unwrap(), hydrant::Checkpoint::at(&log[19]));
        std::fs::remove_file(dir.path().join("state-19")).unwrap();
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn without_create_an_absent_log_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let options = FileStoreOptions::default().with_create(false);
    let empty = root.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    std::fs::write(empty.join("notes.txt"), "not a log").unwrap();
    for dir in [empty.clone(), root.path().join("absent")] {
        let error = FileStore::open(&dir, options.clone()).await.map(drop).unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
        assert!(error.to_string().contains("`create`") && error.to_string().contains("volume"), "{error}");
    }
    assert!(!root.path().join("absent").exists());
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 1, "nothing was created");

    open(&empty).await.close().await.unwrap();
    let store = FileStore::open(&empty, options.clone()).await.unwrap();
    append(&store, &[event(0)]).await;
    append(&store, &[snapshot(1)]).await;
    store.close().await.unwrap();
    FileStore::open(&empty, options).await.unwrap().close().await.unwrap();
}

#[tokio::test]
async fn options_at_their_edges_open_append_and_follow() {
    for edge in [0, 1, usize::MAX] {
        let dir = tempfile::tempdir().unwrap();
        let options = FileStoreOptions::default().with_appends_waiting_max(edge).with_commit_bytes_max(edge);
        let store = FileStore::open(dir.path(), options).await.unwrap();
        append(&store, &events(0..3, &[])).await;
        let options = FileSourceOptions::default().with_poll_interval(Duration::ZERO);
        let source = FileSource::open(dir.path(), options).await.unwrap();
        let mut follower = source.follow(ReadFrom::After(EventId::new(2)));
        let next = [event(3)];
        let (next, ()) = tokio::join!(follower.next(), append(&store, &next));
        assert_eq!(next.unwrap().unwrap().id(), EventId::new(3), "{edge}");
        store.close().await.unwrap();
    }
}
