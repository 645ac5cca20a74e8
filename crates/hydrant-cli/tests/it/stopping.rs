//! Ctrl-C, SIGTERM, and readers that leave.

use std::io::Read as _;
use std::process::Stdio;

use crate::kit::{file, finish, held, line, lines_of, log, next_line, program, run, signal, store, until};

#[test]
fn signals_end_a_relay_once_its_sinks_have_everything() {
    for name in ["INT", "TERM"] {
        let (dir, from) = store(0..5);
        let archive = file(&dir.path().join("archive"));
        let state = dir.path().join("state-dir");
        let args = ["relay", "--from", &from, "--to", &archive, "--to", "-", "--follow", "--state-dir"];
        let mut relay = program(&[&args[..], &[state.to_str().unwrap()]].concat()).spawn().unwrap();
        let lines = lines_of(relay.stdout.take().unwrap());
        for id in 0..5 {
            assert_eq!(next_line(&lines), line(id));
        }
        signal(relay.id(), name);
        finish(relay).ends(0).says(&["stopping; once more ends at once"]);
        assert_eq!(held(&archive), log(0..5));
    }
}

#[test]
fn a_sink_that_does_not_drain_in_time_is_named() {
    let (dir, from) = store(0..20_000); // far more than a pipe takes
    let state = dir.path().join("state-dir");
    let args =
        ["relay", "--from", &from, "--to", "slow=-", "--follow", "--drain-timeout", "100ms", "--state-dir"];
    let mut relay = program(&[&args[..], &[state.to_str().unwrap()]].concat()).spawn().unwrap();
    let mut stdout = relay.stdout.take().unwrap(); // open, but not read on
    let mut first = [0; 10];
    stdout.read_exact(&mut first).unwrap();
    signal(relay.id(), "INT");
    finish(relay).ends(1).says(&["slow", "misses"]);
}

#[test]
fn a_second_ctrl_c_ends_at_once() {
    let (dir, from) = store(0..20_000);
    let state = dir.path().join("state-dir");
    let args =
        ["relay", "--from", &from, "--to", "slow=-", "--follow", "--drain-timeout", "1h", "--state-dir"];
    let mut relay = program(&[&args[..], &[state.to_str().unwrap()]].concat()).spawn().unwrap();
    let mut stdout = relay.stdout.take().unwrap();
    let mut first = [0; 10];
    stdout.read_exact(&mut first).unwrap();
    let said = lines_of(relay.stderr.take().unwrap());
    signal(relay.id(), "INT");
    assert!(next_line(&said).contains("stopping"));
    signal(relay.id(), "INT");
    finish(relay).ends(130);
}

#[test]
fn an_interrupted_copy_reports_its_place_and_continues() {
    let (dir, from) = store(0..10);
    let to = file(&dir.path().join("copy"));
    let mut copy = program(&["copy", "-", &to]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = copy.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, log(0..4).as_bytes()).unwrap();
    until(|| run(&["cat", &to]).stdout == log(0..4));
    signal(copy.id(), "INT");
    finish(copy).ends(1).says(&["behind event 3", "the same command goes on"]);
    run(&["copy", &from, &to]).ends(0);
    assert_eq!(held(&to), log(0..10));
}

#[test]
fn a_relay_ends_quietly_after_its_reader_leaves() {
    let (dir, from) = store(0..20_000);
    let archive = file(&dir.path().join("archive"));
    let state = dir.path().join("state-dir");
    let args =
        ["relay", "--from", &from, "--to", &archive, "--to", "-", "--state-dir", state.to_str().unwrap()];
    let mut relay = program(&args).spawn().unwrap();
    let mut first = [0; 10];
    relay.stdout.take().unwrap().read_exact(&mut first).unwrap(); // and then the pipe closes
    finish(relay).ends(0);
    assert_eq!(held(&archive), log(0..20_000));
}
