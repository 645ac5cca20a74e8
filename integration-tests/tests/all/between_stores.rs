//! The program `hydrant` between any two stores on real servers: copied, compared, killed, stopped, refused.

use std::path::Path;
use std::time::Duration;

use fastrand::Rng;
use integration_tests::hydra_node::HydraNode;
use integration_tests::places::Place;
use integration_tests::program::{self, Running};
use tempfile::TempDir;
use test_servers::Service;

/// Returns a place on each server that exists. The missing servers are printed.
async fn places() -> Vec<Place> {
    let mut places = Vec::new();
    for service in Service::ALL {
        places.extend(Place::on(service).await);
    }
    places
}

async fn remove(places: Vec<Place>) {
    for place in places {
        place.remove().await;
    }
}

fn file(dir: &Path) -> String {
    format!("file:{}", dir.display())
}

fn seeded() -> Rng {
    let seed =
        std::env::var("HYDRANT_SEED").map_or_else(|_| Rng::new().u64(..), |seed| seed.parse().unwrap());
    println!("seed {seed} (HYDRANT_SEED={seed} replays this run)");
    Rng::with_seed(seed)
}

/// Returns the log of a hydra-node, in a new directory.
fn node(seed: u64) -> (TempDir, HydraNode) {
    let dir = tempfile::tempdir().unwrap();
    let node = HydraNode::new(dir.path(), seed);
    (dir, node)
}

/// The result of a run: its exit code, standard output and standard error.
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

async fn hydrant(args: &[&str]) -> Said {
    let output = program::run(args).await;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Said {
    #[track_caller]
    fn ends(self, code: i32) -> Self {
        let Self { stdout, stderr, .. } = &self;
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert_eq!(self.code, Some(code), "{stdout}\n{stderr}");
        self
    }

    #[track_caller]
    fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is missing: {}", self.stderr);
        }
        self
    }
}

