//! Opening what a crash, a foreign writer or a bad disk left behind.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use hydrant::{ErrorKind, EventId, EventSourceExt, ReadFrom};
use hydrant_file::{FileSource, FileSourceOptions, FileStore, FileStoreOptions, TornTail};

use crate::common::{all, append, event, events, head, names, open, snapshot};

/// A log of three batches that was not closed, as a kill leaves it.
async fn killed(dir: &Path) -> Vec<u8> {
    let store = open(dir).await;
    append(&store, &events(0..3, &[])).await;
    append(&store, &events(3..4, &[])).await;
    append(&store, &events(4..9, &[])).await;
    let (state, lock) = (std::fs::read(dir.join("state")).unwrap(), std::fs::read(dir.join("lock")).unwrap());
    store.close().await.unwrap();
    std::fs::write(dir.join("lock"), lock).unwrap();
    state
}

/// As after a power cut: what `lock` knew is gone.
fn forget(dir: &Path) {
    std::fs::write(dir.join("lock"), "").unwrap();
}

#[tokio::test]
async fn a_tail_torn_anywhere_is_set_aside_and_whole_commits_stay() {
    let dir = tempfile::tempdir().unwrap();
    let whole = killed(dir.path()).await;
    let lines: Vec<_> = memchr::memchr_iter(b'\n', &whole).map(|at| at + 1).collect();
    let (second, third) = (lines[3], lines[8]);
    assert_eq!(third, whole.len());
    for cut in (second..third).step_by(3) {
        let torn = tempfile::tempdir().unwrap();
        std::fs::write(torn.path().join("state"), &whole[..cut]).unwrap();
        let reader = FileSource::open(torn.path(), FileSourceOptions::default()).await.unwrap();
        assert_eq!(reader.collect(ReadFrom::Origin).await.unwrap(), events(0..4, &[]), "cut at {cut}");
        let store = open(torn.path()).await;
        assert_eq!(all(&store).await, events(0..4, &[]), "cut at {cut}");
        if cut > second {
            let aside = &store.recovered()[0];
            assert_eq!((aside.offset, aside.bytes), (second as u64, (cut - second) as u64));
            assert_eq!(std::fs::read(&aside.aside).unwrap(), &whole[second..cut]);
        }
        append(&store, &[event(4)]).await;
        assert_eq!(all(&store).await, events(0..5, &[]));
    }
}

#[tokio::test]
async fn a_missing_block_or_nuls_in_the_last_commit_are_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let whole = killed(dir.path()).await;
    let second = memchr::memchr_iter(b'\n', &whole).nth(3).unwrap() + 1;
    for at in (second..whole.len()).step_by(13) {
        for len in [1, 40, whole.len()] {
            forget(dir.path());
            let mut blank = whole.clone();
            let end = whole.len().min(at + len);
            if blank[at..end].iter().all(|&byte| byte == 0) {
                continue;
            }
            blank[at..end].fill(0);
            std::fs::write(dir.path().join("state"), &blank).unwrap();
            let store = open(dir.path()).await;
            assert_eq!(all(&store).await, events(0..4, &[]), "{len} NULs at {at}");
            assert_eq!(std::fs::read(&store.recovered()[0].aside).unwrap(), &blank[second..]);
            store.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn damage_below_what_was_synced_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let whole = killed(dir.path()).await;
    let second = memchr::memchr_iter(b'\n', &whole).nth(3).unwrap() + 1;
    let first = memchr::memchr_iter(b'\n', &whole).nth(2).unwrap() + 1;
    for at in (first..second).step_by(3) {
        forget(dir.path());
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        std::fs::write(dir.path().join("state"), &damaged).unwrap();
        // The last commit says that the one before was synced; a longer look is for reads and verify.
        let error = match FileStore::open(dir.path(), FileStoreOptions::default()).await {
            Err(error) => error,
            Ok(store) => store.collect(ReadFrom::Origin).await.unwrap_err(),
        };
        assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}");
        let text = error.to_string();
        assert!(
            text.contains("line ") && text.contains("byte ") && text.contains("hydrant repair file:"),
            "{text}"
        );
        assert_eq!(std::fs::read(dir.path().join("state")).unwrap(), damaged);
    }
}

