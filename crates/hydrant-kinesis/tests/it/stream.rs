//! A stream of a test's own, and a writer without any of our code: the tests of the source must not depend on
//! the sink.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::Shard;
use futures_util::FutureExt;
use hydrant::{Event, EventId};
use hydrant_kinesis::{KinesisSource, KinesisSourceOptions, connect};

use crate::servers::{Server, at, new_stream, remove_streams, until_active};

/// A stream with a new name.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) client: Client,
    pub(crate) name: String,
}

/// Runs a test with a stream of its own on the shared server, and removes it, whether the test passed or not.
pub(crate) async fn with_stream(shards: i32, test: impl AsyncFnOnce(Stream)) {
    with_stream_on(Server::Shared, shards, test).await;
}

/// The same on a server of this kind.
pub(crate) async fn with_stream_on(server: Server, shards: i32, test: impl AsyncFnOnce(Stream)) {
    let Some(client) = server.client().await else { return };
    let stream = Stream { name: new_stream(&client, shards).await, client };
    let ended = AssertUnwindSafe(Box::pin(test(stream.clone()))).catch_unwind().await;
    remove_streams(&stream.client, &stream.name).await;
    if let Err(panic) = ended {
        resume_unwind(panic);
    }
}

/// Settings for a server on loopback, where what is acknowledged is visible at once.
pub(crate) fn quick() -> KinesisSourceOptions {
    KinesisSourceOptions::default().with_poll_interval(Duration::from_millis(5)).with_settle(Duration::ZERO)
}

impl Stream {
    /// The same stream at another endpoint: a proxy.
    pub(crate) async fn through(&self, endpoint: &str) -> Self {
        Self { client: connect(&at(endpoint)).await.unwrap(), ..self.clone() }
    }

    pub(crate) async fn source(&self, log: &str, options: KinesisSourceOptions) -> KinesisSource {
        KinesisSource::open(self.client.clone(), &self.name, log, options).await.unwrap()
    }

    /// Waits until the stream takes calls that change it.
    pub(crate) async fn active(&self) {
        until_active(&self.client, &self.name).await;
    }

    /// Puts one record with these events, the first right behind `after`.
    pub(crate) async fn put(&self, log: &str, after: Option<EventId>, events: &[Event]) {
        self.put_lines(log, None, &lines(after, events)).await;
    }

    /// Puts one record as another producer would.
    pub(crate) async fn put_lines(&self, partition_key: &str, hash_key: Option<u128>, lines: &str) {
        let put = self.client.put_record().stream_name(&self.name).partition_key(partition_key);
        let put = put.set_explicit_hash_key(hash_key.map(|key| key.to_string()));
        put.data(Blob::new(lines)).send().await.unwrap();
    }

    /// The shards that take records.
    pub(crate) async fn open_shards(&self) -> Vec<Shard> {
        let listed = self.client.list_shards().stream_name(&self.name).send().await.unwrap();
        let open = |shard: &Shard| {
            shard.sequence_number_range().is_some_and(|range| range.ending_sequence_number().is_none())
        };
        let mut shards: Vec<_> = listed.shards().iter().filter(|shard| open(shard)).cloned().collect();
        shards.sort_by_key(|shard| hashes(shard).0);
        shards
    }

    /// Splits a shard in the middle.
    pub(crate) async fn split(&self, shard: &Shard) {
        let (start, end) = hashes(shard);
        let middle = start + (end - start) / 2 + 1;
        let split = self.client.split_shard().stream_name(&self.name).shard_to_split(shard.shard_id());
        split.new_starting_hash_key(middle.to_string()).send().await.unwrap();
        self.active().await;
    }

    /// Merges two shards that lie side by side.
    pub(crate) async fn merge(&self, left: &Shard, right: &Shard) {
        let merge = self.client.merge_shards().stream_name(&self.name).shard_to_merge(left.shard_id());
        merge.adjacent_shard_to_merge(right.shard_id()).send().await.unwrap();
        self.active().await;
    }
}

/// The hash keys of a shard.
pub(crate) fn hashes(shard: &Shard) -> (u128, u128) {
    let range = shard.hash_key_range().unwrap();
    (range.starting_hash_key().parse().unwrap(), range.ending_hash_key().parse().unwrap())
}

/// Lines of JSON as `FORMAT.md` specifies them.
pub(crate) fn lines(after: Option<EventId>, events: &[Event]) -> String {
    let mut before = after;
    let line = |event: &Event| {
        let after = before.map_or_else(|| "null".to_owned(), |id| id.to_string());
        before = Some(event.id());
        let open = String::from_utf8_lossy(event.open_envelope()).into_owned();
        format!("{open},\"_hydrant\":{{\"kinesis\":1,\"after\":{after}}}}}\n")
    };
    events.iter().map(line).collect()
}

/// Events with these ids, each with a payload of its own.
pub(crate) fn events(ids: impl IntoIterator<Item = u64>) -> Vec<Event> {
    ids.into_iter().map(|id| Event::new(EventId::new(id), &format!("event {id}")).unwrap()).collect()
}

/// A snapshot event.
pub(crate) fn snapshot(id: u64) -> Event {
    Event::builder(EventId::new(id)).payload_json("{}").snapshot().build().unwrap()
}
