//! A pool whose connections are fewer than the handles that share it.

use std::time::Duration;

use deadpool_postgres::{Manager, Pool};
use hydrant::{
    Batch, ErrorKind, EventSink, EventSourceExt, FanOut, FanOutOptions, MemoryStore, ReadFrom, Retry,
    SecondaryOptions,
};
use hydrant_postgres::{
    PostgresCheckpoints, PostgresCheckpointsOptions, PostgresProjection, PostgresProjectionOptions,
    PostgresStore,
};
use tokio::time::Instant;
use tokio_postgres::NoTls;

use crate::balances::{Balances, after, deposits, sums};
use crate::database::{Schema, client, server};
use crate::support::{events, id, in_a_schema};

fn pool(config: tokio_postgres::Config, size: usize) -> Pool {
    Pool::builder(Manager::new(config, NoTls)).max_size(size).build().unwrap()
}

#[test]
fn fan_outs_on_a_pool_of_one_connection_take_turns() {
    in_a_schema(async |place| {
        let pool = pool(place.url.parse().unwrap(), 1);
        let open = async |log: &str| PostgresStore::open(pool.clone(), log, place.options()).await.unwrap();
        let mut logs = Vec::new();
        for log in ["a", "b", "c"] {
            logs.push(FanOut::open(open(log).await, FanOutOptions::default()).await.unwrap());
        }
        for log in &logs {
            log.append(Batch::new(None, &events(0..3)).unwrap()).await.unwrap();
            log.attach("copy", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
            log.delivered(id(2), Duration::from_secs(30)).await.unwrap();
        }
        assert_eq!(pool.status().available, 1);
        for log in logs {
            drop(log.close(Duration::from_secs(30)).await);
        }
        assert_eq!(open("b").await.collect(ReadFrom::Origin).await.unwrap(), events(0..3));
    });
}

#[test]
fn deadline_ends_the_wait_for_a_pools_connection() {
    in_a_schema(async |place| {
        let pool = pool(place.url.parse().unwrap(), 1);
        let store = PostgresStore::open(pool.clone(), "log", place.options()).await.unwrap();
        let held = pool.get().await.unwrap();
        let all = events(0..3);
        let batch = Batch::new(None, &all).unwrap();
        let late = batch.with_deadline(Some(Instant::now() + Duration::from_millis(100)));
        let error = store.append(late).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
        drop(held);
        store.append(batch).await.unwrap();
        assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), all);
    });
}

#[tokio::test]
async fn each_call_returns_its_connection_to_the_pool() {
    let Some(url) = server() else { return };
    let schema = Schema::new(&url);
    let pool = pool(url.parse().unwrap(), 1);
    let progress = format!("{}_progress", schema.name);
    let options = PostgresProjectionOptions::default().with_schema(&progress);
    let names = ["_one", "_two"].map(|suffix| format!("{}{suffix}", schema.name));
    let log = deposits(0..20);
    let mut sinks = Vec::new();
    for name in &names {
        let opened = PostgresProjection::open(pool.clone(), name, Balances::version(1), options.clone());
        sinks.push(opened.await.unwrap());
    }
    let kept = PostgresCheckpointsOptions::default().with_schema(&progress);
    let checkpoints = PostgresCheckpoints::open(pool.clone(), kept).await.unwrap();
    for (from, to) in [(0, 10), (10, 20)] {
        for sink in &sinks {
            let before = log[..from].last().map(hydrant::Event::id);
            sink.append(Batch::new(before, &log[from..to]).unwrap()).await.unwrap();
            assert_eq!(sink.checkpoint().await.unwrap().id(), Some(log[to - 1].id()));
            assert!(hydrant::CheckpointStore::list(&checkpoints).await.unwrap().is_empty());
        }
    }
    assert_eq!(pool.status().available, 1);
    for name in &names {
        assert_eq!(sums(&client(&url).await, name).await, after(20));
    }
}
