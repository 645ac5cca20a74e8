//! `copy`: whole, resumable, and never over another history.

use std::io::Write as _;
use std::process::Stdio;

use crate::kit::{file, finish, held, line, log, program, run, run_with, signal, store, until};

#[test]
fn a_copy_is_the_log_and_copying_again_changes_nothing() {
    let (dir, from) = store(0..5000);
    let to = file(&dir.path().join("copy"));
    let first = run(&["copy", &from, &to]).ends(0);
    assert!(first.stdout.starts_with("copied 5000 events"), "{first:?}");
    assert!(first.stdout.trim_end().ends_with("ends at event 4999"), "{first:?}");
    assert_eq!(held(&to), log(0..5000));
    let again = run(&["copy", &from, &to, "--json"]).ends(0);
    let summary: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!((&summary["copied"], &summary["lastId"]), (&0.into(), &4999.into()));
    assert_eq!(held(&to), log(0..5000));
}

#[test]
fn a_copy_continues_at_the_end_of_the_target() {
    let (dir, from) = store(0..10);
    let to = file(&dir.path().join("copy"));
    run_with(&["copy", "-", &to], log(0..4)).ends(0);
    let run = run(&["copy", &from, &to]).ends(0);
    assert!(run.stdout.starts_with("copied 6 events"), "{run:?}");
    assert_eq!(held(&to), log(0..10));
}

#[test]
fn standard_input_may_overlap_the_target_but_leave_no_hole() {
    let (_dir, url) = store(0..4);
    run_with(&["copy", "-", &url], log(2..6)).ends(0);
    run_with(&["copy", "-", &url], log(6..8)).ends(0);
    let hole = run_with(&["copy", "-", &url], log(9..12)).ends(1);
    hole.says(&["event 7", "missing in between"]);
    assert_eq!(held(&url), log(0..8));
}

#[test]
fn a_target_of_another_history_is_left_alone() {
    let (dir, from) = store(0..10);
    for (name, other) in [
        ("same-id", log(0..5).replace("Deposited", "Withdrawn")),
        ("beyond", log(0..20)),
        ("between", log([0, 1]).replace("\"eventId\":1,", "\"eventId\":1000,")),
    ] {
        let to = file(&dir.path().join(name));
        run_with(&["copy", "-", &to], &*other).ends(0);
        run(&["copy", &from, &to]).ends(1).says(&["diverged", "another history", "choose another target"]);
        assert_eq!(held(&to), other, "{name}");
    }
}

#[test]
fn what_came_before_garbage_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let url = file(&dir.path().join("log"));
    let input = format!("{}this is no event\n{}", log(0..3), log(3..5));
    let offset = log(0..3).len();
    run_with(&["copy", "-", &url], input).ends(1).says(&["line 4", &format!("byte {offset}")]);
    assert_eq!(held(&url), log(0..3));
}

#[test]
fn what_a_pipe_brought_is_durable_before_the_next_line_comes() {
    let dir = tempfile::tempdir().unwrap();
    let url = file(&dir.path().join("log"));
    let mut child = program(&["copy", "-", &url]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(log(0..1).as_bytes()).unwrap();
    until(|| run(&["cat", &url]).stdout == log(0..1));
    stdin.write_all(log(1..2).as_bytes()).unwrap();
    drop(stdin);
    finish(child).ends(0);
    assert_eq!(held(&url), log(0..2));
}

#[test]
fn a_killed_copy_run_again_loses_and_repeats_nothing() {
    let (dir, from) = store(0..20_000);
    for round in 0..5 {
        let to = file(&dir.path().join(format!("copy-{round}")));
        // Small batches, and a signal that comes at another point in each round.
        let mut child = program(&["cat", &from]).spawn().unwrap();
        let copy = program(&["copy", "-", &to]).stdin(child.stdout.take().unwrap()).spawn().unwrap();
        until(|| run(&["status", &to]).code == Some(0)); // it has begun
        for _ in 0..round {
            run(&["status", &to]);
        }
        signal(copy.id(), "KILL");
        copy.wait_with_output().unwrap();
        drop(finish(child));
        run(&["copy", &from, &to]).ends(0);
        run(&["verify", &to]).ends(0);
        assert_eq!(held(&to), log(0..20_000));
    }
}

#[test]
fn events_go_to_standard_output_and_nothing_else_does() {
    let (_dir, from) = store(0..3);
    let run = run(&["copy", &from, "-", "--json"]).ends(0);
    assert_eq!(run.stdout, log(0..3));
    assert!(run.stderr.contains("\"copied\":3"), "{run:?}");
    assert_eq!(run_with(&["copy", "-", "-"], line(7)).ends(0).stdout, log(7..8));
}

#[test]
fn a_second_writer_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let url = file(&dir.path().join("log"));
    let mut first = program(&["copy", "-", &url]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = first.stdin.take().unwrap();
    stdin.write_all(log(0..1).as_bytes()).unwrap();
    until(|| run(&["cat", &url]).stdout == log(0..1));
    run_with(&["copy", "-", &url], log(0..2)).ends(3).says(&[dir.path().to_str().unwrap(), "writ"]);
    drop(stdin);
    finish(first).ends(0);
    assert_eq!(held(&url), log(0..1));
}