#[tokio::test]
async fn a_torn_tail_is_refused_after_a_clean_close_and_by_option() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    append(&store, &events(0..3, &[])).await;
    store.close().await.unwrap();
    let state = dir.path().join("state");
    let whole = std::fs::read(&state).unwrap();
    let torn = &whole[..whole.len() - 1];
    std::fs::write(&state, torn).unwrap();
    let error = FileStore::open(dir.path(), FileStoreOptions::default()).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(std::fs::read(&state).unwrap(), torn);

    // Behind what the closed log vouches for, only another process can have begun to write.
    let behind = b"{\"eventId\":3";
    std::fs::write(&state, [&whole[..], behind].concat()).unwrap();
    let store = open(dir.path()).await;
    assert_eq!(std::fs::read(&store.recovered()[0].aside).unwrap(), behind);
    assert_eq!(all(&store).await, events(0..3, &[]));
    store.close().await.unwrap();

    std::fs::write(&state, [&whole[..], behind].concat()).unwrap();
    forget(dir.path());
    let options = FileStoreOptions::default().with_torn_tail(TornTail::Refuse);
    let error = FileStore::open(dir.path(), options).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(all(&open(dir.path()).await).await, events(0..3, &[]));
}

#[tokio::test]
async fn a_directory_of_hydra_node_is_read_and_written_on() {
    // 0.22.4 to 2.0: the checkpoint event reuses the last id.
    let dir = tempfile::tempdir().unwrap();
    let line = |id: u64| {
        format!("{{\"eventId\":{id},\"stateChanged\":{{\"tag\":\"T\",\"n\":{id}}},\"time\":\"t\"}}\n")
    };
    let checkpoint = |id: u64| {
        format!(
            "{{\"eventId\":{id},\"stateChanged\":{{\"state\":{{}},\"tag\":\"Checkpoint\"}},\"time\":\"t\"}}\n"
        )
    };
    let first: String = (0..=10).map(line).collect();
    let second = checkpoint(10) + &(11..=20).map(line).collect::<String>();
    std::fs::write(dir.path().join("state-10"), first).unwrap();
    std::fs::write(dir.path().join("state-20"), second).unwrap();
    std::fs::write(dir.path().join("state"), checkpoint(20)).unwrap();
    let reader = FileSource::open(dir.path(), FileSourceOptions::default()).await.unwrap();
    let ids = async || {
        let read = reader.collect(ReadFrom::Origin).await.unwrap();
        read.iter().map(|event| event.id().get()).collect::<Vec<_>>()
    };
    assert_eq!(ids().await, (0..=20).collect::<Vec<_>>());
    let snapshot_read = reader.collect(ReadFrom::Snapshot).await.unwrap();
    assert_eq!(snapshot_read.len(), 1);
    assert!(snapshot_read[0].is_snapshot());

    let store = open(dir.path()).await;
    assert_eq!(head(&store).await, Some(20));
    append(&store, &[snapshot(21), event(22)]).await;
    append(&store, &[snapshot(23)]).await;
    append(&store, &[event(24)]).await;
    assert_eq!(names(dir.path()), ["state", "state-10", "state-20", "state-22"]);
    store.close().await.unwrap();
    assert_eq!(ids().await, (0..=24).collect::<Vec<_>>());
    let store = open(dir.path()).await;
    assert_eq!(store.collect(ReadFrom::Snapshot).await.unwrap(), [snapshot(23), event(24)]);
    for after in 0..=24 {
        let read = store.collect(ReadFrom::After(EventId::new(after))).await.unwrap();
        assert_eq!(read.len() as u64, 24 - after);
    }
}

