//! One durable log, and any number of sinks that get every event of it: in order, at least once, each from its
//! own checkpoint, however slow, broken or new it is.
//!
//! An event-sourced program saves each state change as an event, then acts on it. Others want the same events. Here
//! one **primary** store is the commit point, and each **secondary** sink follows the log at its own pace, from its
//! own durable **checkpoint**, inside the process: there is no broker, and no second write that can be lost.
//!
//! | to | use |
//! |---|---|
//! | commit to one store and feed many sinks | [`FanOut`], with a [`Primary`] and [`SecondaryOptions`] |
//! | feed many sinks from a log that another program writes | [`Relay`] |
//! | write typed events, many callers at once, and fold them | [`Journal`] |
//! | write and read a log | [`EventSink`], [`EventSource`], with a [`Batch`] of [`Event`]s |
//! | give a sink a memory, a filter, a map, a place for dead letters | [`Checkpointed`], [`Filtered`], [`Mapped`], [`DeadLetter`] |
//! | attach a sink that may be down when the program starts | [`Deferred`] |
//! | write a sink or a store of your own | two methods each, [`store`] for what they share, and `hydrant-conformance` to prove it |
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use hydrant::{FanOut, FanOutOptions, Journal, JournalOptions, MemoryStore, SecondaryOptions};
//!
//! let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await?;
//! log.attach("archive", MemoryStore::default(), SecondaryOptions::default()).await?;
//!
//! let journal = Journal::open(log.clone(), JournalOptions::default()).await?;
//! let id = journal.append(&"it happened".to_owned()).await?; // Ok: durable in the primary
//! log.delivered(id, Duration::from_secs(5)).await?; // the archive has it too
//! # Ok(()) }
//! ```
//!
//! # Words
//! A **log** holds the ordered events of one writer. An **event id** is a `u64` that strictly increases along the log;
//! gaps are allowed. The **head** is its newest event, the **floor** the oldest that is kept. A **snapshot** event carries
//! the whole aggregated state and opens a **segment**. A **parked** secondary has stopped and waits for an operator; the
//! others continue.
//!
//! # Absent on purpose
//! This crate knows no store but the one in memory: no SDK, no TLS, no database driver. Each composition has one
//! component that retries. Clocks, pauses and random numbers go through what a test can own.

mod batch;
mod checkpoint;
mod checkpoints;
mod contract;
mod digest;
mod error;
mod event;
mod fanout;
mod journal;
mod memory;
mod mutants;
mod reading;
pub mod store;
mod wrap;

/// Types of other crates in public signatures, so that callers need no dependency of their own for them.
pub use {futures_util::Stream, serde_json::value::RawValue, tokio::time::Instant};

pub use batch::Batch;
pub use checkpoint::Checkpoint;
pub use checkpoints::{CheckpointEntry, CheckpointStore, MemoryCheckpoints};
pub use contract::{
    Capabilities, CommitPoint, Durability, EventSink, EventSource, EventStream, Primary, Prune, ReadFrom,
    Store,
};
pub use digest::Digest;
pub use error::{Error, ErrorKind, Result, Retry};
pub use event::{Event, EventBuilder, EventId};
pub use fanout::{
    FanOut, FanOutOptions, FanOutStatus, Laggard, Laggards, Relay, RelayOptions, SecondaryOptions,
    SecondaryState, SecondaryStatus, StartAt,
};
pub use journal::{
    Clock, Durable, Hydrated, Journal, JournalOptions, Metadata, Saved, SavedStream, Slot, Submitted,
};
pub use memory::{MemoryStore, MemoryStoreOptions};
pub use reading::EventSourceExt;
pub use wrap::{Checkpointed, DeadLetter, Deferred, Filtered, Mapped};
