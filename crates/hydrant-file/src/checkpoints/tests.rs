use std::fs;
use std::path::Path;

use hydrant::{Checkpoint, CheckpointEntry, CheckpointStore, ErrorKind, Event, EventId, Retry};
use tempfile::TempDir;

use super::FileCheckpoints;
use super::dir::Step;

fn entry(name: &str, id: u64) -> CheckpointEntry {
    let event = Event::new(EventId::new(id), &id).unwrap();
    CheckpointEntry::new(name, "udp://[::1]:9", Checkpoint::at(&event))
}

async fn open(dir: &Path) -> FileCheckpoints {
    FileCheckpoints::open(dir).await.unwrap()
}

#[tokio::test]
async fn an_entry_of_any_name_is_a_file_of_the_directory() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a/b/checkpoints");
    let checkpoints = open(&path).await;
    let names = ["../up", "/root", &"x".repeat(1000)];
    for (id, name) in (0..).zip(names) {
        checkpoints.swap(name, None, Some(&entry(name, id))).await.unwrap();
        assert_eq!(checkpoints.load(name).await.unwrap(), Some(entry(name, id)));
    }
    assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1, "nothing left the directory");
}

#[tokio::test]
async fn the_name_of_the_directory_is_synced_before_the_first_entry() {
    let dir = TempDir::new().unwrap();
    // The open that created it was killed at once.
    let path = dir.path().join("checkpoints");
    fs::create_dir(&path).unwrap();
    let fails = |step| {
        let dir = super::dir::Dir::new(path.clone());
        *dir.fault.planned.lock().unwrap() = Some(step);
        dir.open().is_err()
    };
    assert!(fails(Step::SyncName) && fails(Step::SyncName), "until it succeeds");
    open(&path).await.swap("a", None, Some(&entry("a", 1))).await.unwrap();
    assert!(!fails(Step::SyncName) && fails(Step::SyncDir), "only while there is no entry");
}

#[tokio::test]
async fn whichever_step_fails_the_old_entry_or_the_new_one_is_there() {
    for step in [Step::Create, Step::Write, Step::Sync, Step::Rename, Step::SyncDir] {
        for (old, new) in [(None, Some(2)), (Some(1), Some(2)), (Some(1), None)] {
            let dir = TempDir::new().unwrap();
            let (old, new) = (old.map(|id| entry("a", id)), new.map(|id| entry("a", id)));
            let checkpoints = open(dir.path()).await;
            checkpoints.swap("a", None, old.as_ref()).await.unwrap();

            *checkpoints.dir.fault.planned.lock().unwrap() = Some(step);
            let result = checkpoints.swap("a", old.as_ref(), new.as_ref()).await;
            *checkpoints.dir.fault.planned.lock().unwrap() = None;
            if new.is_none() && step != Step::Rename && step != Step::SyncDir {
                result.unwrap(); // a removal writes nothing
                continue;
            }
            let error = result.unwrap_err();
            let renamed = step == Step::SyncDir;
            let applied = renamed || step == Step::Rename;
            assert_eq!(error.retry(), if applied { Retry::AfterCheckpoint } else { Retry::Safe }, "{step:?}");
            if renamed {
                // What is durable is unknown, so this handle says nothing more.
                assert_eq!(checkpoints.load("a").await.unwrap_err().kind(), ErrorKind::Closed);
            } else {
                assert_eq!(checkpoints.load("a").await.unwrap(), old, "{step:?}");
            }

            let reopened = open(dir.path()).await; // finds what a kill at that step leaves
            let found = reopened.load("a").await.unwrap();
            assert_eq!(found, if renamed { new.clone() } else { old.clone() }, "{step:?}");
            reopened.swap("a", found.as_ref(), Some(&entry("a", 3))).await.unwrap();
            assert_eq!(reopened.list().await.unwrap(), [entry("a", 3)]);
        }
    }
}

#[tokio::test]
async fn damage_is_reported_with_its_file_and_advice() {
    let dir = TempDir::new().unwrap();
    let checkpoints = open(dir.path()).await;
    checkpoints.swap("a", None, Some(&entry("a", 7))).await.unwrap();
    let path = dir.path().join("a.json");
    let good = fs::read(&path).unwrap();
    let edited = String::from_utf8(good.clone()).unwrap().replacen("\"id\":7", "\"id\":8", 1).into_bytes();
    assert_ne!(edited, good);
    for bytes in [&edited[..], &good[..good.len() / 2], &[], b"\0\0\0\0", b"[]", &vec![b' '; 2 << 20]] {
        fs::write(&path, bytes).unwrap();
        let say = [
            checkpoints.load("a").await.unwrap_err(),
            checkpoints.list().await.unwrap_err(),
            checkpoints.swap("a", Some(&entry("a", 7)), None).await.unwrap_err(),
        ];
        for error in say {
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            let text = error.to_string();
            assert!(text.contains("a.json") && text.contains("remove it"), "{text}");
        }
        assert_eq!(fs::read(&path).unwrap(), bytes, "a damaged file is left as it is");
    }

    fs::write(&path, &good).unwrap();
    fs::rename(&path, dir.path().join("b.json")).unwrap();
    assert!(checkpoints.load("b").await.unwrap_err().to_string().contains("the entry of \"a\""));
    assert!(checkpoints.list().await.unwrap_err().to_string().contains("b.json"));

    let newer = String::from_utf8(good).unwrap().replacen("\"version\":1", "\"version\":2", 1);
    fs::write(dir.path().join("b.json"), newer).unwrap();
    let error = checkpoints.load("b").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("upgrade"), "{error}");
}

#[tokio::test]
async fn what_is_no_file_and_what_is_no_directory_is_named() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = FileCheckpoints::open(&path).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("file"), "{error}");
    }
    let checkpoints = open(dir.path()).await;
    fs::create_dir(dir.path().join("a.json")).unwrap();
    assert_eq!(checkpoints.load("a").await.unwrap_err().kind(), ErrorKind::Corrupt);
}
