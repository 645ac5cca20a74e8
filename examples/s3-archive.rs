//! Saves the payments of a log to S3, in batches by count, bytes and age. Kill it anywhere: nothing is lost or doubled.
//!
//! ```console
//! $ cargo xtask servers up && eval "$(cargo xtask servers env)"   # S3 on this machine; or use AWS itself
//! $ cargo run --example s3-archive -- 1000 --create   # without --create from the second time on
//! ```
//!
//! `S3_BUCKET` names the bucket, and `S3_ENDPOINT` a server that is not AWS. Without them, `HYDRANT_TEST_S3_URL` names
//! both. Keys and region come from the SDK's own chain. Run it twice: it continues where it was.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use hydrant::{
    Checkpointed, Event, EventSource, FanOut, FanOutOptions, Filtered, Journal, JournalOptions, ReadFrom,
    SecondaryOptions,
};
use hydrant_file::{FileStore, FileStoreOptions};
use hydrant_s3::{
    ClientOptions, CompactOptions, S3Checkpoints, S3CheckpointsOptions, S3Store, S3StoreOptions, connect,
};
use serde::{Deserialize, Serialize};

/// The events of the log. Most of them need no archive.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "tag")]
enum Change {
    Paid { order: u64, cents: u64 },
    Looked { page: u64 },
}

/// Returns whether an event is archived. It must always return the same for the same event.
fn is_payment(event: &Event) -> bool {
    matches!(event.decode(), Ok(Change::Paid { .. }))
}

/// Returns the bucket of the archive, and how to reach it.
fn settings() -> Result<(String, ClientOptions), Box<dyn std::error::Error>> {
    let mut options = ClientOptions::default();
    let (bucket, endpoint) = if let Ok(bucket) = env::var("S3_BUCKET") {
        (bucket, env::var("S3_ENDPOINT").ok())
    } else {
        let url = env::var("HYDRANT_TEST_S3_URL").map_err(|_| {
            "name a bucket in S3_BUCKET, or: cargo xtask servers up s3 && eval \"$(cargo xtask servers env)\""
        })?;
        let bucket = url.trim_start_matches("s3://").split(['/', '?']).next().unwrap_or_default();
        let pairs = || url.split(['?', '&']);
        options.region = pairs().find_map(|pair| pair.strip_prefix("region=")).map(str::to_owned);
        (bucket.to_owned(), pairs().find_map(|pair| pair.strip_prefix("endpoint=")).map(str::to_owned))
    };
    if let Some(endpoint) = endpoint {
        options = options.with_endpoint(endpoint).with_path_style(true);
    }
    Ok((bucket, options))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let changes: u64 = env::args().nth(1).map_or(Ok(1000), |count| count.parse())?;
    let dir = PathBuf::from(env::var("ARCHIVE_DIR").unwrap_or_else(|_| "target/s3-archive".to_owned()));
    let prefix = env::var("S3_PREFIX").unwrap_or_else(|_| "payments".to_owned());

    // The primary: plain files. An event that it acknowledged has happened, whether S3 can be reached or not.
    // Only the first start creates it: if the volume of a log is missing, the log must not begin again at event 0.
    let create = env::args().any(|arg| arg == "--create");
    let primary = FileStore::open(&dir, FileStoreOptions::default().with_create(create)).await?;
    let log = FanOut::open(primary, FanOutOptions::default()).await?;

    // The archive: a separate log in the bucket, one object a batch, with the payments only.
    let (bucket, options) = settings()?;
    let client = connect(&options).await?;
    let archive = S3Store::open(client.clone(), &bucket, &prefix, S3StoreOptions::default()).await?;
    let payments = Filtered::new(archive.clone(), is_payment);

    // The checkpoint in the log is kept in the bucket too, and moves only after the PUT. After a crash between the
    // two, the archive finds that it already holds the batch.
    let checkpoints = S3Checkpoints::open(
        client,
        &bucket,
        &format!("{prefix}/checkpoints"),
        S3CheckpointsOptions::default(),
    )
    .await?;
    let sink = Checkpointed::open(payments, Arc::new(checkpoints), "archive", archive.url()).await?;

    // A batch is full at 10,000 events or 4 MiB, and is sent after 200 ms at the latest.
    let batches =
        SecondaryOptions::default().with_batch(10_000, 4 << 20).with_linger_max(Duration::from_millis(200));
    log.attach("archive", sink, batches).await?;

    let journal = Journal::open(log.clone(), JournalOptions::default()).await?;
    let first = journal.head().map_or(0, |head| head.get() + 1);
    for n in first..first + changes {
        let change =
            if n % 4 == 0 { Change::Paid { order: n, cents: n * 7 } } else { Change::Looked { page: n } };
        let id = journal.append(&change).await?;
        if n % 100 == 0 {
            println!("saved {id}");
        }
    }

    // No append waited for the archive. Here the program waits.
    let head = journal.head().ok_or("something was saved")?;
    if let Err(laggards) = log.delivered(head, Duration::from_secs(30)).await {
        laggards.iter().for_each(|laggard| println!("{laggard}"));
    }
    journal.close().await?;
    drop(log.close(Duration::from_secs(5)).await);

    // Once an hour is enough: small objects become large ones, and cost less to keep and to read.
    let compacted = archive.compact(&CompactOptions::default()).await?;
    println!("merged {} objects into {}", compacted.segments, compacted.into);
    let kept: Vec<Change> = archive.read(ReadFrom::Origin).map(|event| event?.decode()).try_collect().await?;
    let cents = |change: &Change| if let Change::Paid { cents, .. } = change { *cents } else { 0 };
    println!(
        "archived {} payments, {} cents, in {}",
        kept.len(),
        kept.iter().map(cents).sum::<u64>(),
        archive.url()
    );
    Ok(())
}
