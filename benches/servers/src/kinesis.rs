//! Appends to Kinesis, compared with a bare loop of the SDK that puts the same records.

use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::ShardIteratorType;
use hydrant::EventSink;
use hydrant_benches::figure::{Bound, Figure, Series, print};
use hydrant_benches::{Result, fresh, rate, workload};
use hydrant_kinesis::KinesisSink;
use tokio::time::Instant;

use crate::servers;

const ROUNDS: usize = 5;

pub(crate) async fn run() -> Result<Vec<Figure>> {
    let (_server, client) = servers::kinesis(&fresh("kinesis")?).await?;
    let mut figures = Vec::new();
    for (batch, events) in [(100, 5_000), (1000, 50_000)] {
        figures.push(batches(&client, batch, events).await?);
    }
    Ok(figures)
}

async fn batches(client: &Client, batch: usize, events: u64) -> Result<Figure> {
    let appended = workload::events(0, events)?;
    let (mut ours, mut raw) =
        (Series::new("hydrant, `KinesisSink::append`"), Series::new("bare loop, the same records"));
    for round in 0..ROUNDS {
        let stream = servers::stream(client, &format!("batches-{batch}-{round}")).await?;
        let sink = KinesisSink::open(client.clone(), &stream, "log", servers::sink_options()).await?;
        // The look back for the end of the log takes at least a second. It ends before the clock starts.
        sink.checkpoint().await?;
        let start = Instant::now();
        workload::append(&sink, None, &appended, batch).await?;
        ours.push(rate(events, start.elapsed()));
        sink.close().await?;
        let records = records(client, &stream).await?;
        let raw_stream = servers::stream(client, &format!("raw-{batch}-{round}")).await?;
        raw.push(rate(events, put(client, &raw_stream, records).await?));
    }
    let figure = Figure::new(format!("Kinesis, {batch} events a record"), "events/s", vec![ours, raw])
        .wants_ratio(1, "of the bare loop", Bound::AtLeast(0.8))
        .note("One `PutRecord` at a time, each naming the sequence number before it, on both sides.");
    print(&figure);
    Ok(figure)
}

/// Returns the data of Hydrant's records, in order. The stream has one shard.
async fn records(client: &Client, stream: &str) -> Result<Vec<Blob>> {
    let shards = client.list_shards().stream_name(stream).send().await?;
    let shard = shards.shards().first().ok_or("a stream has a shard")?.shard_id();
    let from = client.get_shard_iterator().stream_name(stream).shard_id(shard);
    let iterator = from.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await?;
    let mut iterator = iterator.shard_iterator;
    let mut records = Vec::new();
    while let Some(at) = iterator.take() {
        let page = client.get_records().shard_iterator(at).send().await?;
        if page.records().is_empty() {
            break;
        }
        iterator = page.next_shard_iterator;
        records.extend(page.records.into_iter().map(|record| record.data));
    }
    Ok(records)
}

/// Puts the records like a program that has the bytes already.
async fn put(client: &Client, stream: &str, records: Vec<Blob>) -> Result<Duration> {
    let mut before = None;
    let start = Instant::now();
    for data in records {
        let put = client.put_record().stream_name(stream).partition_key("log").data(data);
        let done = put.set_sequence_number_for_ordering(before).send().await?;
        before = Some(done.sequence_number);
    }
    Ok(start.elapsed())
}
