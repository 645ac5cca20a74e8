//! Wrappers: sinks around sinks, each with one purpose. [`Checkpointed`] describes their order.
//!
//! A wrapper forwards the deadline of a batch. An error that names an event leaves the events before it
//! delivered, or it is `Invalid`: then the caller sends these again, without the event named.

mod checkpointed;
mod dead_letter;
mod deferred;
mod filtered;
mod guard;
mod mapped;
mod sparse;

pub use checkpointed::Checkpointed;
pub use dead_letter::DeadLetter;
pub use deferred::Deferred;
pub use filtered::Filtered;
pub use mapped::Mapped;
