//! `relay`: every sink gets all of it, in order, at its own pace, across crashes.

use std::net::UdpSocket;
use std::sync::mpsc::RecvTimeoutError;

use crate::kit::{
    file, finish, held, line, lines_of, log, next_line, program, pruned, run, run_with, signal, store,
};

fn port() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_mins(2))).unwrap();
    let url = format!("udp://{}", socket.local_addr().unwrap());
    (socket, url)
}

fn received(socket: &UdpSocket) -> String {
    let mut datagram = vec![0; 65_536];
    let length = socket.recv(&mut datagram).unwrap();
    String::from_utf8(datagram[..length].to_vec()).unwrap()
}

#[test]
fn three_sinks_get_everything_and_a_second_run_adds_nothing() {
    let (dir, from) = store(0..100);
    let archive = file(&dir.path().join("archive"));
    let (socket, udp) = port();
    let state = dir.path().join("state-dir");
    let args = ["relay", "--from", &from, "--to", &archive, "--to", &udp, "--to", "out=-", "--state-dir"];
    let args = [&args[..], &[state.to_str().unwrap()]].concat();
    let first = run(&args).ends(0);
    assert_eq!((&*first.stdout, &*first.stderr), (&*log(0..100), ""));
    assert_eq!(held(&archive), log(0..100));
    for id in 0..100 {
        assert!(received(&socket).contains(&format!("\"eventId\":{id},")));
    }
    let second = run(&args).ends(0);
    assert_eq!(second.stdout, "");
    run_with(&["copy", "-", &from], log(100..103)).ends(0);
    assert_eq!(run(&args).ends(0).stdout, log(100..103));
    assert!(received(&socket).contains("\"eventId\":100,"), "datagrams go on from the checkpoint");
}

#[test]
fn the_end_is_reported_to_people_and_to_machines() {
    let (dir, from) = store(0..10);
    let (a, b) = (file(&dir.path().join("a")), file(&dir.path().join("b")));
    let text = run(&["relay", "--from", &from, "--to", &a]).ends(0).stdout;
    assert_eq!(text, format!("file: {a} has all up to event 9\n"));
    let json = run(&["relay", "--from", &from, "--to", &format!("b={b}"), "--json"]).ends(0);
    let last: serde_json::Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
    assert_eq!(last["secondaries"][0]["name"], "b");
    assert_eq!(last["secondaries"][0]["target"], *b);
    assert_eq!(last["secondaries"][0]["checkpoint"], 9);
    assert_eq!(last["secondaries"][0]["lagEvents"], 0);
    assert_ne!(last["secondaries"][0]["state"], "parked");
}

#[test]
fn an_empty_log_is_delivered_at_once() {
    let (dir, from) = store(0..0);
    let to = file(&dir.path().join("to"));
    run(&["relay", "--from", &from, "--to", &to]).ends(0);
    assert_eq!(run(&["cat", &from]).ends(0).stdout, "");
}

#[test]
fn a_diverged_sink_parks_and_the_others_get_everything() {
    let (dir, from) = store(0..10);
    let (good, bad) = (file(&dir.path().join("good")), file(&dir.path().join("bad")));
    run_with(&["copy", "-", &bad], log(0..5).replace("Deposited", "Withdrawn")).ends(0);
    let to = [format!("good={good}"), format!("bad={bad}")];
    let run = run(&["relay", "--from", &from, "--to", &to[0], "--to", &to[1]]).ends(1);
    assert!(run.stderr.contains("bad (parked)") && run.stderr.contains("diverged"), "{run:?}");
    assert_eq!(held(&good), log(0..10));
    assert_eq!(held(&bad), log(0..5).replace("Deposited", "Withdrawn"));
}

