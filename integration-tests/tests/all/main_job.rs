//! The main job: the log of a hydra-node, relayed by the program `hydrant` to a file store, a UDP listener and
//! standard output, killed with SIGKILL again and again.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use futures_util::StreamExt;
use hydrant::store::envelope;
use hydrant::{EventSource, ReadFrom};
use hydrant_file::{FileSource, FileSourceOptions};
use hydrant_udp::{UdpListener, UdpListenerOptions};
use integration_tests::hydra_node::HydraNode;
use integration_tests::program::{self, Running};
use tempfile::TempDir;

/// One log and three sinks, over all runs of the relay.
struct Job {
    dir: TempDir,
    node: HydraNode,
    rng: Rng,
    listener: Arc<UdpListener>,
    /// The lines of standard output, over all runs.
    heard: Vec<String>,
}

impl Job {
    async fn new() -> Self {
        let seed =
            std::env::var("HYDRANT_SEED").map_or_else(|_| Rng::new().u64(..), |seed| seed.parse().unwrap());
        println!("seed {seed} (HYDRANT_SEED={seed} replays this run)");
        let mut rng = Rng::with_seed(seed);
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("head")).unwrap();
        let node = HydraNode::new(&dir.path().join("head"), rng.u64(..));
        // The kernel may drop datagrams of a burst, and those sent before a kill are not sent again, as always with
        // UDP. The listener finds the missing ids, and fetches the events from the log itself.
        let log = FileSource::open(dir.path().join("head"), FileSourceOptions::default()).await.unwrap();
        let options = UdpListenerOptions::default().with_refill(Arc::new(log));
        let listener = Arc::new(UdpListener::open("127.0.0.1:0", options).await.unwrap());
        Self { dir, node, rng, listener, heard: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn url(&self, name: &str) -> String {
        format!("file:{}", self.path(name).display())
    }

    fn relay(&self, more: &[&str]) -> Running {
        let udp = format!("udp://{}?oversize=chunk", self.listener.local_addr());
        let (head, copy) = (self.url("head"), format!("copy={}", self.url("copy")));
        let checkpoints = self.path("checkpoints").display().to_string();
        let args = [
            "relay",
            "--from",
            &head,
            "--to",
            &copy,
            "--to",
            &udp,
            "--to",
            "out=-",
            "--state-dir",
            &checkpoints,
        ];
        Running::start(args.iter().chain(more))
    }

    /// Reads the lines of the relay until it ends.
    async fn hear_all(&mut self, relay: &mut Running) {
        while let Some(line) = relay.line().await {
            self.heard.push(line);
        }
    }

    /// Kills the relay after it has printed `lines` lines.
    async fn kill_after_lines(&mut self, mut relay: Running, lines: usize) {
        for _ in 0..lines {
            self.heard.push(relay.line().await.expect("the relay is killed before its end"));
        }
        self.kill(relay).await;
    }

    /// Kills the relay when the file store has `bytes` more bytes. Reads its standard output meanwhile.
    async fn kill_after_bytes(&mut self, mut relay: Running, bytes: u64) {
        let copy = self.path("copy").join("state");
        let size = || std::fs::metadata(&copy).map_or(0, |state| state.len());
        let enough = size() + bytes;
        let mut look = tokio::time::interval(Duration::from_millis(1));
        while size() < enough {
            tokio::select! {
                line = relay.line() => self.heard.push(line.expect("the relay is killed before its end")),
                _ = look.tick() => {}
            }
        }
        self.kill(relay).await;
    }

    async fn kill(&mut self, mut relay: Running) {
        relay.kill();
        // What the relay had written is in the pipe, and its checkpoint may count it.
        self.hear_all(&mut relay).await;
        let end = relay.end().await;
        assert!(!end.success(), "it was to be killed, and ended with {end}");
    }

    /// Waits until standard output has every event that the node has written.
    async fn hear_last(&mut self, relay: &mut Running) {
        let last = self.log().pop().unwrap();
        while self.heard.last() != Some(&last) {
            self.heard.push(relay.line().await.expect("the relay follows"));
        }
    }

    /// Returns the whole log, one envelope each. Snapshots are marked in the envelope; hydra-node marks them in the
    /// change.
    fn log(&self) -> Vec<String> {
        let event = |(number, line): (u64, &String)| {
            envelope::decode_hydra(line.clone().into_bytes().into(), number).unwrap().to_string()
        };
        (0..).zip(self.node.lines()).map(event).collect()
    }

    /// Returns the names of the files of a log.
    fn files(&self, name: &str) -> BTreeSet<String> {
        let names = std::fs::read_dir(self.path(name)).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name == "state" || name.starts_with("state-")).collect()
    }

    async fn nothing_is_lost(&self) {
        let log = self.log();

        let cat = program::run(["cat", &self.url("copy")]).await;
        assert!(cat.status.success());
        let copy = String::from_utf8(cat.stdout).unwrap();
        assert!(copy.lines().eq(log.iter()), "the file store holds the log, byte for byte, in order");
        let verify = program::run(["verify", &self.url("copy")]).await;
        assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stdout));

        assert_eq!(self.files("copy"), self.files("head"), "the file store seals where the node does");

        let mut seen = HashSet::new();
        let firsts: Vec<_> = self.heard.iter().filter(|line| seen.insert(*line)).collect();
        assert!(firsts.into_iter().eq(&log), "standard output had every event, none before its turn");
        println!("standard output: {} of {} lines were repeated", self.heard.len() - log.len(), log.len());

        let received: Vec<_> = self
            .listener
            .follow(ReadFrom::Origin)
            .take(log.len())
            .map(|event| event.unwrap().to_string())
            .collect()
            .await;
        assert!(received == log, "the listener has every event, in order");
        let sent = self.listener.stats();
        println!("listener: {sent:?}");
        assert!(sent.events > 0, "not all of it came from the refill");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_killed_in_the_middle_of_a_log_loses_nothing() {
    let mut job = Job::new().await;
    job.node.write(20_000);
    for _ in 0..4 {
        let (relay, bytes) = (job.relay(&[]), job.rng.u64(1..500_000));
        job.kill_after_bytes(relay, bytes).await;
    }
    for _ in 0..4 {
        let (relay, lines) = (job.relay(&[]), job.rng.usize(1..1500));
        job.kill_after_lines(relay, lines).await;
    }
    let mut relay = job.relay(&[]);
    job.hear_all(&mut relay).await;
    let end = relay.end().await;
    assert!(end.success(), "{end}");
    job.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_killed_beside_a_rotating_node_loses_nothing() {
    let mut job = Job::new().await;
    job.node.write(100);
    for _ in 0..5 {
        let relay = job.relay(&["--follow"]);
        let lines = job.rng.usize(1..90);
        for _ in 0..job.rng.usize(1..4) {
            let count = job.rng.usize(30..200);
            job.node.write(count);
            job.node.rotate();
        }
        job.kill_after_lines(relay, lines).await;
        job.node.write(60);
    }
    let mut relay = job.relay(&["--follow"]);
    job.node.write(500);
    job.hear_last(&mut relay).await;
    relay.terminate();
    job.hear_all(&mut relay).await;
    let end = relay.end().await;
    assert!(end.success(), "{end}");
    job.nothing_is_lost().await;
}
