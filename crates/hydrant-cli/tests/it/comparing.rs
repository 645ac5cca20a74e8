//! `verify A --against B`: two stores, event by event.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::Value;

use crate::kit::{
    file, finish, held, line, lines_of, log, next_line, program, pruned, run, run_with, signal, store,
};

/// A store beside the first, with these lines.
fn beside(dir: &tempfile::TempDir, name: &str, lines: &str) -> String {
    let url = file(&dir.path().join(name));
    run_with(&["copy", "-", &url], lines).ends(0);
    url
}

fn json(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn equal_copies_are_reported_with_their_count() {
    let (dir, a) = store(0..5000);
    let b = file(&dir.path().join("copy"));
    run(&["copy", &a, &b]).ends(0);
    let same = run(&["verify", &b, "--against", &a]).ends(0);
    assert_eq!((&*same.stderr, same.lines().len()), ("", 1));
    assert!(same.stdout.starts_with("5000 events are the same, 0 to 4999; none differs"), "{same:?}");
    let report = json(&run(&["verify", &b, "--against", &a, "--json"]).ends(0).stdout);
    assert_eq!(
        (&report[0]["same"], &report[0]["firstId"], &report[0]["lastId"]),
        (&5000.into(), &0.into(), &4999.into())
    );
}

#[test]
fn two_empty_logs_are_equal_with_nothing_compared() {
    let (dir, a) = store(0..0);
    let b = beside(&dir, "b", "");
    assert!(run(&["verify", &a, "--against", &b]).ends(0).stdout.starts_with("0 events are the same"));
}

#[test]
fn each_differing_member_is_named_with_both_digests() {
    let event = |more: &str, payload: &str| format!("{{\"eventId\":3,\"stateChanged\":{payload}{more}}}\n");
    let base = event(r#","time":"t","metadata":{"m":1},"more":[1]"#, "1.0");
    let differing = [
        ("payload", event(r#","time":"t","metadata":{"m":1},"more":[1]"#, "1.00")),
        ("time", event(r#","time":"u","metadata":{"m":1},"more":[1]"#, "1.0")),
        ("time", event(r#","metadata":{"m":1},"more":[1]"#, "1.0")),
        ("metadata", event(r#","time":"t","metadata":{"m":2},"more":[1]"#, "1.0")),
        ("isSnapshot", event(r#","time":"t","metadata":{"m":1},"isSnapshot":true,"more":[1]"#, "1.0")),
        ("other members", event(r#","time":"t","metadata":{"m":1},"more":[2]"#, "1.0")),
        ("payload, time, metadata, other members", event("", "2")),
    ];
    let (dir, a) = store(0..3);
    run_with(&["copy", "-", &a], &*(base.clone() + &log(4..6))).ends(0);
    for (index, (parts, other)) in differing.into_iter().enumerate() {
        let b = beside(&dir, &index.to_string(), &(log(0..3) + &other + &log(4..6)));
        let digest = |url: &str| {
            let before = run(&["cat", url, "--until", "3"]).ends(0).stdout;
            let until = file(&dir.path().join(format!("until-3-{index}-{}", url == a)));
            run_with(&["copy", "-", &until], before).ends(0);
            json(&run(&["status", &until, "--json"]).ends(0).stdout)[0]["checkpoint"]["digest"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let report = run(&["verify", &b, "--against", &a]).ends(1);
        let expected = format!("event 3: {parts}: digest {} in {b}, {} in {a}", digest(&b), digest(&a));
        assert_eq!(report.lines()[0], expected);
        assert!(report.lines()[1].starts_with("5 events are the same, 0 to 5; 1 differs"), "{report:?}");
        let report = json(&run(&["verify", &b, "--against", &a, "--json"]).ends(1).stdout);
        assert_eq!(
            (&report[0]["eventId"], &report[0]["members"].as_array().unwrap().join(", ")),
            (&3.into(), &parts.to_owned())
        );
        assert_eq!(
            (&report[0]["digest"], &report[0]["againstDigest"]),
            (&digest(&b).into(), &digest(&a).into())
        );
    }
}

trait Join {
    fn join(&self, with: &str) -> String;
}

impl Join for Vec<Value> {
    fn join(&self, with: &str) -> String {
        self.iter().map(|value| value.as_str().unwrap()).collect::<Vec<_>>().join(with)
    }
}

#[test]
fn events_of_one_side_only_are_shown_in_runs() {
    let (dir, all) = store(0..30);
    let some = beside(&dir, "some", &log([0, 1, 5, 7].into_iter().chain(9..25)));
    let expected = |url: &str| {
        ["events 2 to 4 (3)", "event 6", "event 8", "events 25 to 29 (5)"]
            .map(|ids| format!("{ids}: missing in {url}"))
    };
    for (a, b) in [(&some, &all), (&all, &some)] {
        let report = run(&["verify", a, "--against", b]).ends(1);
        assert_eq!(report.lines()[..4], expected(&some), "{report:?}");
        assert!(
            report.lines()[4]
                .ends_with(&format!("20 events are the same, 0 to 24; 10 are missing in {some}")),
            "{report:?}"
        );
    }
    let report = json(&run(&["verify", &some, "--against", &all, "--json"]).ends(1).stdout);
    assert_eq!(
        (&report[0]["missingIn"], &report[0]["firstId"], &report[0]["lastId"]),
        (&some.into(), &2.into(), &4.into())
    );
    assert_eq!((&report[4]["missing"], &report[4]["extra"]), (&10.into(), &0.into()));
}

#[test]
fn the_range_can_be_given() {
    let (dir, all) = store(0..30);
    let head = beside(&dir, "head", &log(0..20));
    run(&["verify", &head, "--against", &all]).ends(1);
    run(&["verify", &head, "--against", &all, "--until", "19"]).ends(0);
    let part = run(&["verify", &head, "--against", &all, "--after", "4", "--until", "9"]).ends(0);
    assert!(part.stdout.starts_with("5 events are the same, 5 to 9"), "{part:?}");
    for args in [["--after", "3"], ["--until", "3"]] {
        run(&[&["verify", &all][..], &args].concat()).ends(2).says(&["--against"]);
    }
    run(&["verify", &all, "--common"]).ends(2).says(&["--against"]);
}

#[test]
fn of_many_differences_the_first_are_shown_and_all_are_counted() {
    let (dir, a) = store(0..1000);
    let b = beside(&dir, "b", &log(0..1000).replace("Deposited", "Withdrawn"));
    let report = run(&["verify", &a, "--against", &b]).ends(1);
    assert_eq!(report.lines().len(), 22, "{report:?}");
    assert!(report.lines()[19].starts_with("event 19: payload"));
    assert_eq!(report.lines()[20], "980 more differences are not shown");
    assert!(report.lines()[21].starts_with("0 events are the same; 1000 differ"), "{report:?}");
}

#[test]
fn a_pruned_log_is_named_and_its_common_part_is_comparable() {
    let (dir, some, kept) = pruned();
    let all = beside(&dir, "all", &(log(0..5) + &kept));
    for (a, b) in [(&some, &all), (&all, &some)] {
        let report = run(&["verify", a, "--against", b]).ends(1);
        let advice = format!("events before 5: pruned from {some}; compare what both keep with --common");
        assert_eq!(report.lines()[0], advice);
        assert!(report.lines()[1].starts_with("5 events are the same, 5 to 9"), "{report:?}");
        let report = run(&["verify", a, "--against", b, "--common"]).ends(0);
        assert_eq!(report.lines()[0], format!("events before 5: pruned from {some}"));
        assert!(report.lines()[1].starts_with("5 events are the same, 5 to 9"), "{report:?}");
    }
    // Both without what was pruned: nothing is missing in either.
    let copy = file(&dir.path().join("copy"));
    run(&["copy", &some, &copy, "--from-snapshot"]).ends(0);
    let report = run(&["verify", &copy, "--against", &some]).ends(0);
    assert_eq!(report.lines().len(), 1, "{report:?}");
    // From where both have everything on, nothing was pruned.
    run(&["verify", &some, "--against", &all, "--after", "4"]).ends(0);
    let input = run_with(&["verify", "-", "--against", &some], held(&all)).ends(1);
    assert!(input.lines()[0].contains("events before 5: pruned"), "{input:?}");
    run_with(&["verify", "-", "--against", &some, "--common"], held(&all)).ends(0);
    run_with(&["verify", "-", "--against", &some], &*kept).ends(0);
}

#[test]
fn standard_input_can_be_one_side() {
    let (_dir, url) = store(0..10);
    run_with(&["verify", "-", "--against", &url], log(0..10)).ends(0);
    run_with(&["verify", &url, "--against", "-"], log(0..10)).ends(0);
    let report = run_with(&["verify", "-", "--against", &url], log(0..9)).ends(1);
    assert_eq!(report.lines()[0], "event 9: missing in -");
    let garbage = run_with(&["verify", "-", "--against", &url], log(0..4) + "garbage").ends(1);
    assert!(garbage.stderr.contains("standard input: line 5"), "{garbage:?}");
    assert!(garbage.stdout.contains("4 events are the same"), "{garbage:?}");
}

#[test]
fn a_comparison_that_makes_no_sense_is_wrong_usage() {
    let (_dir, url) = store(0..3);
    for (a, b, says) in [
        ("-", "-", "once"),
        (&*url, &*url, "with itself"),
        (&*url, "udp://127.0.0.1:9", "hydrant tail"),
        ("udp://127.0.0.1:9", &*url, "hydrant tail"),
    ] {
        run(&["verify", a, "--against", b]).ends(2).says(&[says]);
    }
}

#[test]
fn a_missing_or_damaged_store_ends_a_comparison_with_its_error() {
    let (dir, url) = store(0..10);
    let missing = file(&dir.path().join("missing"));
    run(&["verify", &url, "--against", &missing]).ends(3).says(&["no such directory"]);
    run(&["verify", &missing, "--against", &url]).ends(3).says(&["no such directory"]);
    let damaged = dir.path().join("damaged");
    std::fs::create_dir(&damaged).unwrap();
    let text = log(0..10).replace(&line(7), &line(7).replace("eventId", "eventld"));
    std::fs::write(damaged.join("state"), text).unwrap();
    let report = run(&["verify", &file(&damaged), "--against", &url]).ends(1).says(&["line 8"]);
    assert!(report.stdout.starts_with("7 events are the same, 0 to 6"), "{report:?}");
    let torn = dir.path().join("torn");
    std::fs::create_dir(&torn).unwrap();
    std::fs::write(torn.join("state"), log(0..10) + "{\"eventId\":10,").unwrap();
    run(&["verify", &file(&torn), "--against", &url]).ends(1).says(&["no whole event"]);
    run(&["verify", &url, "--against", &file(&torn)]).ends(1).says(&["no whole event"]);
}

#[test]
fn ctrl_c_says_how_far_the_comparison_came() {
    let (_dir, url) = store(0..10);
    let mut child = program(&["verify", "-", "--against", &url]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let report = lines_of(child.stdout.take().unwrap());
    let input = log(0..1).replace("Deposited", "Withdrawn") + &log(1..4);
    stdin.write_all(input.as_bytes()).unwrap();
    assert!(next_line(&report).starts_with("event 0: payload"));
    signal(child.id(), "INT");
    assert!(next_line(&report).starts_with("3 events are the same, 1 to 3; 1 differs so far"));
    finish(child).ends(1).says(&["behind event 3", "--after 3"]);
}
