//! Wrappers: sinks around sinks, each with one purpose.
//!
//! How they stand around each other is told by [`Checkpointed`].

mod checkpointed;
mod dead_letter;
mod deferred;
mod filtered;
mod mapped;
mod sparse;

pub use checkpointed::Checkpointed;
pub use dead_letter::DeadLetter;
pub use deferred::Deferred;
pub use filtered::Filtered;
pub use mapped::Mapped;
