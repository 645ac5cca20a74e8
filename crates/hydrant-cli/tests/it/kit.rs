//! Runs the program: with input, with a time limit, and as a user without rights.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// No test waits for long; this only turns a program that hangs into a failure.
const HANGS: Duration = Duration::from_mins(2);

/// What a run left.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Holds the run to its exit code, and gives it back.
    #[track_caller]
    pub(crate) fn ends(self, code: i32) -> Self {
        assert!(!self.stderr.contains("panicked"), "no panic: {self:?}");
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Holds standard error to all of these words.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is missing: {}", self.stderr);
        }
        self
    }

    pub(crate) fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }
}

/// The program, with nothing of this process's settings.
pub(crate) fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
    command
        .args(args)
        .env_remove("HYDRANT_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub(crate) fn run(args: &[&str]) -> Run {
    finish(program(args).spawn().unwrap())
}

pub(crate) fn run_with(args: &[&str], input: impl Into<Vec<u8>>) -> Run {
    let mut child = program(args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.into();
    // The program may end before it has read everything.
    std::thread::spawn(move || drop(stdin.write_all(&input)));
    finish(child)
}

/// Waits for the end.
pub(crate) fn finish(child: Child) -> Run {
    let pid = child.id();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = receiver.recv_timeout(HANGS) else {
        signal(pid, "KILL");
        panic!("the program hangs");
    };
    let output = output.unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(status.success(), "kill -{name} {pid}");
}

/// The lines of a stream as they come.
pub(crate) fn lines_of(stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The next line, or a failure.
#[track_caller]
pub(crate) fn next_line(lines: &mpsc::Receiver<String>) -> String {
    lines.recv_timeout(HANGS).expect("a line comes")
}

/// Looks again and again, each time by running the program, until it is so.
#[track_caller]
pub(crate) fn until(is_so: impl Fn() -> bool) {
    assert!((0..10_000).any(|_| is_so()), "it never came to be");
}

/// The envelope of an event, as it is always written.
pub(crate) fn line(id: u64) -> String {
    format!(
        r#"{{"eventId":{id},"stateChanged":{{"tag":"Deposited","amount":{id}.0}},"time":"2026-01-05T09:00:00Z"}}"#
    )
}

/// The lines of these events.
pub(crate) fn log(ids: impl IntoIterator<Item = u64>) -> String {
    ids.into_iter().map(|id| line(id) + "\n").collect()
}

/// A URL of a directory.
pub(crate) fn file(dir: &std::path::Path) -> String {
    format!("file:{}", dir.display())
}

/// A store with these events, in a directory of its own.
pub(crate) fn store(ids: impl IntoIterator<Item = u64>) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let url = file(&dir.path().join("log"));
    run_with(&["copy", "-", &url], log(ids)).ends(0);
    (dir, url)
}

/// All that a store holds, as `cat` prints it.
#[track_caller]
pub(crate) fn held(url: &str) -> String {
    run(&["cat", url]).ends(0).stdout
}

/// A log whose first segment was pruned: events 5 (a snapshot) to 9 are kept.
pub(crate) fn pruned() -> (tempfile::TempDir, String, String) {
    let snapshot = r#"{"eventId":5,"stateChanged":{"tag":"Checkpoint","state":{}},"isSnapshot":true}"#;
    let kept = format!("{snapshot}\n{}", log(6..10));
    let (dir, from) = store(0..5);
    run_with(&["copy", "-", &from], &*kept).ends(0);
    std::fs::remove_file(dir.path().join("log").join("state-4")).unwrap();
    (dir, from, kept)
}
