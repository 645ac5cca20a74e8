//! What is sent behind a BEGIN before it is answered, where that BEGIN fails.

use std::time::Duration;

use deadpool_postgres::{Manager, Pool};
use hydrant::{
    Checkpoint, CheckpointEntry, CheckpointStore, ErrorKind, EventSink, EventSourceExt, Prune, ReadFrom,
    Retry,
};
use hydrant_postgres::{PostgresCheckpoints, PostgresCheckpointsOptions, PostgresConnect, PostgresStore};
use test_servers::proxy::{Fault, Tcp, When};
use tokio_postgres::NoTls;

use crate::support::{Place, append, client, event, events, id, in_a_schema, snapshot};

/// The server answers as it does to a cancel that was meant for the statement before.
const CANCELLED: Fault =
    Fault::Replace("BEGIN ISOLATION LEVEL READ COMMITTED", "DO 'BEGIN RAISE query_canceled;END' ");

fn pool(place: &Place, proxy: &Tcp) -> PostgresConnect {
    let manager = Manager::new(place.config(proxy.address()), NoTls);
    Pool::builder(manager).max_size(2).build().unwrap().into()
}

/// Over a connection of its own, by COPY; and from a pool, by one statement and by COPY.
fn ways(place: &Place, proxy: &Tcp) -> [(PostgresConnect, usize); 3] {
    [(place.through(proxy), 0), (pool(place, proxy), usize::MAX), (pool(place, proxy), 0)]
}

#[test]
fn an_append_whose_begin_fails_adds_nothing_and_says_so() {
    in_a_schema(async |place| {
        let proxy = place.proxy().await;
        for (way, (connect, copy_bytes_min)) in ways(&place, &proxy).into_iter().enumerate() {
            let log = format!("way {way}");
            let options = place.options().with_copy_bytes_min(copy_bytes_min);
            let store = PostgresStore::open(connect, &log, options).await.unwrap();
            append(&store, None, &events(0..3)).await.unwrap();
            proxy.once(When::Sends(b"BEGIN ISOLATION".to_vec()), CANCELLED);
            let error = append(&store, Some(2), &events(3..6)).await.unwrap_err();
            assert_eq!(
                (error.kind(), error.retry()),
                (ErrorKind::Unavailable, Retry::Safe),
                "{way}: {error}"
            );
            let beside = place.open(&log).await;
            assert_eq!(beside.collect(ReadFrom::Origin).await.unwrap(), events(0..3), "way {way}");
            assert_eq!(store.checkpoint().await.unwrap(), Checkpoint::at(&event(2)), "way {way}");
            append(&store, Some(2), &events(3..6)).await.unwrap();
            assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events(0..6), "way {way}");
        }
    });
}

/// Epoch and floor of a log, and how many rows it has.
async fn recorded(place: &Place, log: &str) -> (i64, Option<i64>, i64) {
    let schema = &place.schema;
    let sql = format!(
        "SELECT epoch, floor_after, (SELECT count(*) FROM {schema}.events WHERE log = $1) \
         FROM {schema}.events_heads WHERE log = $1"
    );
    let row = client(&place.url).await.query_one(&sql, &[&log]).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

#[test]
fn an_epoch_and_a_floor_whose_begin_fails_are_not_raised() {
    in_a_schema(async |place| {
        let proxy = place.proxy().await;
        let log = [events(0..3), vec![snapshot(3)], events(4..6)].concat();
        drop(place.holding("log", &log).await);
        let open = async || PostgresStore::open(pool(&place, &proxy), "log", place.options()).await.unwrap();
        // Of the transactions of a call, the one that fails is the first, the second ...
        let nth = |n: usize| {
            for _ in 1..n {
                proxy.once(When::Sends(b"BEGIN ISOLATION".to_vec()), Fault::Delay(Duration::ZERO));
            }
            proxy.once(When::Sends(b"BEGIN ISOLATION".to_vec()), CANCELLED);
        };
        let is_cancelled = |called: hydrant::Result<()>| {
            let error = called.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert!(error.to_string().contains("57014"), "{error}");
        };
        let before = recorded(&place, "log").await;
        let store = open().await;
        nth(1);
        is_cancelled(store.checkpoint().await.map(drop));
        assert_eq!(recorded(&place, "log").await, before, "asked for");
        nth(1);
        is_cancelled(append(&open().await, Some(5), &events(6..7)).await);
        assert_eq!(recorded(&place, "log").await, before, "claimed");
        nth(2);
        is_cancelled(store.prune(id(5)).await);
        assert_eq!(recorded(&place, "log").await, before, "raised");
        nth(3);
        is_cancelled(store.prune(id(5)).await);
        assert_eq!(recorded(&place, "log").await, (before.0, Some(2), 6), "removed");
        store.prune(id(5)).await.unwrap();
        assert_eq!(recorded(&place, "log").await, (before.0, Some(2), 3));
    });
}

#[test]
fn a_checkpoint_whose_begin_fails_does_not_move() {
    in_a_schema(async |place| {
        let proxy = place.proxy().await;
        let options = PostgresCheckpointsOptions::default().with_schema(&place.schema);
        let checkpoints = PostgresCheckpoints::open(place.through(&proxy), options).await.unwrap();
        let at = |at: u64| CheckpointEntry::new("sink", "there", Checkpoint::at(&event(at)));
        // Made, moved, removed.
        for (held, new) in [(None, Some(at(1))), (Some(at(1)), Some(at(2))), (Some(at(2)), None)] {
            proxy.once(When::Sends(b"BEGIN ISOLATION".to_vec()), CANCELLED);
            let error = checkpoints.swap("sink", held.as_ref(), new.as_ref()).await.unwrap_err();
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
            assert_eq!(checkpoints.load("sink").await.unwrap(), held);
            checkpoints.swap("sink", held.as_ref(), new.as_ref()).await.unwrap();
        }
    });
}

/// Cancels arrive at any time, also for the statement behind the one that they were meant for.
#[test]
fn cancels_that_come_at_any_time_break_no_log() {
    in_a_schema(async |place| {
        let proxy = place.proxy().await;
        let cancel = format!(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = '{}'",
            place.schema
        );
        let mut cancelled = 0;
        for (way, (connect, copy_bytes_min)) in ways(&place, &proxy).into_iter().enumerate() {
            let log = format!("way {way}");
            let options = place.options().with_copy_bytes_min(copy_bytes_min);
            let store = PostgresStore::open(connect, &log, options).await.unwrap();
            append(&store, None, &events(0..1)).await.unwrap();
            let operator = client(&place.url).await;
            let storm = async {
                loop {
                    operator.batch_execute(&cancel).await.unwrap();
                }
            };
            let writing = async {
                for at in 1..60 {
                    while let Err(error) = append(&store, Some(at - 1), &[event(at)]).await {
                        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                        assert_ne!(error.retry(), Retry::Never, "{error}");
                        cancelled += 1;
                        // Long enough for one to come through between two cancels, some time.
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            };
            tokio::select! {
                () = writing => {}
                () = storm => {}
            }
            let beside = place.open(&log).await;
            assert_eq!(beside.collect(ReadFrom::Origin).await.unwrap(), events(0..60), "way {way}");
        }
        println!("{cancelled} cancelled");
    });
}
