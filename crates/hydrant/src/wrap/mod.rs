//! Wrappers: sinks around sinks, each with one purpose.
//!
//! How they stand around each other is told by [`Checkpointed`].

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