#[test]
fn an_event_too_large_for_a_datagram_parks_the_sink_by_name() {
    let (dir, from) = store(0..3);
    let large = format!("{{\"eventId\":3,\"stateChanged\":\"{}\"}}\n", "x".repeat(3000));
    run_with(&["copy", "-", &from], large).ends(0);
    let (socket, udp) = port();
    let state = dir.path().join("state");
    let args = ["relay", "--from", &from, "--state-dir", state.to_str().unwrap(), "--to"];
    let run1 = run(&[&args[..], &[&udp]].concat()).ends(1);
    assert!(run1.stderr.contains("udp (parked)") && run1.stderr.contains("event 3"), "{run1:?}");
    // With the option that its advice names, the same sink goes on from its checkpoint.
    run(&[&args[..], &[&format!("{udp}?oversize=skip")]].concat()).ends(0);
    for id in 0..3 {
        assert!(received(&socket).contains(&format!("\"eventId\":{id},")));
    }
}

#[test]
fn followed_killed_and_started_again_nothing_is_lost() {
    let mut total = 20_000;
    let (dir, from) = store(0..total);
    let archive = file(&dir.path().join("archive"));
    let state = dir.path().join("state-dir");
    let args = ["relay", "--from", &from, "--to", &archive, "--to", "-", "--follow", "--state-dir"];
    let args = [&args[..], &[state.to_str().unwrap()]].concat();
    let mut next = 0; // the lowest id that has not come yet
    let come = |next: &mut u64, line: &str| {
        let id = id_of(line);
        assert!(id <= *next, "a hole before event {id}: {next} has not come");
        *next = (*next).max(id + 1);
    };
    for round in 0..4 {
        let mut relay = program(&args).spawn().unwrap();
        let lines = lines_of(relay.stdout.take().unwrap());
        come(&mut next, &next_line(&lines));
        for _ in 0..(400 * round).min(total - next) {
            come(&mut next, &next_line(&lines));
        }
        signal(relay.id(), "KILL");
        relay.wait_with_output().unwrap();
        lines.iter().filter(|line| line.ends_with('}')).for_each(|line| come(&mut next, &line));
        run_with(&["copy", "-", &from], log(total..total + 10)).ends(0);
        total += 10;
    }
    let args: Vec<_> = args.into_iter().filter(|arg| *arg != "--follow").collect();
    run(&args).ends(0).lines().into_iter().for_each(|line| come(&mut next, line));
    assert_eq!(next, total);
    assert_eq!(held(&archive), log(0..total));
}

fn id_of(line: &str) -> u64 {
    serde_json::from_str::<serde_json::Value>(line).unwrap()["eventId"].as_u64().unwrap()
}

#[test]
fn the_second_relay_on_a_state_directory_fails() {
    let (dir, from) = store(0..3);
    let state = dir.path().join("state-dir");
    let args = ["relay", "--from", &from, "--to", "-", "--follow", "--state-dir", state.to_str().unwrap()];
    let mut first = program(&args).spawn().unwrap();
    let lines = lines_of(first.stdout.take().unwrap());
    assert_eq!(next_line(&lines), line(0));
    run(&args).ends(3).says(&["another relay", "--state-dir", state.to_str().unwrap()]);
    signal(first.id(), "TERM");
    finish(first).ends(0);
}

#[test]
fn a_name_keeps_its_target() {
    let (dir, from) = store(0..3);
    let state = dir.path().join("state-dir");
    let relay =
        |to: &str| run(&["relay", "--from", &from, "--to", to, "--state-dir", state.to_str().unwrap()]);
    let (_a, first) = port();
    let (_b, second) = port();
    relay(&format!("x={first}")).ends(0);
    let run = relay(&format!("x={second}"));
    assert_ne!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("`x`") || run.stderr.contains("x:") || run.stderr.contains("x "), "{run:?}");
    assert!(run.stderr.contains(first.trim_start_matches("udp://")), "{run:?}");
}

