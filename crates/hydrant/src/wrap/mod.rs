//! Wrappers: sinks around sinks, each with one purpose.
//!
//! [`Checkpointed`] stands outermost: its checkpoint counts the *source's* events, whether the sinks below
//! held them, passed over them or mapped them. Below it, in any order, [`Filtered`], [`Mapped`] and
//! [`DeadLetter`]:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> hydrant::Result<()> {
//! use std::sync::Arc;
//! use hydrant::{Batch, Checkpointed, DeadLetter, Event, EventId, EventSink, EventSourceExt};
//! use hydrant::{Filtered, MemoryCheckpoints, MemoryStore, ReadFrom};
//!
//! let (archive, dead_letters) = (MemoryStore::default(), MemoryStore::default());
//! let deposits = Filtered::new(archive.clone(), |event| event.payload().starts_with(b"\"deposit"));
//! let sink = DeadLetter::new(deposits, dead_letters);
//! let checkpoints = Arc::new(MemoryCheckpoints::default());
//! let sink = Checkpointed::open(sink, checkpoints, "deposits", "memory").await?;
//!
//! let log = ["deposit 1", "withdrawal", "deposit 2", "withdrawal"];
//! let log: Vec<Event> = (0..).zip(log).map(|(id, text)| Event::new(EventId::new(id), text)).collect::<Result<_, _>>()?;
//! sink.append(Batch::new(None, &log)?).await?;
//!
//! assert_eq!(archive.collect(ReadFrom::Origin).await?, [log[0].clone(), log[2].clone()]);
//! assert_eq!(sink.checkpoint().await?.id(), Some(EventId::new(3))); // all four are disposed of
//! # Ok(()) }
//! ```

use crate::{Error, Retry};

mod checkpointed;
mod dead_letter;
mod filtered;
mod mapped;
mod sparse;

pub use checkpointed::Checkpointed;
pub use dead_letter::DeadLetter;
pub use filtered::Filtered;
pub use mapped::Mapped;

/// The error of a later step: an earlier one has applied something, so the whole is not `Safe` any more.
fn after_applied(error: Error) -> Error {
    match error.retry() {
        Retry::Safe => error.with_retry(Retry::AfterCheckpoint),
        _ => error,
    }
}
