//! Hydrant on Kinesis: a log as ordered records in a stream, and a reader that follows it across shards.
//!
//! | to | use |
//! |---|---|
//! | reach Kinesis, or a server that speaks like it | [`connect`], or any client of the SDK |
//! | write a log | [`KinesisSink`] |
//! | read it, in order and each event once | [`KinesisSource`] |
//!
//! Kinesis has no compare-and-append, so nothing here is a [`Primary`](hydrant::Primary): commit a log elsewhere and
//! let a fan-out bring it to the stream. The records are specified in `FORMAT.md`.
//!
//! ```no_run
//! # async fn archive(log: hydrant::FanOut<hydrant::MemoryStore>) -> hydrant::Result<()> {
//! use hydrant::SecondaryOptions;
//! use hydrant_kinesis::{ClientOptions, KinesisSink, KinesisSinkOptions, connect};
//!
//! let client = connect(&ClientOptions::default().with_region("eu-central-1")).await?;
//! let sink = KinesisSink::open(client, "payments", "orders-7", KinesisSinkOptions::default()).await?;
//! log.attach("stream", sink, SecondaryOptions::default()).await?;
//! # Ok(()) }
//! ```
//!
//! # How far it scales
//! A log is one partition key, so it is written to one shard: 1 MB and 1,000 records a second, and one record at a
//! time, so a full batch for each round trip. Many logs share a stream and spread over its shards by the hash of their
//! names; add shards while all of it runs. Each sink puts its own records: several logs are not gathered into one
//! `PutRecords`, which would save requests but neither bytes nor shards. A log that needs more than one shard is two
//! logs.
//!
//! # Permissions
//! The sink needs `PutRecord`, and to find its checkpoint `DescribeStreamSummary`, `ListShards`, `GetShardIterator` and
//! `GetRecords`. The source needs the last four, and for enhanced fan-out `RegisterStreamConsumer`,
//! `DescribeStreamConsumer` and `SubscribeToShard`.

mod client;
mod error;
mod sink;
mod source;
mod wire;

pub use client::{ClientOptions, connect};
pub use sink::{KinesisSink, KinesisSinkOptions, Oversize, Packing};
pub use source::{KinesisShards, KinesisSource, KinesisSourceOptions, KinesisStart, Unnamed};
