//! Bad input: each case is a clear error that names what, where and what to do, and nothing is lost.

use std::fs;
use std::path::Path;

use crate::support::hydra::{lines, timed};
use crate::support::{append, dir_of, event, open};
use hydrant::{Error, ErrorKind, EventSink, EventSourceExt, ReadFrom};
use hydrant_file::{FileStore, FileStoreOptions};

/// What opening, or else reading it all, answers.
async fn fault(dir: &Path) -> Error {
    let options = FileStoreOptions::default().with_event_bytes_max(1 << 20);
    match FileStore::open(dir, options).await {
        Ok(store) => store.collect(ReadFrom::Origin).await.expect_err("the fault is reported"),
        Err(error) => error,
    }
}

fn says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[tokio::test]
async fn a_bad_line_is_reported_with_its_place_and_advice() {
    let utf16: Vec<u8> =
        "{\"eventId\":3,\"stateChanged\":{}}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let long = format!("{{\"eventId\":3,\"stateChanged\":\"{}\"}}", "x".repeat(2 << 20));
    let cases: &[(&str, &[u8])] = &[
        ("garbage", b"#!%&garbage"),
        ("a truncated line", b"{\"eventId\":3,\"stateChanged\":{\"ta"),
        ("an empty line", b""),
        ("NULs", b"\0\0\0\0\0\0\0\0"),
        ("UTF-16", &utf16),
        ("not UTF-8", b"{\"eventId\":3,\"stateChanged\":\"\xFF\"}"),
        ("a line above the limit", long.as_bytes()),
        ("an id that falls", b"{\"eventId\":1,\"stateChanged\":{}}"),
        ("an id that repeats", b"{\"eventId\":2,\"stateChanged\":{}}"),
        ("a missing id", b"{\"stateChanged\":{}}"),
        ("an id of another type", b"{\"eventId\":\"3\",\"stateChanged\":{}}"),
        ("a negative id", b"{\"eventId\":-3,\"stateChanged\":{}}"),
        ("a too large id", b"{\"eventId\":18446744073709551616,\"stateChanged\":{}}"),
        ("no change", b"{\"eventId\":3,\"time\":\"2025-04-03T10:11:12Z\"}"),
        ("an array", b"[3,{}]"),
    ];
    for (case, line) in cases {
        let before = lines(timed, 0..3);
        let text = [before.as_bytes(), line, b"\n", lines(timed, 4..6).as_bytes()].concat();
        let dir = dir_of(&[("state", &text)]);
        let error = fault(dir.path()).await;
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{case}: {error}");
        says(&error, &["state", "line 4", &before.len().to_string(), "hydrant "]);
        assert_eq!(fs::read(dir.path().join("state")).unwrap(), text, "{case}: nothing was touched");
    }
}

#[tokio::test]
async fn a_bad_last_line_is_not_taken_for_an_event_and_not_lost() {
    for line in ["#!%&garbage", "{\"eventId\":1,\"stateChanged\":{}}", "{\"stateChanged\":{}}", "[]"] {
        let text = lines(timed, 0..3) + line + "\n";
        let dir = dir_of(&[("state", text.as_bytes())]);
        match FileStore::open(dir.path(), FileStoreOptions::default()).await {
            Ok(store) => match store.collect(ReadFrom::Origin).await {
                Ok(events) => {
                    assert_eq!(events.len(), 3);
                    assert_eq!(crate::support::torn(dir.path()).concat().trim_ascii_end(), line.as_bytes());
                }
                Err(error) => says(&error, &["state", "line 4"]),
            },
            Err(error) => {
                says(&error, &["state", "line 4"]);
                assert_eq!(fs::read(dir.path().join("state")).unwrap(), text.as_bytes());
            }
        }
    }
}

#[tokio::test]
async fn a_path_that_is_no_log_directory_is_named() {
    let dir = dir_of(&[("file", b"")]);
    let error = fault(&dir.path().join("file")).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    says(&error, &["file", "directory"]);

    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("state")).unwrap();
    says(&fault(dir.path()).await, &["state", "directory"]);
}

#[tokio::test]
async fn a_pipe_in_the_place_of_the_log_is_named() {
    for name in ["state", "state-3"] {
        let dir = tempfile::tempdir().unwrap();
        let made = std::process::Command::new("mkfifo").arg(dir.path().join(name)).status();
        assert!(made.unwrap().success());
        says(&fault(dir.path()).await, &[name]);
    }
}

#[tokio::test]
async fn a_directory_that_may_not_be_written_to_is_denied() {
    // No user may create files there, root included.
    let error = fault(Path::new("/sys/hydrant")).await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    says(&error, &["/sys/hydrant"]);
}

#[tokio::test]
async fn a_second_writer_gets_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).await;
    append(&first, &[event(0)]).await.unwrap();
    let Err(error) = FileStore::open(dir.path(), FileStoreOptions::default()).await else {
        panic!("two writers");
    };
    says(&error, &[&dir.path().display().to_string()]);
    append(&first, &[event(1)]).await.unwrap();
    first.close().await.unwrap();
    let second = open(dir.path()).await;
    assert_eq!(second.checkpoint().await.unwrap().id(), Some(crate::support::id(1)));
}

#[tokio::test]
async fn an_event_above_the_limit_is_refused_by_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let store =
        FileStore::open(dir.path(), FileStoreOptions::default().with_event_bytes_max(1000)).await.unwrap();
    append(&store, &[event(0)]).await.unwrap();
    let large = hydrant::Event::new(crate::support::id(1), &"x".repeat(2000)).unwrap();
    let error = append(&store, &[large]).await.unwrap_err();
    assert_eq!((error.kind(), error.event()), (ErrorKind::Invalid, Some(crate::support::id(1))));
    append(&store, &[event(1)]).await.unwrap();
    assert_eq!(crate::support::ids(&store, ReadFrom::Origin).await, [0, 1]);
}

#[tokio::test]
async fn files_of_others_in_the_directory_are_left_alone() {
    let names = ["state.bak", "state-", "state-x", "state-01", "notes.txt", "states", "state-3.old"];
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, b"not ours".as_slice())).collect();
    let dir = dir_of(&files);
    crate::support::goes_on(dir.path(), &[]).await;
    for name in names {
        assert_eq!(fs::read(dir.path().join(name)).unwrap(), b"not ours");
    }
}
