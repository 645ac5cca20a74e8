//! Directories that hydra-node wrote, from 0.13 to 2.0: opened, read, and written on.

use std::fs;
use std::path::Path;

use crate::support::hydra::{bare, checkpoint, envelope, lines, timed};
use crate::support::{append, dir_of, event, goes_on, id, ids, open, read, snapshot, torn};
use futures_util::StreamExt;
use hydrant::{Checkpoint, ErrorKind, EventSink, EventSource, EventSourceExt, ReadFrom, Retry};
use hydrant_file::{FileSource, FileSourceOptions, Finding, verify};

#[tokio::test]
async fn each_generation_is_read_and_written_on() {
    for line in [bare, envelope, timed] {
        let text = lines(line, 0..5);
        let dir = dir_of(&[("state", text.as_bytes())]);
        let store = open(dir.path()).await;
        for (number, event) in (0..).zip(read(&store, ReadFrom::Origin).await) {
            assert_eq!(event.id(), id(number));
            assert!(std::str::from_utf8(event.payload()).unwrap().contains("\"tag\":\"TickObserved\""));
            let time = line(number).split("\"time\":\"").nth(1).map(|rest| rest[..rest.len() - 3].to_owned());
            assert_eq!(event.time(), time.as_deref());
            assert!(!event.is_snapshot());
        }
        store.close().await.unwrap();
        goes_on(dir.path(), &[0, 1, 2, 3, 4]).await;
        // The snapshot sealed the file; what hydra-node wrote still stands at its beginning.
        assert!(fs::read_to_string(dir.path().join("state-6")).unwrap().starts_with(&text));
        assert!(torn(dir.path()).is_empty());
    }
}

#[tokio::test]
async fn generations_follow_each_other_in_one_file() {
    let text = lines(bare, 0..3) + &lines(envelope, 3..5) + &lines(timed, [5, 9]);
    let dir = dir_of(&[("state", text.as_bytes())]);
    goes_on(dir.path(), &[0, 1, 2, 3, 4, 5, 9]).await;
}

#[tokio::test]
async fn a_change_of_line_breaks_inside_of_values_stays_one_event() {
    let text = "{\"eventId\":0,\"stateChanged\":{\"tag\":\"T\",\"text\":\"a\\nb\\r\\n\\u0000\"}}\n";
    let dir = dir_of(&[("state", text.as_bytes())]);
    let store = open(dir.path()).await;
    let events = read(&store, ReadFrom::Origin).await;
    assert_eq!(events[0].payload(), br#"{"tag":"T","text":"a\nb\r\n\u0000"}"#);
    store.close().await.unwrap();
    goes_on(dir.path(), &[0]).await;
}

#[tokio::test]
async fn both_namings_of_rotated_files_are_read_as_one_log() {
    // As documented, and 0.22.0 to 0.22.3: the suffix is the id of the last event inside.
    let documented = dir_of(&[
        ("state-9", lines(timed, 0..10).as_bytes()),
        ("state-19", (checkpoint(10) + &lines(timed, 11..20)).as_bytes()),
        ("state", (checkpoint(20) + &lines(timed, 21..23)).as_bytes()),
    ]);
    let all: Vec<u64> = (0..23).collect();
    let store = open(documented.path()).await;
    assert_eq!(ids(&store, ReadFrom::Snapshot).await, [20, 21, 22]);
    assert_eq!(ids(&store, ReadFrom::After(id(9))).await, all[10..]);
    assert_eq!(ids(&store, ReadFrom::After(id(13))).await, all[14..]);
    store.close().await.unwrap();
    goes_on(documented.path(), &all).await;

    // 0.22.4 to 2.0: one event more in the first file, and the checkpoint reuses the last id.
    let reused = dir_of(&[
        ("state-10", lines(timed, 0..11).as_bytes()),
        ("state-20", (checkpoint(10) + &lines(timed, 11..21)).as_bytes()),
        ("state", (checkpoint(20) + &lines(timed, 21..23)).as_bytes()),
    ]);
    goes_on(reused.path(), &all).await;
}

/// A file that opens with checkpoint N follows one that ends at N or N - 1. Within a file, ids may have gaps.
#[tokio::test]
async fn a_hole_between_files_is_damage_a_gap_inside_is_not() {
    let files = |checkpoint_id| {
        dir_of(&[
            ("state-7", lines(timed, [0, 2, 5, 7]).as_bytes()),
            ("state", (checkpoint(checkpoint_id) + &lines(timed, [10, 12])).as_bytes()),
        ])
    };
    for whole in [7, 8] {
        let dir = files(whole);
        let source = FileSource::open(dir.path(), FileSourceOptions::default()).await.unwrap();
        source.collect(ReadFrom::Origin).await.unwrap();
        assert_eq!(findings(dir.path()).await, [], "checkpoint {whole}");
    }
    let dir = files(9);
    let source = FileSource::open(dir.path(), FileSourceOptions::default()).await.unwrap();
    for from in [ReadFrom::Origin, ReadFrom::After(id(7)), ReadFrom::At(id(2))] {
        let error = source.collect(from).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Corrupt, Retry::Never), "{error}");
        assert!(error.to_string().contains("behind event 7 up to 8 is missing"), "{error}");
    }
    let found = findings(dir.path()).await;
    assert!(found.len() == 1 && found[0].to_string().contains("a segment is missing"), "{found:?}");
}

