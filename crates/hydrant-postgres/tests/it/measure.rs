//! Measurements behind the figures in `docs/postgres.md`, run when asked for:
//!
//! ```sh
//! cargo test --release -p hydrant-postgres --test it -- --ignored --nocapture measure::
//! ```

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures_util::SinkExt;
use hydrant::{Event, EventSink, EventSource, ReadFrom};
use hydrant_postgres::{PostgresStore, PostgresStoreOptions};
use test_servers::native::Postgres;
use tokio::time::Instant;

use crate::support::{append, client, id, sql};

/// A server with its disk in earnest.
fn durable() -> Option<(tempfile::TempDir, Postgres)> {
    let dir = tempfile::tempdir_in(test_servers::directory()).unwrap();
    match Postgres::start_with(dir.path(), &["fsync=on", "full_page_writes=on", "max_wal_size=8GB"]) {
        Ok(server) => Some((dir, server)),
        Err(reason) => {
            println!("skipped: {reason}");
            None
        }
    }
}

fn sized(at: u64, bytes: usize) -> Event {
    let text: String = ('a'..='z').cycle().take(bytes.saturating_sub(100)).collect();
    Event::builder(id(at))
        .time("2026-01-05T09:00:00.123456Z")
        .payload_json(format!("\"{text}\""))
        .build()
        .unwrap()
}

/// How long each batch takes, the median, one way and the other, and the rows alone by COPY.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn one_statement_or_copy() {
    let Some((_dir, server)) = durable() else { return };
    println!(
        "{:>7} {:>7} {:>9} | {:>12} {:>12} {:>12}",
        "bytes", "events", "batch", "statement", "COPY", "bare COPY"
    );
    for bytes in [200, 2_000] {
        for count in [1, 16, 128, 512, 1_024, 4_096, 16_384] {
            let rounds = (32_768 / count).clamp(7, 200);
            let mut medians = Vec::new();
            for copy_bytes_min in [usize::MAX, 0] {
                let options = PostgresStoreOptions::default().with_copy_bytes_min(copy_bytes_min);
                let log = format!("{bytes} {count} {copy_bytes_min}");
                let store = PostgresStore::open(&*server.url(), &log, options).await.unwrap();
                let mut times = Vec::new();
                for round in 0..rounds {
                    let from = (round * count) as u64;
                    let batch: Vec<_> = (from..from + count as u64).map(|at| sized(at, bytes)).collect();
                    let begun = Instant::now();
                    append(&store, from.checked_sub(1), &batch).await.unwrap();
                    times.push(begun.elapsed());
                }
                medians.push(median(times));
            }
            medians.push(bare_copy(&server.url(), bytes, count, rounds).await);
            println!(
                "{bytes:>7} {count:>7} {:>9} | {:>12.2?} {:>12.2?} {:>12.2?}",
                bytes * count,
                medians[0],
                medians[1],
                medians[2]
            );
        }
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The same columns as text rows, without a head, a digest of its own or a compare.
async fn bare_copy(url: &str, bytes: usize, count: usize, rounds: usize) -> Duration {
    let client = client(url).await;
    client
        .batch_execute("DROP TABLE IF EXISTS bare; CREATE TABLE bare (LIKE hydrant.events INCLUDING ALL)")
        .await
        .unwrap();
    let mut times = Vec::new();
    for round in 0..rounds {
        let from = (round * count) as u64;
        let mut rows = BytesMut::new();
        for at in from..from + count as u64 {
            let event = sized(at, bytes);
            let payload = std::str::from_utf8(event.payload()).unwrap();
            let time = event.time().unwrap();
            rows.put_slice(
                format!("log\t{at}\t\\N\tf\t{time}\t{time}\t{payload}\t\\N\t\\N\t\\\\x{}\n", event.digest())
                    .as_bytes(),
            );
        }
        let begun = Instant::now();
        let sink = client.copy_in("COPY bare FROM STDIN").await.unwrap();
        let mut sink = std::pin::pin!(sink);
        sink.send(rows.freeze()).await.unwrap();
        sink.finish().await.unwrap();
        times.push(begun.elapsed());
    }
    median(times)
}

/// How long opening, appending and reading one log takes, alone and among a hundred thousand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn one_log_among_a_hundred_thousand() {
    let Some((_dir, server)) = durable() else { return };
    let url = server.url();
    for others in [0, 100_000] {
        let options = PostgresStoreOptions::default().with_schema(format!("among_{others}"));
        let store = PostgresStore::open(&*url, "first", options.clone()).await.unwrap();
        let fill = crate::tables::others(&format!("among_{others}"), others, 20);
        sql(&url, &fill).await;
        append(&store, None, &(0..1_000).map(|at| sized(at, 200)).collect::<Vec<_>>()).await.unwrap();
        let (mut opened, mut asked, mut appended, mut read) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for at in 1_000..1_300 {
            let begun = Instant::now();
            let store = PostgresStore::open(&*url, "first", options.clone()).await.unwrap();
            opened.push(begun.elapsed());
            let begun = Instant::now();
            store.checkpoint().await.unwrap();
            asked.push(begun.elapsed());
            append(&store, Some(2 * at - 1_001), &[sized(2 * at - 1_000, 200)]).await.unwrap();
            let begun = Instant::now();
            append(&store, Some(2 * at - 1_000), &[sized(2 * at - 999, 200)]).await.unwrap();
            appended.push(begun.elapsed());
            let begun = Instant::now();
            let behind = ReadFrom::After(id(2 * at - 1_100));
            let events = hydrant::EventSourceExt::collect(&store, behind).await.unwrap();
            read.push(begun.elapsed());
            assert_eq!(events.len(), 101);
            drop(store.follow(ReadFrom::Origin));
        }
        println!(
            "{others:>7} other logs: open {:.2?}, first checkpoint {:.2?}, append {:.2?}, read of 101 events {:.2?}",
            median(opened),
            median(asked),
            median(appended),
            median(read)
        );
    }
}