#[tokio::test]
async fn bare_changes_get_their_line_numbers_as_ids() {
    let dir = tempfile::tempdir().unwrap();
    let bare: String = (0..50).map(|n| format!("{{\"tag\":\"T\",\"n\":{n}}}\n")).collect();
    std::fs::write(dir.path().join("state"), bare).unwrap();
    let store = open(dir.path()).await;
    assert_eq!(head(&store).await, Some(49));
    append(&store, &[event(50)]).await;
    store.close().await.unwrap();
    let store = open(dir.path()).await;
    let read = all(&store).await;
    assert_eq!(read.len(), 51);
    assert_eq!(read[7].payload(), br#"{"tag":"T","n":7}"#);
    assert_eq!(store.collect(ReadFrom::After(EventId::new(48))).await.unwrap(), read[49..]);
}

#[tokio::test]
async fn a_foreign_line_without_an_end_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let whole =
        "{\"eventId\":0,\"stateChanged\":{\"tag\":\"T\"}}\n{\"eventId\":1,\"stateChanged\":{\"tag\":\"T\"}}";
    std::fs::write(&state, whole).unwrap();
    let store = open(dir.path()).await;
    append(&store, &[event(2)]).await;
    assert_eq!(all(&store).await.len(), 3);
    store.close().await.unwrap();
    forget(dir.path());
    for torn in
        [&whole[..whole.len() - 3], &format!("{whole}\n\0\0\0\0\0"), &format!("{whole}\n{{\"eventId\"")]
    {
        std::fs::write(&state, torn).unwrap();
        let store = open(dir.path()).await;
        assert_eq!(store.recovered().len(), 1);
        assert!(!all(&store).await.is_empty());
        store.close().await.unwrap();
        forget(dir.path());
    }
    // Glued together by an append behind a torn line: damage.
    std::fs::write(&state, format!("{{\"eventId\":0,\"sta{whole}\n")).unwrap();
    let error = FileStore::open(dir.path(), FileStoreOptions::default()).await;
    let error = match error {
        Ok(store) => store.collect(ReadFrom::Origin).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("line 1, byte 0"), "{error}");
}

#[tokio::test]
async fn a_missing_state_is_not_an_empty_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    append(&store, &events(0..5, &[])).await;
    append(&store, &events(5..8, &[5])).await;
    store.close().await.unwrap();
    forget(dir.path());
    // Inside of a rotation, in three ways.
    let path = |name: &str| dir.path().join(name);
    std::fs::rename(path("state"), path("state.next-4")).unwrap();
    let store = open(dir.path()).await;
    assert_eq!(all(&store).await, events(0..8, &[5]));
    store.close().await.unwrap();
    forget(dir.path());
    std::fs::rename(path("state"), path("state.next-4")).unwrap();
    std::fs::rename(path("state-4"), path("state")).unwrap();
    let store = open(dir.path()).await;
    assert_eq!(all(&store).await, events(0..8, &[5]));
    assert_eq!(names(dir.path()), ["state", "state-4"]);
    store.close().await.unwrap();
    forget(dir.path());
    // hydra-node, between its rename and its first append.
    std::fs::rename(path("state"), path("state-7")).unwrap();
    let store = open(dir.path()).await;
    assert_eq!(head(&store).await, Some(7));
    append(&store, &[event(8)]).await;
    assert_eq!(all(&store).await, events(0..9, &[5]));
}

#[tokio::test]
async fn a_closed_log_that_was_damaged_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let log = events(0..9, &[]);
    let store = open(dir.path()).await;
    for commit in log.chunks(3) {
        append(&store, commit).await;
    }
    store.close().await.unwrap();
    drop(store);
    let state = dir.path().join("state");
    let mut file = std::fs::File::options().read(true).write(true).open(&state).unwrap(); // the same inode
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    let flaw = text.find("\"eventId\":4").unwrap() as u64 + 14;
    file.seek(SeekFrom::Start(flaw)).unwrap();
    file.write_all(b"!").unwrap();

    let report = hydrant_file::repair(dir.path(), FileStoreOptions::default()).await.unwrap();
    assert_eq!((report.repaired.len(), report.remaining.len()), (1, 0), "{report:?}");
    let store = open(dir.path()).await;
    assert_eq!(all(&store).await, log[..3]);
    append(&store, &log[3..]).await;
    assert_eq!(all(&store).await, log);
}

#[tokio::test]
async fn a_log_whose_state_was_removed_is_not_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    append(&store, &[event(0)]).await;
    store.close().await.unwrap();
    std::fs::rename(dir.path().join("state"), dir.path().join("elsewhere")).unwrap();
    let error = FileStore::open(dir.path(), FileStoreOptions::default()).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(names(dir.path()).is_empty());
    let reader = FileSource::open(dir.path(), FileSourceOptions::default()).await.unwrap();
    assert_eq!(reader.collect(ReadFrom::Origin).await.unwrap_err().kind(), ErrorKind::Corrupt);
    std::fs::rename(dir.path().join("elsewhere"), dir.path().join("state")).unwrap();
    assert_eq!(all(&open(dir.path()).await).await, [event(0)]);
}
