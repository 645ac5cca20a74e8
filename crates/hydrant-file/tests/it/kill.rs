//! A real process that appends, and is killed with SIGKILL: nothing that was acknowledged is lost.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::{event, id, open, read, snapshot};
use hydrant::{EventSink, ReadFrom};

/// The directory that the child appends to; without it, the child's test does nothing.
const DIR: &str = "HYDRANT_TEST_KILL_DIR";
/// The size of every batch; a log holds whole batches.
const BATCH_EVENTS: u64 = 3;
/// Every so many batches, a snapshot opens a segment.
const ROTATE_BATCHES: u64 = 5;

/// Not a test of its own: what the process does that is to be killed.
#[tokio::test]
async fn child_appends_until_it_is_killed() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = open(Path::new(&dir)).await;
    let mut next = store.checkpoint().await.unwrap().id().map_or(0, |head| head.get() + 1);
    let mut out = std::io::stdout();
    loop {
        let mut batch: Vec<_> = (next..next + BATCH_EVENTS).map(event).collect();
        if (next / BATCH_EVENTS).is_multiple_of(ROTATE_BATCHES) {
            batch[0] = snapshot(next);
        }
        crate::support::append(&store, &batch).await.unwrap();
        next += BATCH_EVENTS;
        writeln!(out, "acknowledged {}", next - 1).unwrap();
        out.flush().unwrap();
    }
}

fn spawn(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child_appends_until_it_is_killed", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_killed_process_has_lost_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(2026);
    let mut head = None;
    for round in 0..8 {
        let mut child = spawn(dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = head;
        let mut left = random.u32(0..60);
        while left > 0 || acknowledged == head {
            let line = lines.next().expect("the child appends until it is killed").unwrap();
            if let Some((_, id)) = line.split_once("acknowledged ") {
                acknowledged = Some(id.parse::<u64>().unwrap());
                left = left.saturating_sub(1);
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had said before it died counts, too.
        for line in lines.map_while(Result::ok) {
            if let Some((_, id)) = line.split_once("acknowledged ") {
                acknowledged = id.parse().ok().or(acknowledged);
            }
        }

        let store = open(dir.path()).await;
        let events = read(&store, ReadFrom::Origin).await;
        let found = events.last().map(|event| event.id().get());
        assert!(
            found >= acknowledged,
            "round {round}: {acknowledged:?} was acknowledged, {found:?} is there"
        );
        assert!(found <= acknowledged.map(|id| id + BATCH_EVENTS), "round {round}: at most one batch more");
        assert_eq!(events.len() as u64 % BATCH_EVENTS, 0, "round {round}: whole batches");
        for (number, event) in (0..).zip(&events) {
            assert_eq!(event.id(), id(number), "round {round}");
        }
        store.close().await.unwrap();
        head = found;
    }
}
