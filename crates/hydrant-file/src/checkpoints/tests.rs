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
async fn entries_come_back_after_reopening_and_in_order_of_their_names() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a/b/checkpoints");
    let names = ["", "../up", "A", "a", "日本/é", &"x".repeat(1000)];
    let checkpoints = open(&path).await;
    for (id, name) in (0..).zip(names) {
        checkpoints.swap(name, None, Some(&entry(name, id))).await.unwrap();
    }
    let checkpoints = open(&path).await;
    let mut expected = Vec::new();
    for (id, name) in (0..).zip(names) {
        assert_eq!(checkpoints.load(name).await.unwrap(), Some(entry(name, id)));
        expected.push(entry(name, id));
    }
    expected.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(checkpoints.list().await.unwrap(), expected);
    assert_eq!(
        fs::read_dir(dir.path().join("a")).unwrap().count(),
        1,
        "nothing climbed out of the directory"
    );

    checkpoints.swap("a", Some(&entry("a", 3)), None).await.unwrap();
    assert_eq!(checkpoints.load("a").await.unwrap(), None);
    checkpoints.swap("a", None, None).await.unwrap();
    assert_eq!(checkpoints.list().await.unwrap().len(), names.len() - 1);
}

#[tokio::test]
async fn a_swap_moves_only_what_it_expects() {
    let dir = TempDir::new().unwrap();
    let checkpoints = open(dir.path()).await;
    let fenced = |result: hydrant::Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::Fenced);
    fenced(checkpoints.swap("a", Some(&entry("a", 0)), Some(&entry("a", 1))).await);
    checkpoints.swap("a", None, Some(&entry("a", 1))).await.unwrap();
    fenced(checkpoints.swap("a", None, Some(&entry("a", 2))).await);
    fenced(checkpoints.swap("a", Some(&entry("a", 2)), None).await);
    let other_target = CheckpointEntry::new("a", "udp://[::1]:10", entry("a", 1).checkpoint);
    fenced(checkpoints.swap("a", Some(&other_target), Some(&entry("a", 2))).await);
    assert_eq!(checkpoints.load("a").await.unwrap(), Some(entry("a", 1)));
    let error = checkpoints.swap("a", Some(&entry("a", 1)), Some(&entry("b", 2))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

/// Entries are compared as a whole: what is kept beside a checkpoint comes back, and is compared too.
#[tokio::test]
async fn what_is_kept_beside_a_checkpoint_comes_back() {
    let dir = TempDir::new().unwrap();
    let checkpoints = open(dir.path()).await;
    let positions = serde_json::json!({"z": [1, null, "é\u{0}"], "a": {"y": u64::MAX, "x": i64::MIN}});
    let held = entry("a", 5).with_beside(positions.clone());
    checkpoints.swap("a", None, Some(&held)).await.unwrap();
    assert_eq!(checkpoints.load("a").await.unwrap(), Some(held.clone()));
    assert_eq!(checkpoints.list().await.unwrap(), std::slice::from_ref(&held));
    for other in [None, Some(serde_json::Value::Null), Some(serde_json::json!({"z": [1, null, "e"]}))] {
        let other = held.clone().with_beside(other);
        let refused = checkpoints.swap("a", Some(&other), None).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Fenced);
        checkpoints.swap("a", Some(&held), Some(&other)).await.unwrap();
        assert_eq!(checkpoints.load("a").await.unwrap(), Some(other.clone()));
        checkpoints.swap("a", Some(&other), Some(&held)).await.unwrap();
    }
    checkpoints.swap("a", Some(&held), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_runners_that_swap_at_once_one_is_fenced() {
    let dir = TempDir::new().unwrap();
    let runners = [open(dir.path()).await, open(dir.path()).await]; // as two processes would
    let mut before: Option<CheckpointEntry> = None;
    for round in 0..50 {
        let next = [entry("a", 2 * round), entry("a", 2 * round + 1)];
        let swaps = std::array::from_fn::<_, 2, _>(|at| {
            let (runner, before, next) = (runners[at].clone(), before.clone(), next[at].clone());
            tokio::spawn(async move { runner.swap("a", before.as_ref(), Some(&next)).await })
        });
        let mut winners = Vec::new();
        for (swap, next) in swaps.into_iter().zip(next) {
            match swap.await.unwrap() {
                Ok(()) => winners.push(next),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Fenced, "{error}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        before = winners.pop();
        assert_eq!(runners[0].load("a").await.unwrap(), before);
    }
}

#[tokio::test]
async fn a_dropped_swap_has_ended_before_the_next_call_begins() {
    let dir = TempDir::new().unwrap();
    let checkpoints = open(dir.path()).await;
    let mut made = 0;
    for id in 0..50 {
        let before = checkpoints.load("a").await.unwrap();
        let next = entry("a", id);
        let mut swap = checkpoints.swap("a", before.as_ref(), Some(&next));
        let first_poll = futures_util::poll!(&mut swap);
        drop(swap);
        let after = checkpoints.load("a").await.unwrap();
        assert!(after == before || after.as_ref() == Some(&next));
        assert_eq!(checkpoints.load("a").await.unwrap(), after, "it moved on after it was seen");
        made += u32::from(after != before);
        assert!(first_poll.is_pending() || after.as_ref() == Some(&next));
    }
    assert!(made > 0, "the test has seen a dropped swap that was made");
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
async fn damage_is_told_with_its_file_and_what_to_do() {
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
