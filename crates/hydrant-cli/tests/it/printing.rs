//! `cat`, `tail`, `status`, `verify`: what is printed, to the byte.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};

use crate::kit::{file, finish, held, line, lines_of, log, next_line, program, run, run_with, signal, store};

#[test]
fn cat_prints_all_generations_in_one_envelope() {
    let payload = r#"{"z":1.0,"a":9007199254740993,"e":1e400,"tag":"Odd","s":"\u0000\n é"}"#;
    let input = [
        r#"{"tag":"TickObserved","chainSlot":758}"#.to_owned(),
        format!(r#"{{"eventId":126,"stateChanged":{payload}}}"#),
        format!(
            r#"{{"time":"2025-04-03T10:11:12.123456789012Z","stateChanged":{payload},"eventId":127,"extra": [1]}}"#
        ),
    ];
    let printed = run_with(&["cat", "-"], input.join("\n")).ends(0).stdout;
    let expected = [
        r#"{"eventId":0,"stateChanged":{"tag":"TickObserved","chainSlot":758}}"#.to_owned(),
        format!(r#"{{"eventId":126,"stateChanged":{payload}}}"#),
        format!(
            r#"{{"eventId":127,"stateChanged":{payload},"time":"2025-04-03T10:11:12.123456789012Z","extra":[1]}}"#
        ),
    ];
    assert_eq!(printed, expected.join("\n") + "\n");
}

#[test]
fn cat_begins_behind_after_and_ends_with_until() {
    let (_dir, url) = store(0..10);
    let ids = |args: &[&str]| run(&[&["cat", &url], args].concat()).ends(0).stdout;
    assert_eq!(ids(&[]), log(0..10));
    assert_eq!(ids(&["--after", "3"]), log(4..10));
    assert_eq!(ids(&["--until", "3"]), log(0..4));
    assert_eq!(ids(&["--after", "3", "--until", "5"]), log(4..6));
    assert_eq!(ids(&["--after", "9"]), "");
    assert_eq!(ids(&["--after", "99"]), "");
    assert_eq!(ids(&["--until", "18446744073709551615"]), log(0..10));
}

#[test]
fn cat_can_begin_with_the_newest_snapshot() {
    let snapshot = r#"{"eventId":5,"stateChanged":{"tag":"Checkpoint","state":{}},"isSnapshot":true}"#;
    let input = format!("{}{snapshot}\n{}", log(0..5), log(6..8));
    let dir = tempfile::tempdir().unwrap();
    let url = file(&dir.path().join("log"));
    run_with(&["copy", "-", &url], input).ends(0);
    assert_eq!(run(&["cat", &url, "--snapshot"]).ends(0).stdout, format!("{snapshot}\n{}", log(6..8)));
    let run = run(&["status", &url, "--json"]).ends(0);
    let status: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(status["segments"], 2, "a snapshot opens a segment: {status}");
}

#[test]
fn status_prints_ends_counts_segments_and_checkpoint() {
    let (_dir, url) = store(3..10);
    let run = run(&["status", &url, "--json"]).ends(0);
    let status: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(status["firstId"], 3);
    assert_eq!(status["lastId"], 9);
    assert_eq!(status["events"], 7);
    assert_eq!(status["segments"], 1);
    assert_eq!(status["checkpoint"]["id"], 9);
    assert!(status["bytes"].as_u64().unwrap() >= log(3..10).len() as u64, "{status}");
    let text = crate::kit::run(&["status", &url]).ends(0).stdout;
    for line in ["first event  3", "last event   9", "events       7", "checkpoint   event 9"] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn verify_says_nothing_of_a_whole_log() {
    let (_dir, url) = store(0..10);
    assert_eq!(run(&["verify", &url]).ends(0).stdout, "");
    assert_eq!(run(&["repair", &url]).ends(0).stdout, "");
    assert_eq!(held(&url), log(0..10));
}

#[test]
fn verify_of_standard_input_names_every_bad_line() {
    let good = log(0..1);
    let input = format!("{good}garbage\n{good}{}{{\"eventId\":2", log(1..2));
    let run = run_with(&["verify", "-"], input).ends(1);
    let found = run.lines();
    assert_eq!(found.len(), 3, "{run:?}");
    let places = [(2, good.len()), (3, good.len() + 8), (5, 3 * good.len() + 8)];
    for (found, (line, offset)) in found.iter().zip(places) {
        let place = format!("standard input:{line}: byte {offset}: ");
        assert!(found.starts_with(&place), "{found}");
    }
}

#[test]
fn a_reader_that_leaves_ends_cat_quietly() {
    let (_dir, url) = store(0..50_000);
    for args in [&["cat", &url][..], &["copy", &url, "-"]] {
        let mut child = program(args).spawn().unwrap();
        let mut first = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap(); // and then the pipe closes
        let run = finish(child).ends(0);
        assert_eq!(run.stderr, "", "{args:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let Ok(full) = std::fs::File::options().write(true).open("/dev/full") else {
        println!("skipped: this system has no /dev/full");
        return;
    };
    let (_dir, url) = store(0..10);
    let child = program(&["cat", &url]).stdout(full).spawn().unwrap();
    finish(child).ends(3).says(&["standard output", "space"]);
}

#[test]
fn tail_prints_what_comes_and_ends_with_ctrl_c() {
    let (_dir, url) = store(0..5);
    let mut child = program(&["tail", &url, "--after", "2"]).spawn().unwrap();
    let lines = lines_of(child.stdout.take().unwrap());
    assert_eq!(next_line(&lines), line(3));
    assert_eq!(next_line(&lines), line(4));
    run_with(&["copy", "-", &url], log(4..7)).ends(0);
    assert_eq!(next_line(&lines), line(5));
    assert_eq!(next_line(&lines), line(6));
    signal(child.id(), "INT");
    finish(child).ends(0);
}

#[test]
fn tail_of_a_pipe_prints_each_line_at_once() {
    let mut child = program(&["tail", "-"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let lines = lines_of(child.stdout.take().unwrap());
    for id in 0..3 {
        stdin.write_all(format!("{}\n", line(id)).as_bytes()).unwrap();
        assert_eq!(next_line(&lines), line(id));
    }
    drop(stdin);
    finish(child).ends(0);
}

#[test]
fn verify_names_damaged_lines_and_repair_keeps_them_aside() {
    let (dir, url) = store(0..3);
    run_with(&["copy", "-", &url], log(3..6)).ends(0);
    run_with(&["copy", "-", &url], log(6..9)).ends(0);
    let state = dir.path().join("log").join("state");
    let text = std::fs::read_to_string(&state).unwrap();
    let (line_3, line_4) = (text.find("{\"eventId\":3").unwrap(), text.find("{\"eventId\":4").unwrap());
    let mut file = std::fs::File::options().write(true).open(&state).unwrap();
    file.seek(SeekFrom::Start(line_4 as u64 + 40)).unwrap();
    file.write_all(b"!").unwrap();
    let flaw = format!("{}:5: byte {line_4}: the checksum differs", state.display());

    let cat = run(&["cat", &url]).ends(1).says(&["line 5", &line_4.to_string(), "hydrant repair"]);
    assert!(log(0..4).starts_with(&cat.stdout) && cat.stdout.starts_with(&log(0..3)), "{cat:?}");
    assert_eq!(run(&["verify", &url]).ends(1).lines(), [&*flaw]);
    let found: serde_json::Value =
        serde_json::from_str(&run(&["verify", &url, "--json"]).ends(1).stdout).unwrap();
    assert_eq!((&found["line"], &found["offset"]), (&5.into(), &line_4.into()));

    let repaired = run(&["repair", &url]).ends(1);
    assert_eq!(repaired.lines().len(), 1, "{repaired:?}");
    assert!(repaired.stdout.starts_with(&flaw) && repaired.stdout.contains("kept aside"), "{repaired:?}");
    assert_eq!(run(&["verify", &url]).ends(0).stdout, "");
    assert_eq!(held(&url), log(0..3));
    let aside = dir.path().join("log").join(format!("damaged-1.state.from-byte-{line_3}"));
    assert!(std::fs::read_to_string(aside).unwrap().contains("\"eventId\":8"));
    run_with(&["copy", "-", &url], log(3..9)).ends(0);
    assert_eq!(held(&url), log(0..9));
}
