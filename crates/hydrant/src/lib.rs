//! One durable log. Every sink downstream of it gets every event kept, in order, at least once, however
//! slow, broken or new it is.
//!
//! | to | use |
//! |---|---|
//! | write and read a log | [`EventSink`], [`EventSource`], with a [`Batch`] of [`Event`]s |
//! | write typed events, many callers at once, and fold them | [`Journal`] |
//! | give a sink a memory, a filter, a map, a place for dead letters | [`Checkpointed`], [`Filtered`], [`Mapped`], [`DeadLetter`] |

mod batch;
mod checkpoint;
mod checkpoints;
mod contract;
mod digest;
pub mod envelope;
mod error;
mod event;
mod fanout;
mod journal;
mod memory;
mod reading;
mod wrap;

pub use batch::Batch;
pub use checkpoint::Checkpoint;
pub use checkpoints::{CheckpointStore, Entry, MemoryCheckpoints};
pub use contract::{
    Acknowledges, Capabilities, EventSink, EventSource, EventStream, Primary, Prune, ReadFrom, Store,
};
pub use digest::Digest;
pub use error::{Error, ErrorKind, Result, Retry};
pub use event::{Event, EventBuilder, EventId, Layout};
pub use fanout::{
    FanOut, FanOutOptions, Laggard, Relay, RelayOptions, SecondaryOptions, SecondaryStatus, Start, State,
    Status,
};
pub use journal::{Clock, Hydrated, Journal, JournalOptions, Metadata, Saved, SavedStream};
pub use memory::{MemoryStore, MemoryStoreOptions};
pub use reading::{EventSourceExt, follow_by_reading};
pub use wrap::{Checkpointed, DeadLetter, Filtered, Mapped};
