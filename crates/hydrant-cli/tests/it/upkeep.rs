//! `hydrant prune` and `hydrant compact`.

use hydrant::{Checkpoint, CheckpointEntry, Primary};
use hydrant_file::{FileStore, FileStoreOptions};

use crate::kit::{file, held, line, run, run_with};

/// Each tenth event is a snapshot.
fn log(end: u64) -> String {
    let line = |id: u64| {
        let line = line(id);
        if id.is_multiple_of(10) { line.replacen('{', "{\"isSnapshot\":true,", 1) } else { line }
    };
    (0..end).map(|id| line(id) + "\n").collect()
}

#[test]
fn prune_stops_at_a_snapshot_and_prints_the_new_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let url = file(&dir.path().join("log"));
    run_with(&["copy", "-", &url], log(35)).ends(0);
    let printed = run(&["prune", &url, "--before", "5"]).ends(0).stdout;
    assert!(printed.starts_with("nothing was pruned: the log begins with event 0"), "{printed}");
    assert_eq!(run(&["prune", &url, "--before", "25"]).ends(0).stdout, "the log begins with event 20\n");
    assert_eq!(run(&["cat", &url, "--after", "19"]).ends(0).lines().len(), 15);
    let printed = run(&["prune", &url, "--before", "99", "--json"]).ends(0).stdout;
    assert_eq!(printed, "{\"oldest\":30,\"moved\":true}\n");
    run(&["prune", &url]).ends(2).says(&["--before"]);
    run(&["prune", "udp://127.0.0.1:9", "--before", "5"]).ends(2);
}

#[tokio::test]
async fn what_a_secondary_still_needs_is_not_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, url) = (dir.path().join("log"), file(&dir.path().join("log")));
    run_with(&["copy", "-", &url], log(35)).ends(0);
    // A fan-out over it once had this secondary, and has not detached it.
    let store = FileStore::open(&dir, FileStoreOptions::default()).await.unwrap();
    let entry = CheckpointEntry::new("mail", "smtp", Checkpoint::Empty);
    store.roster().swap("mail", None, Some(&entry)).await.unwrap();
    store.close().await.unwrap();
    let printed = run(&["prune", &url, "--before", "25"]).ends(0).stdout;
    assert!(
        printed.starts_with("nothing was pruned") && printed.contains("a secondary still needs"),
        "{printed}"
    );
    assert_eq!(held(&url).lines().count(), 35);
}

#[test]
fn what_has_nothing_to_merge_says_so() {
    let (_dir, url) = crate::kit::store(0..3);
    run(&["compact", &url]).ends(2).says(&["nothing to merge", "S3"]);
}
