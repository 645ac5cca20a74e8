//! Checkpoints in a table: they move by compare-and-swap only, whole, whatever happens to the connection.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use hydrant::{
    Batch, Checkpoint, CheckpointEntry, CheckpointStore, Checkpointed, Digest, ErrorKind, EventId, EventSink,
    FanOut, FanOutOptions, MemoryStore, Retry, SecondaryOptions,
};
use hydrant_postgres::{PostgresCheckpoints, PostgresCheckpointsOptions};
use test_servers::proxy::{Fault, Tcp, When};

use crate::database::{Schema, address, client, events, named, server, terminate, through};

/// As it stands on the wire; `READ COMMITTED` does not end with a zero.
const COMMIT: &[u8] = b"COMMIT\0";

fn options(schema: &Schema) -> PostgresCheckpointsOptions {
    PostgresCheckpointsOptions::default().with_schema(&schema.name)
}

fn entry(name: &str, checkpoint: Checkpoint) -> CheckpointEntry {
    CheckpointEntry::new(name, "s3://bucket", checkpoint)
}

fn at(id: u64) -> Checkpoint {
    Checkpoint::At { id: EventId::new(id), digest: Digest::from([7; 16]) }
}

#[tokio::test]
async fn a_name_with_nul_is_invalid_and_a_closed_handle_is_closed() {
    let Some(url) = server() else { return };
    let schema = Schema::new(&url);
    let checkpoints = PostgresCheckpoints::open(url.as_str(), options(&schema)).await.unwrap();
    let nul = checkpoints.swap("\0", None, Some(&entry("\0", at(1)))).await.unwrap_err();
    assert_eq!(nul.kind(), ErrorKind::Invalid, "{nul}");
    checkpoints.close().await.unwrap();
    assert_eq!(checkpoints.load("a").await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn scopes_keep_entries_of_one_name_apart() {
    let Some(url) = server() else { return };
    let schema = Schema::new(&url);
    let open = |scope: &str| PostgresCheckpoints::open(url.as_str(), options(&schema).with_scope(scope));
    let (one, other) = (open("orders").await.unwrap(), open("payments").await.unwrap());
    one.swap("archive", None, Some(&entry("archive", at(1)))).await.unwrap();
    other.swap("archive", None, Some(&entry("archive", at(2)))).await.unwrap();
    assert_eq!(one.load("archive").await.unwrap(), Some(entry("archive", at(1))));
    assert_eq!(other.list().await.unwrap(), [entry("archive", at(2))]);
}

#[tokio::test]
async fn ten_that_open_at_once_make_one_table() {
    let Some(url) = server() else { return };
    let schema = Schema::new(&url);
    let opened = join_all((0..10).map(|_| PostgresCheckpoints::open(url.as_str(), options(&schema)))).await;
    for checkpoints in opened {
        assert_eq!(checkpoints.unwrap().list().await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_lost_answer_to_commit_is_found_out_by_loading() {
    let Some(url) = server() else { return };
    let schema = Schema::new(&url);
    let proxy = Tcp::start(address(&url)).await;
    let url = through(&url, proxy.address());
    let checkpoints = PostgresCheckpoints::open(url.as_str(), options(&schema)).await.unwrap();
    checkpoints.swap("sink", None, Some(&entry("sink", at(1)))).await.unwrap();
    for (fault, lands) in [(Fault::LoseAnswer, true), (Fault::CutBefore, false)] {
        let held = checkpoints.load("sink").await.unwrap().unwrap();
        let new = entry("sink", at(held.checkpoint.id().unwrap().get() + 1));
        proxy.once(When::Sends(COMMIT.to_vec()), fault);
        let open = checkpoints.swap("sink", Some(&held), Some(&new)).await.unwrap_err();
        assert_eq!((open.kind(), open.retry()), (ErrorKind::Unavailable, Retry::AfterCheckpoint), "{open}");
        let expected = if lands { &new } else { &held };
        assert_eq!(checkpoints.load("sink").await.unwrap().as_ref(), Some(expected), "{fault:?}");
    }
}

#[tokio::test]
async fn before_commit_nothing_is_applied_and_it_says_so() {
    let Some(url) = server() else { return };
    let schema = Schema::new(&url);
    let proxy = Tcp::start(address(&url)).await;
    let url = through(&url, proxy.address());
    let checkpoints = PostgresCheckpoints::open(url.as_str(), options(&schema)).await.unwrap();
    let held = entry("sink", at(1));
    checkpoints.swap("sink", None, Some(&held)).await.unwrap();
    proxy.once(When::Sends(b"BEGIN".to_vec()), Fault::LoseAnswer);
    let lost = checkpoints.swap("sink", Some(&held), None).await.unwrap_err();
    assert_eq!((lost.kind(), lost.retry()), (ErrorKind::Unavailable, Retry::Safe), "{lost}");
    // The very same call again, on a connection of its own.
    checkpoints.swap("sink", Some(&held), None).await.unwrap();
    assert_eq!(checkpoints.load("sink").await.unwrap(), None);
}

#[tokio::test]
async fn loading_waits_for_a_swap_that_is_still_under_way() {
    let Some(url) = server() else { return };
    let schema = Schema::new(&url);
    let checkpoints = PostgresCheckpoints::open(url.as_str(), options(&schema)).await.unwrap();
    let (held, new) = (entry("sink", at(1)), entry("sink", at(2)));
    checkpoints.swap("sink", None, Some(&held)).await.unwrap();
    // A swap whose runner is gone, and whose COMMIT the server reads late.
    let proxy = Tcp::start(address(&url)).await;
    let late =
        PostgresCheckpoints::open(named(&through(&url, proxy.address()), &schema.name), options(&schema));
    let late = late.await.unwrap();
    proxy.once(When::Sends(COMMIT.to_vec()), Fault::Delay(Duration::from_secs(3)));
    let swap = late.swap("sink", Some(&held), Some(&new));
    let load = async {
        // Once the late one holds its lock.
        let watcher = client(&url).await;
        let sql = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) \
                   WHERE locktype = 'advisory' AND granted AND application_name = $1";
        while watcher.query_one(sql, &[&schema.name]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::task::yield_now().await;
        }
        checkpoints.load("sink").await
    };
    let (swapped, loaded) = tokio::join!(swap, load);
    swapped.unwrap();
    assert_eq!(loaded.unwrap(), Some(new));
}

#[tokio::test]
async fn a_terminated_session_costs_one_safe_error() {
    let Some(url) = server() else { return };
    let schema = Schema::new(&url);
    let name = schema.name.clone();
    let checkpoints = PostgresCheckpoints::open(named(&url, &name), options(&schema)).await.unwrap();
    let held = entry("sink", at(1));
    checkpoints.swap("sink", None, Some(&held)).await.unwrap();
    assert_eq!(terminate(&url, &name).await, 1);
    for _ in 0..2 {
        match checkpoints.load("sink").await {
            Ok(loaded) => return assert_eq!(loaded, Some(held)),
            Err(error) => {
                assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
            }
        }
    }
    panic!("the second call made no new connection");
}

#[tokio::test]
async fn a_row_that_is_no_checkpoint_is_corrupt() {
    let Some(url) = server() else { return };
    let schema = Schema::new(&url);
    let checkpoints = PostgresCheckpoints::open(url.as_str(), options(&schema)).await.unwrap();
    checkpoints.swap("sink", None, Some(&entry("sink", at(1)))).await.unwrap();
    let table = format!("\"{}\".checkpoints", schema.name);
    for damage in ["digest = NULL", "state = 'empty'", "digest = '\\x01'", "event_id = -1", "state = 'x'"] {
        client(&url).await.batch_execute(&format!("UPDATE {table} SET {damage}")).await.unwrap();
        let error = checkpoints.load("sink").await.unwrap_err();
        assert_eq!((error.kind(), error.target()), (ErrorKind::Corrupt, Some("sink")), "{damage}: {error}");
        assert_eq!(checkpoints.list().await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

/// For a sink that has no memory of its own.
#[tokio::test]
async fn a_sink_without_memory_goes_on_from_here() {
    let Some(url) = server() else { return };
    let schema = Schema::new(&url);
    let log = events(0, ["1", "2", "3"]);
    let archive = MemoryStore::default();
    let open = async || {
        let checkpoints = PostgresCheckpoints::open(url.as_str(), options(&schema)).await.unwrap();
        Checkpointed::open(archive.clone(), Arc::new(checkpoints), "archive", "memory").await.unwrap()
    };
    open().await.append(Batch::new(None, &log[..2]).unwrap()).await.unwrap();
    let again = open().await;
    assert_eq!(again.checkpoint().await.unwrap(), Checkpoint::at(&log[1]));
    let primary = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    primary.append(Batch::new(None, &log).unwrap()).await.unwrap();
    primary.attach("archive", again, SecondaryOptions::default()).await.unwrap();
    primary.delivered(log[2].id(), Duration::from_secs(10)).await.unwrap();
    drop(primary.close(Duration::from_secs(5)).await);
}
