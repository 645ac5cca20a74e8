//! Writes a log to a Kinesis stream and reads it back, while the stream splits and merges its shards.
//!
//! ```console
//! $ cargo xtask servers up && eval "$(cargo xtask servers env)"   # Kinesis on this machine; or use AWS itself
//! $ cargo run --example kinesis-pipeline -- 600 --create   # without --create from the second time on
//! ```
//!
//! `KINESIS_STREAM` names your own stream, which is created if it is missing. `KINESIS_ENDPOINT` names a server that
//! is not AWS. Without `KINESIS_STREAM`, the stream is `hydrant-pipeline` on the server of `HYDRANT_TEST_KINESIS_URL`.
//! Keys and region come from the SDK's own chain. Run it twice: it continues where it was.

use std::env;
use std::error::Error;
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::operation::describe_stream_summary::DescribeStreamSummaryError;
use aws_sdk_kinesis::types::{Shard, StreamStatus};
use futures_util::StreamExt;
use hydrant::{EventSource, FanOut, FanOutOptions, Journal, JournalOptions, ReadFrom, SecondaryOptions};
use hydrant_file::{FileStore, FileStoreOptions};
use hydrant_kinesis::{
    ClientOptions, KinesisSink, KinesisSinkOptions, KinesisSource, KinesisSourceOptions, connect,
};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

type Failed = Box<dyn Error + Send + Sync>;

/// The events of the log.
#[derive(Debug, Serialize, Deserialize)]
struct Paid {
    order: u64,
    cents: u64,
}

/// Returns the stream, and how to reach it.
fn settings() -> Result<(String, ClientOptions), Failed> {
    let mut options = ClientOptions::default();
    let (stream, endpoint) = if let Ok(stream) = env::var("KINESIS_STREAM") {
        (stream, env::var("KINESIS_ENDPOINT").ok())
    } else {
        let url = env::var("HYDRANT_TEST_KINESIS_URL").map_err(|_| {
            "name a stream in KINESIS_STREAM, or: cargo xtask servers up kinesis && eval \"$(cargo xtask servers env)\""
        })?;
        let pairs = || url.split(['?', '&']);
        options.region = pairs().find_map(|pair| pair.strip_prefix("region=")).map(str::to_owned);
        let endpoint = pairs().find_map(|pair| pair.strip_prefix("endpoint=")).map(str::to_owned);
        ("hydrant-pipeline".to_owned(), endpoint)
    };
    if let Some(endpoint) = endpoint {
        options = options.with_endpoint(endpoint);
    }
    Ok((stream, options))
}

/// Waits until the stream can be used or changed. Creates it if it is missing.
async fn active(client: &Client, stream: &str) -> Result<(), Failed> {
    loop {
        match client.describe_stream_summary().stream_name(stream).send().await {
            Ok(answer) => {
                let summary = answer.stream_description_summary.ok_or("the answer is empty")?;
                if summary.stream_status == StreamStatus::Active {
                    return Ok(());
                }
            }
            Err(cause)
                if cause
                    .as_service_error()
                    .is_some_and(DescribeStreamSummaryError::is_resource_not_found_exception) =>
            {
                client.create_stream().stream_name(stream).shard_count(1).send().await?;
            }
            Err(cause) => return Err(cause.into()),
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Merges the first two shards if there are two, else splits the only one in the middle.
async fn reshard(client: &Client, stream: &str) -> Result<(), Failed> {
    let listed = client.list_shards().stream_name(stream).send().await?;
    let is_open = |shard: &&Shard| {
        shard.sequence_number_range().is_some_and(|range| range.ending_sequence_number().is_none())
    };
    let start = |shard: &Shard| -> u128 {
        shard.hash_key_range().and_then(|range| range.starting_hash_key().parse().ok()).unwrap_or_default()
    };
    let mut open: Vec<_> = listed.shards().iter().filter(is_open).collect();
    open.sort_by_key(|shard| start(shard));
    match open[..] {
        [left, right, ..] => {
            let merge = client.merge_shards().stream_name(stream).shard_to_merge(left.shard_id());
            merge.adjacent_shard_to_merge(right.shard_id()).send().await?;
            println!("  merged {} and {}", left.shard_id(), right.shard_id());
        }
        [only] => {
            let split = client.split_shard().stream_name(stream).shard_to_split(only.shard_id());
            split.new_starting_hash_key((u128::MAX / 2 + 1).to_string()).send().await?;
            println!("  split {}", only.shard_id());
        }
        [] => return Err("the stream has no shard".into()),
    }
    active(client, stream).await
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let payments: u64 = env::args().nth(1).map_or(Ok(600), |count| count.parse())?;
    let dir = env::var("PIPELINE_DIR").unwrap_or_else(|_| "target/kinesis-pipeline".to_owned());
    let (stream, options) = settings()?;
    let client = connect(&options).await?;
    active(&client, &stream).await?;

    // The primary: plain files. A stream cannot be a primary, because it compares nothing before it accepts a record.
    // Only the first start creates it: if the volume of a log is missing, the log must not begin again at event 0.
    let create = env::args().any(|arg| arg == "--create");
    let primary = FileStore::open(&dir, FileStoreOptions::default().with_create(create)).await?;
    let log = FanOut::open(primary, FanOutOptions::default()).await?;
    let journal = Journal::open(log.clone(), JournalOptions::default()).await?;
    let before = journal.head();

    // The log's name is its partition key: all events go to one shard at a time, in order.
    let sink = KinesisSink::open(client.clone(), &stream, "payments", KinesisSinkOptions::default()).await?;
    log.attach("stream", sink, SecondaryOptions::default()).await?;

    // Usually this is another program. It follows the log across shards, each event once, parents before children.
    let options = KinesisSourceOptions::default();
    let source = KinesisSource::open(client.clone(), &stream, "payments", options).await?;
    let mut follow = source.follow(ReadFrom::from(before));
    let reader = tokio::spawn(async move {
        let mut cents = 0;
        for _ in 0..payments {
            let event = follow.next().await.ok_or("a follower does not end")??;
            cents += event.decode::<Paid>()?.cents;
        }
        Ok::<u64, Failed>(cents)
    });

    println!("Saving {payments} payments, and resharding {stream} meanwhile:");
    let mut saved = 0;
    for order in 0..payments {
        let paid = Paid { order, cents: order * 7 };
        journal.append(&paid).await?;
        saved += paid.cents;
        if order % 200 == 100 {
            reshard(&client, &stream).await?;
        }
    }

    let read = timeout(Duration::from_mins(2), reader).await???;
    println!("Saved {saved} cents, and read {read} cents from the stream, in order, each payment once.");
    journal.close().await?;
    drop(log.close(Duration::from_secs(5)).await);
    if saved == read { Ok(()) } else { Err("the sums differ".into()) }
}