#[track_caller]
fn starts_with(said: &Said, text: &str) {
    assert!(said.stdout.starts_with(text), "{}{}", said.stdout, said.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_in_all_stores_are_equal_byte_for_byte() {
    let places = places().await;
    let (dir, mut node) = node(seeded().u64(..));
    node.write(2000);
    node.rotate();
    node.write(500);
    let head = file(dir.path());
    let mut from = head.clone();
    for place in &places {
        let to = place.url("chain");
        starts_with(&hydrant(&["copy", &from, &to]).await.ends(0), "copied 2501 events");
        starts_with(&hydrant(&["copy", &from, &to]).await.ends(0), "copied 0 events");
        starts_with(&hydrant(&["verify", &to, "--against", &head]).await.ends(0), "2501 events are the same");
        assert_eq!(hydrant(&["verify", &to]).await.ends(0).stdout, "", "{to}");
        let status = hydrant(&["status", &to, "--json"]).await.ends(0).stdout;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert_eq!((&status["events"], &status["firstId"]), (&2501.into(), &0.into()), "{status}");
        from = to;
    }
    let (back, cat) =
        (file(&dir.path().join("back")), ["cat", &file(&dir.path().join("back"))].map(String::from));
    hydrant(&["copy", &from, &back]).await.ends(0);
    hydrant(&["verify", &back, "--against", &head]).await.ends(0);
    let expected = hydrant(&["cat", &head]).await.ends(0).stdout;
    assert!(hydrant(&[&cat[0], &cat[1]]).await.ends(0).stdout == expected, "every byte is the same");
    remove(places).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_interrupted_and_rerun_is_exact() {
    let (places, mut rng) = (places().await, seeded());
    let (dir, mut node) = node(rng.u64(..));
    node.write(2000);
    let head = file(dir.path());
    for place in &places {
        for round in 0..2 {
            let to = place.url(&format!("killed-{round}"));
            let mut copy = Running::start(["copy", &head, &to]);
            tokio::time::sleep(Duration::from_millis(rng.u64(20..1500))).await;
            if round % 2 == 0 {
                copy.kill();
                copy.end().await;
            } else {
                copy.terminate();
                let ended = copy.end().await.code();
                // 1: stopped before the end; 0: it had ended already; none: it did not handle signals yet.
                assert!(matches!(ended, Some(0 | 1) | None), "{ended:?}");
            }
            hydrant(&["copy", &head, &to]).await.ends(0);
            hydrant(&["verify", &to, "--against", &head]).await.ends(0);
        }
    }
    remove(places).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_relayed_to_all_servers_while_the_relay_is_killed() {
    let (places, mut rng) = (places().await, seeded());
    let (dir, mut node) = node(rng.u64(..));
    let state = tempfile::tempdir().unwrap();
    let (head, state) = (file(dir.path()), state.path().display().to_string());
    let to: Vec<String> = places.iter().flat_map(|place| ["--to".to_owned(), place.url("relayed")]).collect();
    if to.is_empty() {
        return;
    }
    let mut args = ["relay", "--from", &head, "--state-dir", &state].map(String::from).to_vec();
    args.extend(to);
    node.write(500);
    for _ in 0..4 {
        let mut relay = Running::start(args.iter().map(String::as_str).chain(["--follow"]));
        for _ in 0..rng.usize(1..4) {
            node.write(rng.usize(1..200));
            node.rotate();
            tokio::time::sleep(Duration::from_millis(rng.u64(1..300))).await;
        }
        relay.kill();
        relay.end().await;
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let said = hydrant(&args).await.ends(0);
    assert_eq!(said.stdout.lines().count(), places.len(), "{}", said.stdout);
    for place in &places {
        hydrant(&["verify", &place.url("relayed"), "--against", &head]).await.ends(0);
    }
    // Nothing is left to copy, and nothing is put again.
    hydrant(&args).await.ends(0);
    for place in &places {
        hydrant(&["verify", &place.url("relayed"), "--against", &head]).await.ends(0);
    }
    remove(places).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pruned_log_goes_from_its_oldest_snapshot_to_every_server() {
    let places = places().await;
    let (dir, mut node) = node(seeded().u64(..));
    node.write(300);
    node.rotate();
    node.write(200);
    let (head, whole) = (file(dir.path()), tempfile::tempdir().unwrap());
    let whole = file(whole.path());
    hydrant(&["copy", &head, &whole]).await.ends(0);
    let sealed = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let sealed: Vec<_> = sealed.filter(|path| path.to_string_lossy().contains("state-")).collect();
    std::fs::remove_file(&sealed[0]).unwrap();
    for place in &places {
        let to = place.url("pruned");
        hydrant(&["copy", &head, &to]).await.ends(1).says(&["pruned", "--from-snapshot"]);
        starts_with(&hydrant(&["copy", &head, &to, "--from-snapshot"]).await.ends(0), "copied 201 events");
        starts_with(&hydrant(&["verify", &to, "--against", &head]).await.ends(0), "201 events are the same");
        let compared = hydrant(&["verify", &to, "--against", &whole]).await.ends(1);
        assert!(compared.stdout.contains("pruned from"), "{}", compared.stdout);
        hydrant(&["verify", &to, "--against", &whole, "--common"]).await.ends(0);
        starts_with(&hydrant(&["copy", &head, &to]).await.ends(0), "copied 0 events");
    }
    remove(places).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_on_a_server_is_compacted_and_pruned_by_the_program() {
    let places = places().await;
    let (dir, mut node) = node(seeded().u64(..));
    let head = file(dir.path());
    for step in 0..4 {
        if step == 3 {
            node.rotate();
        }
        node.write(20);
        for place in &places {
            hydrant(&["copy", &head, &place.url("kept")]).await.ends(0);
        }
    }
    for place in &places {
        let to = place.url("kept");
        let prune = ["prune", &to, "--before", "1000000"];
        match place.service() {
            Service::Kinesis => {
                hydrant(&["compact", &to]).await.ends(2).says(&["nothing to merge"]);
                hydrant(&prune).await.ends(2).says(&["nothing is pruned"]);
                continue;
            }
            Service::Postgres => drop(hydrant(&["compact", &to]).await.ends(2).says(&["nothing to merge"])),
            Service::S3 => starts_with(&hydrant(&["compact", &to]).await.ends(0), "merged 3 segments into 1"),
        }
        hydrant(&["verify", &to, "--against", &head]).await.ends(0);
        starts_with(&hydrant(&prune).await.ends(0), "the log begins with event ");
        assert_eq!(hydrant(&["cat", &to, "--snapshot"]).await.ends(0).stdout.lines().count(), 21);
        hydrant(&["verify", &to, "--against", &head, "--common"]).await.ends(0);
        starts_with(&hydrant(&prune).await.ends(0), "nothing was pruned");
    }
    remove(places).await;
}

/// Returns wrong URLs, each with words that the error must contain.
fn wrong(place: &Place) -> Vec<(String, Vec<&'static str>)> {
    let url = place.url("wrong");
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut wrong = vec![(url.replace(&place.address().to_string(), &unused), vec!["unavailable"])];
    match place.service() {
        Service::Postgres => {
            let (credentials, _) = url.split_once('@').unwrap();
            let (user, _) = credentials.rsplit_once(':').unwrap();
            wrong.push((url.replace(credentials, &format!("{user}:geheim")), vec!["denied", "password"]));
            wrong.push((url.replace("?sslmode", "-missing?sslmode"), vec!["database"]));
        }
        Service::S3 => wrong.push((url.replace("s3://", "s3://missing-"), vec!["no such bucket"])),
        Service::Kinesis => {
            wrong.push((url.replace("kinesis://", "kinesis://missing-"), vec!["no such stream"]));
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_the_server_and_hide_its_password() {
    let places = places().await;
    let (dir, mut node) = node(1);
    node.write(3);
    let head = file(dir.path());
    for (place, (url, words)) in
        places.iter().flat_map(|place| wrong(place).into_iter().map(move |it| (place, it)))
    {
        println!("{}: {words:?}", place.service());
        for args in [
            &["copy", &head, &url][..],
            &["cat", &url],
            &["status", &url],
            &["verify", &url, "--against", &head],
            &["relay", "--from", &head, "--to", &url, "--deadline", "2s"],
        ] {
            let said = hydrant(args).await.ends(3).says(&words);
            assert!(!said.stderr.contains("geheim") && !said.stdout.contains("geheim"), "{}", said.stderr);
        }
    }
    for place in &places {
        // A log that was never written does not count as an empty one.
        hydrant(&["cat", &place.url("never-written")]).await.ends(3).says(&["never-written"]);
    }
    remove(places).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_of_another_history_is_left_alone_on_every_server() {
    let places = places().await;
    let ((dir, mut one), (other_dir, mut other)) = (node(1), node(2));
    one.write(100);
    other.write(50);
    let (one, other) = (file(dir.path()), file(other_dir.path()));
    for place in &places {
        let to = place.url("other");
        hydrant(&["copy", &other, &to]).await.ends(0);
        hydrant(&["copy", &one, &to]).await.ends(1).says(&["diverged", "choose another target"]);
        let relay = ["relay", "--from", &one, "--to", &to];
        hydrant(&relay).await.ends(1).says(&["parked", "diverged"]);
        hydrant(&["verify", &to, "--against", &other]).await.ends(0);
        let compared = hydrant(&["verify", &to, "--against", &one]).await.ends(1);
        assert!(compared.stdout.contains("digest"), "{}", compared.stdout);
    }
    remove(places).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_may_come_from_the_environment_and_the_url_wins() {
    let Some(place) = Place::on(Service::Postgres).await else { return };
    let (dir, mut node) = node(1);
    node.write(3);
    let (head, url) = (file(dir.path()), place.url("log"));
    hydrant(&["copy", &head, &url]).await.ends(0);
    let (credentials, rest) = url.split_once('@').unwrap();
    let (user, password) = credentials.rsplit_once(':').unwrap();
    let without = format!("{user}@{rest}");
    for (url, given, code) in [(&without, password, 0), (&without, "geheim", 3), (&url, "geheim", 0)] {
        let mut cat = std::process::Command::new(program::hydrant());
        let output = cat.args(["cat", url]).env("PGPASSWORD", given).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(!said.contains("geheim"), "{said}");
    }
    place.remove().await;
}