async fn findings(dir: &Path) -> Vec<Finding> {
    verify(dir, &FileSourceOptions::default()).map(Result::unwrap).collect().await
}

#[tokio::test]
async fn file_names_are_numbers_and_not_text() {
    let dir = dir_of(&[
        ("state-9", lines(timed, 0..10).as_bytes()),
        ("state-99", (checkpoint(10) + &lines(timed, 11..100)).as_bytes()),
        ("state-100", (checkpoint(100)).as_bytes()),
        ("state", (checkpoint(101) + &timed(102)).as_bytes()),
    ]);
    let all: Vec<u64> = (0..103).collect();
    goes_on(dir.path(), &all).await;
}

#[tokio::test]
async fn a_checkpoint_with_a_reused_id_is_for_snapshot_reads() {
    let dir = dir_of(&[
        ("state-3", lines(timed, 0..4).as_bytes()),
        ("state", (checkpoint(3) + &lines(timed, 4..6)).as_bytes()),
    ]);
    let store = open(dir.path()).await;
    let events = read(&store, ReadFrom::Origin).await;
    assert_eq!(events.iter().map(|event| event.id().get()).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert!(!events[3].is_snapshot());
    let events = read(&store, ReadFrom::Snapshot).await;
    assert_eq!(events.iter().map(|event| event.id().get()).collect::<Vec<_>>(), [3, 4, 5]);
    assert!(events[0].is_snapshot());
    assert_eq!(ids(&store, ReadFrom::After(id(1))).await, [2, 3, 4, 5]);
    assert_eq!(ids(&store, ReadFrom::After(id(2))).await, [3, 4, 5]);
    assert_eq!(ids(&store, ReadFrom::After(id(3))).await, [4, 5]);
    store.close().await.unwrap();
    goes_on(dir.path(), &[0, 1, 2, 3, 4, 5]).await;
}

#[tokio::test]
async fn a_reused_id_at_the_end_has_the_first_digest() {
    let dir = dir_of(&[("state-3", lines(timed, 0..4).as_bytes()), ("state", checkpoint(3).as_bytes())]);
    let store = open(dir.path()).await;
    let events = read(&store, ReadFrom::Origin).await;
    assert_eq!(store.checkpoint().await.unwrap(), Checkpoint::at(&events[3]));
    // A sink that took them over and the log itself agree on their lineage.
    append(&store, &[event(4)]).await.unwrap();
    assert_eq!(ids(&store, ReadFrom::After(id(3))).await, [4]);
    store.close().await.unwrap();
    goes_on(dir.path(), &[0, 1, 2, 3, 4]).await;
}

#[tokio::test]
async fn a_crash_inside_of_a_rotation_loses_nothing() {
    // hydra-node renames `state`, and then writes the checkpoint: in between there is no `state`.
    let dir = dir_of(&[("state-3", lines(timed, 0..4).as_bytes())]);
    goes_on(dir.path(), &[0, 1, 2, 3]).await;
    let dir = dir_of(&[("state-3", lines(timed, 0..4).as_bytes()), ("state", b"")]);
    goes_on(dir.path(), &[0, 1, 2, 3]).await;
}

#[tokio::test]
async fn an_empty_file_and_an_empty_directory_are_empty_logs() {
    goes_on(dir_of(&[]).path(), &[]).await;
    goes_on(dir_of(&[("state", b"")]).path(), &[]).await;
}

#[tokio::test]
async fn a_torn_tail_is_kept_aside_and_nothing_is_glued_to_it() {
    let partial = "{\"eventId\":3,\"stateChanged\":{\"tag\":\"Ti";
    for tail in [partial, "{", "\0\0\0\0", &format!("{partial}\0\0\0"), &"\0".repeat(5000)] {
        let text = lines(timed, 0..3) + tail;
        let dir = dir_of(&[("state", text.as_bytes())]);
        goes_on(dir.path(), &[0, 1, 2]).await;
        assert_eq!(torn(dir.path()), [tail.as_bytes()], "{tail:?}");
    }
}

#[tokio::test]
async fn a_last_line_without_its_line_break_is_not_lost() {
    let text = lines(timed, 0..4);
    let dir = dir_of(&[("state", text.trim_end().as_bytes())]);
    let store = open(dir.path()).await;
    let found = ids(&store, ReadFrom::Origin).await;
    let aside = torn(dir.path()).concat();
    assert!(found == [0, 1, 2, 3] || (found == [0, 1, 2] && aside == timed(3).trim_end().as_bytes()));
    store.close().await.unwrap();
    goes_on(dir.path(), &found).await;
}

#[tokio::test]
async fn a_glued_line_is_reported_with_its_place() {
    let partial = "{\"eventId\":2,\"stateChanged\":{\"tag\":\"Ti";
    let nuls = "\0\0\0\0\0\0\0\0";
    for glued in [partial, nuls, timed(2).trim_end()] {
        let before = lines(timed, 0..2);
        let text = before.clone() + glued + &lines(timed, 3..6);
        let dir = dir_of(&[("state", text.as_bytes())]);
        // Opening looks at the tail alone; a read reports the place.
        let error = match hydrant_file::FileStore::open(dir.path(), hydrant_file::FileStoreOptions::default())
            .await
        {
            Ok(store) => store.collect(ReadFrom::Origin).await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let text = error.to_string();
        for part in ["state", "line 3", &before.len().to_string(), "hydrant "] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }
}

#[tokio::test]
async fn hydra_node_may_write_on_behind_us_and_we_behind_it() {
    let dir = dir_of(&[("state", lines(timed, 0..3).as_bytes())]);
    let mut expected = vec![0, 1, 2];
    for _ in 0..3 {
        let store = open(dir.path()).await;
        assert_eq!(ids(&store, ReadFrom::Origin).await, expected);
        let next = expected.len() as u64;
        append(&store, &[event(next), event(next + 1)]).await.unwrap();
        store.close().await.unwrap();

        // Every line of ours is what hydra-node expects, with one member more.
        let mut text = fs::read_to_string(dir.path().join("state")).unwrap();
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(line["eventId"].is_u64() && line["time"].is_string() && !line["stateChanged"].is_null());
        }
        text += &timed(next + 2);
        fs::write(dir.path().join("state"), text).unwrap();
        expected.extend(next..next + 3);
    }
    goes_on(dir.path(), &expected).await;
}

#[tokio::test]
async fn hydra_node_may_be_killed_behind_us() {
    let dir = dir_of(&[]);
    let store = open(dir.path()).await;
    append(&store, &[event(0), event(1)]).await.unwrap();
    append(&store, &[snapshot(2)]).await.unwrap();
    store.close().await.unwrap();
    let mut text = fs::read(dir.path().join("state")).unwrap();
    text.extend_from_slice(timed(3).as_bytes());
    text.extend_from_slice(&timed(4).as_bytes()[..20]);
    fs::write(dir.path().join("state"), text).unwrap();
    goes_on(dir.path(), &[0, 1, 2, 3]).await;
    assert_eq!(torn(dir.path()), [&timed(4).as_bytes()[..20]]);
}

/// Leaves what a log of Hydrant becomes when hydra-node continues it, renames `state`, and is killed before it writes
/// the checkpoint.
async fn renamed_behind_us() -> tempfile::TempDir {
    let dir = dir_of(&[]);
    let store = open(dir.path()).await;
    append(&store, &[event(0), event(1), event(2)]).await.unwrap();
    store.close().await.unwrap();
    add(dir.path(), &timed(3));
    fs::rename(dir.path().join("state"), dir.path().join("state-3")).unwrap();
    dir
}

/// Appends text to `state`, as hydra-node does.
fn add(dir: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).create(true).open(dir.join("state")).unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
}

