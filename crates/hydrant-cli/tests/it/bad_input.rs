//! Bad input, through every door: each a clear error, nothing lost, no panic.

use std::fs;
use std::io::Write as _;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::kit::{file, finish, held, log, program, run, run_with, signal, until};

/// A line that is no event, and words of the error that must name it.
fn bad_lines() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let event = |id: &str| format!("{{\"eventId\":{id},\"stateChanged\":{{\"tag\":\"A\"}}}}\n").into_bytes();
    let utf16 = "{\"eventId\":3,\"stateChanged\":1}\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    vec![
        ("garbage", b"this is no event\n".to_vec(), "not an event"),
        ("truncated", b"{\"eventId\":3,\"stateChanged\":{\"ta\n".to_vec(), "not an event"),
        ("empty", b"\n".to_vec(), "empty line"),
        ("nuls", b"\0\0\0\0\0\0\0\0\n".to_vec(), "NUL"),
        ("utf16", utf16, "UTF-16"),
        ("latin1", b"{\"eventId\":3,\"stateChanged\":\"\xe9\"}\n".to_vec(), "not an event"),
        ("falls", event("1"), "strictly grow"),
        ("repeats", event("2"), "strictly grow"),
        ("missing id", b"{\"stateChanged\":{\"tag\":\"A\"}}\n".to_vec(), "eventId"),
        ("missing change", b"{\"eventId\":3}\n".to_vec(), "stateChanged"),
        ("wrong type", event("\"3\""), "eventId"),
        ("fraction", event("3.0"), "eventId"),
        ("negative", event("-3"), "eventId"),
        ("too large", event("18446744073709551616"), "eventId"),
        ("array", b"[1,2,3]\n".to_vec(), "not an event"),
        ("twice", b"{\"eventId\":3,\"eventId\":4,\"stateChanged\":1}\n".to_vec(), "twice"),
        (
            "deep",
            [&b"{\"eventId\":3,\"stateChanged\":"[..], &[b'['; 100_000], b"\n"].concat(),
            "not an event",
        ),
    ]
}

fn spoilt(bad: &[u8]) -> Vec<u8> {
    [log(0..3).as_bytes(), bad, log(5..8).as_bytes()].concat()
}

#[test]
fn a_bad_line_on_standard_input_is_named_and_loses_nothing() {
    let place = format!("line 4, byte {}", log(0..3).len());
    for (name, bad, says) in bad_lines() {
        let dir = tempfile::tempdir().unwrap();
        let url = file(&dir.path().join("log"));
        run_with(&["copy", "-", &url], spoilt(&bad)).ends(1).says(&["standard input", &place, says]);
        assert_eq!(held(&url), log(0..3), "{name}");
        let cat = run_with(&["cat", "-"], spoilt(&bad)).ends(1);
        assert_eq!(cat.stdout, log(0..3), "{name}");
    }
}

#[test]
fn a_bad_line_in_a_foreign_log_is_named_and_left_in_place() {
    for (name, bad, _) in bad_lines() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        fs::write(&state, spoilt(&bad)).unwrap();
        let url = file(dir.path());
        let cat = run(&["cat", &url]).ends(1).says(&["state"]);
        assert!(log(0..3).starts_with(&cat.stdout), "{name}: {cat:?}");
        let verify = run(&["verify", &url]).ends(1);
        assert!(verify.lines().iter().any(|line| line.contains("state:4")), "{name}: {verify:?}");
        assert_eq!(fs::read(&state).unwrap(), spoilt(&bad), "{name}");
        let copy = file(&dir.path().join("copy"));
        run(&["copy", &url, &copy]).ends(1).says(&["state"]);
        run(&["relay", "--from", &url, "--to", &copy]).ends(1).says(&["state"]);
        assert_eq!(fs::read(&state).unwrap(), spoilt(&bad), "{name}");
    }
}

#[test]
fn every_reader_reports_a_torn_tail() {
    for left in ["{\"eventId\":3,\"stateCh", "{\"eventId\":3,\"stateCh\n", "garbage\n", "\0\0\0\0\0\0\0\0"] {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let text = log(0..3) + left;
        fs::write(&state, &text).unwrap();
        let (url, place) = (file(dir.path()), format!("from byte {}", log(0..3).len()));
        let cat = run(&["cat", &url]).ends(1).says(&["state", &place, "hydrant verify file:"]);
        assert_eq!(cat.stdout, log(0..3), "{left:?}");
        let verify = run(&["verify", &url]).ends(1);
        assert_eq!(verify.lines().len(), 1, "{left:?}: {verify:?}");
        let (copy, relayed) = (file(&dir.path().join("copy")), file(&dir.path().join("relayed")));
        run(&["copy", &url, &copy]).ends(1).says(&[&place]);
        run(&["relay", "--from", &url, "--to", &relayed]).ends(1).says(&[&place]);
        assert_eq!((held(&copy), held(&relayed)), (log(0..3), log(0..3)), "{left:?}");
        assert_eq!(fs::read_to_string(&state).unwrap(), text, "{left:?}");
        // The next writer sets it aside, and nothing is lost.
        run_with(&["copy", "-", &url], log(2..5)).ends(0);
        assert_eq!(held(&url), log(0..5), "{left:?}");
        let aside = fs::read_to_string(dir.path().join("state.torn-1")).unwrap();
        assert_eq!(aside.trim_end_matches(['\0', '\n']), left.trim_end_matches(['\0', '\n']));
    }
}