#[test]
fn from_snapshot_starts_a_new_sink_at_the_oldest_snapshot() {
    let (dir, from, kept) = pruned();
    let after_floor = |url: &str| run(&["cat", url, "--after", "4"]).ends(0).stdout;
    let to = file(&dir.path().join("relayed"));
    let args = ["relay", "--from", &from, "--to", &to];
    run(&args).ends(1).says(&["pruned", "event 5"]);
    run(&[&args[..], &["--from-snapshot"]].concat()).ends(0);
    assert_eq!(after_floor(&to), kept);
    let to = file(&dir.path().join("copied"));
    run(&["copy", &from, &to]).ends(1).says(&["pruned", "--from-snapshot"]);
    run(&["copy", &from, &to, "--from-snapshot"]).ends(0);
    assert_eq!(after_floor(&to), kept);
    run(&["copy", &from, &to]).ends(0);
    run(&["cat", &from]).ends(1).says(&["pruned", "read from event 5"]);
    let status: serde_json::Value =
        serde_json::from_str(&run(&["status", &from, "--json"]).ends(0).stdout).unwrap();
    assert_eq!((&status["firstId"], &status["events"]), (&5.into(), &5.into()));
}

#[test]
fn a_deadline_ends_a_relay_and_names_the_laggards() {
    let (dir, from) = store(0..20_000); // far more than a pipe takes
    let state = dir.path().join("state-dir");
    let args = ["relay", "--from", &from, "--to", "slow=-", "--deadline", "300ms", "--state-dir"];
    let mut relay = program(&[&args[..], &[state.to_str().unwrap()]].concat()).spawn().unwrap();
    let unread = relay.stdout.take().unwrap(); // open, but not read
    let run = finish(relay).ends(1);
    assert!(run.stderr.contains("slow") && run.stderr.contains("misses"), "{run:?}");
    drop(unread);
}

#[test]
fn a_sink_that_cannot_be_opened_stops_no_other() {
    let (dir, from) = store(0..10);
    let states = ["one", "other"].map(|name| dir.path().join(name).display().to_string());
    let args = ["relay", "--from", &from, "--to", "-", "--to", "udp://no-such-host.invalid:9000"];
    let ended = run(&[&args[..], &["--state-dir", &states[0]]].concat()).ends(3);
    assert_eq!(ended.says(&["udp (parked)", "no-such-host.invalid"]).stdout, log(0..10));
    let following = ["--state-dir", &states[1], "--follow", "--drain-timeout", "100ms"];
    let mut relay = program(&[&args[..], &following].concat()).spawn().unwrap();
    let lines = lines_of(relay.stdout.take().unwrap());
    for id in 0..10 {
        assert_eq!(next_line(&lines), line(id));
    }
    signal(relay.id(), "INT");
    finish(relay).ends(3).says(&["udp (", "misses", "no-such-host.invalid"]);
}

#[test]
fn a_listener_names_what_did_not_arrive_and_a_refill_fetches_it() {
    let (_dir, from) = store(0..10);
    for (refill, expected) in [(false, log([0, 1, 7, 8])), (true, log(0..10))] {
        let port = port().1; // free again by now
        let query = if refill { format!("?refill={from}") } else { String::new() };
        let mut tail =
            program(&["tail", &format!("{port}{query}"), "--origin", "--log", "info"]).spawn().unwrap();
        let lines = lines_of(tail.stdout.take().unwrap());
        let said = lines_of(tail.stderr.take().unwrap());
        let mut came = String::new();
        // Until the listener is there, datagrams are lost: that is what they do.
        let first = loop {
            run_with(&["copy", "-", &port], log(0..1)).ends(0);
            match lines.recv_timeout(std::time::Duration::from_millis(200)) {
                Ok(line) => break line,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("the listener ended"),
            }
        };
        run_with(&["copy", "-", &port], log(1..2)).ends(0);
        run_with(&["copy", "-", &port], log(7..9)).ends(0);
        came.push_str(&(first + "\n"));
        while came != expected {
            assert!(expected.starts_with(&came), "{came}");
            came.push_str(&(next_line(&lines) + "\n"));
        }
        if !refill {
            let gap = said.iter().find(|line| line.contains("between 1 and 7 did not arrive"));
            assert!(gap.is_some());
        }
        signal(tail.id(), "INT");
        finish(tail).ends(0);
    }
}