#[tokio::test]
async fn hydra_node_may_be_killed_in_a_rotation_behind_us() {
    let dir = renamed_behind_us().await;
    let source = FileSource::open(dir.path(), FileSourceOptions::default()).await.unwrap();
    let events = source.collect(ReadFrom::Origin).await.unwrap();
    assert_eq!(events.iter().map(|event| event.id().get()).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(source.checkpoint().await.unwrap(), Checkpoint::at(&events[3]));
    let followed: Vec<_> = source.follow(ReadFrom::Origin).take(4).map(Result::unwrap).collect().await;
    assert_eq!(followed, events);
    assert_eq!(findings(dir.path()).await, []);
    goes_on(dir.path(), &[0, 1, 2, 3]).await;
}

#[tokio::test]
async fn a_follower_meets_a_rotation_of_hydra_node_behind_us() {
    let dir = dir_of(&[]);
    let store = open(dir.path()).await;
    append(&store, &[event(0), event(1), event(2)]).await.unwrap();
    store.close().await.unwrap();
    let source = FileSource::open(dir.path(), FileSourceOptions::default()).await.unwrap();
    let mut follower = source.follow(ReadFrom::Origin);
    let mut next = async || {
        let next = tokio::time::timeout(std::time::Duration::from_secs(20), follower.next()).await;
        next.expect("the follower waits").expect("the follower ended").unwrap().id().get()
    };
    assert_eq!([next().await, next().await, next().await], [0, 1, 2]);
    add(dir.path(), &timed(3));
    assert_eq!(next().await, 3);
    // The follower looks several times before hydra-node creates the new file.
    fs::rename(dir.path().join("state"), dir.path().join("state-3")).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    add(dir.path(), &(checkpoint(4) + &timed(5)));
    assert_eq!([next().await, next().await], [4, 5]);
}

#[tokio::test]
async fn a_state_that_is_gone_is_missed_beside_sealed_files() {
    let dir = renamed_behind_us().await;
    // It opens the log behind the rotation, so its record is of the new `state`.
    goes_on(dir.path(), &[0, 1, 2, 3]).await;
    fs::remove_file(dir.path().join("state")).unwrap();
    let is_missing = |text: String| assert!(text.contains("`state` is missing, and was synced"), "{text}");

    let source = FileSource::open(dir.path(), FileSourceOptions::default()).await.unwrap();
    is_missing(source.collect(ReadFrom::Origin).await.unwrap_err().to_string());
    is_missing(source.checkpoint().await.unwrap_err().to_string());
    is_missing(source.follow(ReadFrom::Origin).next().await.unwrap().unwrap_err().to_string());
    let found = findings(dir.path()).await;
    assert_eq!(found.len(), 1, "{found:?}");
    is_missing(found[0].to_string());
    let options = hydrant_file::FileStoreOptions::default();
    is_missing(hydrant_file::FileStore::open(dir.path(), options).await.unwrap_err().to_string());
}