#[test]
fn an_endless_line_is_refused_in_bounded_memory() {
    let dir = tempfile::tempdir().unwrap();
    let url = file(&dir.path().join("log"));
    let zero = fs::File::open("/dev/zero").unwrap();
    // A limit of address space far below what an unbounded line would need.
    let limited = format!("ulimit -v 4000000; exec {} copy - {url}", env!("CARGO_BIN_EXE_hydrant"));
    let child = Command::new("sh")
        .args(["-c", &limited])
        .stdin(zero)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    finish(child).ends(1).says(&["line 1, byte 0", "`line_bytes_max` = 64MiB", "stdio:?line_bytes_max"]);
}

#[test]
fn a_line_over_the_limit_is_refused_and_a_larger_limit_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let url = file(&dir.path().join("log"));
    let long = format!("{{\"eventId\":3,\"stateChanged\":\"{}\"}}\n", "x".repeat(100_000));
    let input = format!("{}{long}", log(0..3));
    run_with(&["copy", "stdio:?line_bytes_max=64KiB", &url], &*input)
        .ends(1)
        .says(&["line 4", "`line_bytes_max` = 64KiB"]);
    assert_eq!(held(&url), log(0..3));
    let small = format!("{url}?event_bytes_max=64KiB");
    run_with(&["copy", "-", &small], &*input).ends(1).says(&["event 3", "event_bytes_max"]);
    assert_eq!(held(&url), log(0..3));
    run_with(&["copy", "-", &url], &*input).ends(0);
    assert_eq!(held(&url), input);
    run(&["cat", &small]).ends(1).says(&["event_bytes_max"]);

    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("state"), &input).unwrap();
    let small = format!("{}?event_bytes_max=64KiB", file(&foreign));
    for args in [&["cat", &small][..], &["copy", &small, "-"], &["copy", "-", &small]] {
        run(args).ends(1).says(&["line 4", "event_bytes_max"]);
    }
    assert_eq!(fs::read_to_string(foreign.join("state")).unwrap(), input);
    assert_eq!(held(&file(&foreign)), input);
}

#[test]
fn what_is_no_directory_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    fs::write(&state, log(0..3)).unwrap();
    let fifo = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let missing = dir.path().join("missing");
    for (path, says) in [
        (&state, ["this is a file", &*file(dir.path())]),
        (&fifo, ["a pipe", "hydrant copy - file:DIR <"]),
        (&missing, ["no such directory", "missing"]),
    ] {
        for command in ["cat", "tail", "verify", "status", "repair"] {
            run(&[command, &file(path)]).ends(3).says(&says).says(&[path.to_str().unwrap()]);
        }
        let to = file(&dir.path().join("to"));
        run(&["relay", "--from", &file(path), "--to", &to]).ends(3).says(&says);
        run(&["copy", &file(path), &to]).ends(3).says(&says);
    }
    for path in [&state, &fifo] {
        run_with(&["copy", "-", &file(path)], log(0..1)).ends(3).says(&["this is"]);
    }
    assert_eq!(fs::read_to_string(&state).unwrap(), log(0..3));
}

#[test]
fn a_directory_that_holds_no_log_is_not_taken_for_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let parent = dir.path().join("q");
    fs::create_dir(&parent).unwrap();
    let (url, to) = (file(&parent), dir.path().join("to"));
    let to_url = file(&to);
    let commands = [
        &["verify", &url][..],
        &["repair", &url],
        &["status", &url],
        &["cat", &url],
        &["copy", &url, &to_url],
        &["relay", "--from", &url, "--to", &to_url],
    ];
    let says = format!("unavailable: {url}: this directory holds no log (there is no file `state`); check");
    for args in commands {
        assert!(!run(args).ends(3).says(&[&says]).stderr.contains("did you mean"));
    }
    let ledger = file(&parent.join("ledger"));
    run_with(&["copy", "-", &ledger], "").ends(0);
    for args in commands {
        run(args).ends(3).says(&[&says, &format!("did you mean {ledger}?")]);
    }
    assert!(!to.exists() && fs::read_dir(&parent).unwrap().count() == 1, "nothing is made");
    run(&["verify", &ledger]).ends(0); // empty, and a log
    assert_eq!(held(&ledger), "");
}

#[test]
fn a_log_that_was_moved_away_is_not_taken_for_whole() {
    let (dir, url) = crate::kit::store(0..3);
    let log = dir.path().join("log");
    fs::rename(log.join("state"), dir.path().join("state")).unwrap();
    for command in ["verify", "repair", "status", "cat"] {
        run(&[command, &url]).ends(1).says(&["`state` is missing", "put it back"]);
    }
}

#[test]
fn a_state_that_is_no_file_is_refused() {
    for make in ["mkdir", "mkfifo"] {
        let dir = tempfile::tempdir().unwrap();
        let url = file(dir.path());
        assert!(Command::new(make).arg(dir.path().join("state")).status().unwrap().success());
        for args in [&["cat", &url][..], &["status", &url], &["verify", &url]] {
            let run = run(args).says(&["state"]);
            assert!(matches!(run.code, Some(1 | 3)), "{make} {args:?}: {run:?}");
        }
        let copy = run_with(&["copy", "-", &url], log(0..1)).says(&["state"]);
        assert!(matches!(copy.code, Some(1 | 3)), "{make}: {copy:?}");
    }
}

/// Runs the program as a user without rights, also when the tests run as root.
fn powerless(args: &[&str], dir: &Path) -> Command {
    let program = dir.join("hydrant");
    let mut command = Command::new(&program);
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        use std::os::unix::process::CommandExt as _;
        // By another process: a program that this one has open for writing, which a child of another test may
        // have inherited for a moment, cannot be run ("text file busy").
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_hydrant")).arg(&program).status().unwrap();
        assert!(copied.success());
        if fs::metadata(&program).unwrap().uid() == 0 {
            command.uid(65_534).gid(65_534);
        }
    }
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[cfg(unix)]
#[test]
fn what_may_not_be_read_or_written_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    chmod(dir.path(), 0o755);
    let closed = dir.path().join("closed");
    let open = dir.path().join("open");
    for log_dir in [&closed, &open] {
        run_with(&["copy", "-", &file(log_dir)], log(0..3)).ends(0);
    }
    chmod(&closed, 0o000);
    chmod(&open.join("state"), 0o000);
    for path in [&closed, &open] {
        let run = finish(powerless(&["cat", &file(path)], dir.path()).spawn().unwrap());
        run.ends(3).says(&["denied", path.to_str().unwrap()]);
    }
    let to = file(&dir.path().join("not-mine"));
    let run = finish(powerless(&["copy", "-", &to], dir.path()).spawn().unwrap());
    run.ends(3).says(&["denied", "not-mine"]);
    chmod(&closed, 0o755);
    chmod(&open.join("state"), 0o644);
    assert_eq!(held(&file(&closed)), log(0..3));
}

#[test]
fn a_port_in_use_is_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let url = format!("udp://{}", taken.local_addr().unwrap());
    run(&["tail", &url]).ends(3).says(&["in use", &taken.local_addr().unwrap().to_string()]);
}

#[test]
fn a_host_that_does_not_exist_is_named() {
    let run = run_with(&["copy", "-", "udp://no-such-host.invalid:9000"], log(0..1));
    run.ends(3).says(&["no-such-host.invalid:9000", "resolve"]);
}

#[test]
fn binary_noise_never_panics() {
    let mut seed: u64 = 0x9E37_79B9_7F4A_7C15;
    println!("seed {seed:#x}");
    for _ in 0..20 {
        let mut noise = Vec::with_capacity(4096);
        for _ in 0..512 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            noise.extend_from_slice(&seed.to_be_bytes());
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("state"), &noise).unwrap();
        for command in ["cat", "status", "verify"] {
            assert_ne!(run(&[command, &file(dir.path())]).code, Some(101), "{command}");
        }
        run_with(&["cat", "-"], noise).ends(1);
    }
}

#[test]
fn a_writer_that_is_killed_leaves_the_log_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let url = file(&dir.path().join("log"));
    let mut first = program(&["copy", "-", &url]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = first.stdin.take().unwrap();
    stdin.write_all(log(0..1).as_bytes()).unwrap();
    until(|| run(&["cat", &url]).stdout == log(0..1));
    signal(first.id(), "KILL");
    first.wait_with_output().unwrap();
    run_with(&["copy", "-", &url], log(0..2)).ends(0);
    assert_eq!(held(&url), log(0..2));
}
