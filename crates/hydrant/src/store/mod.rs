//! What authors of stores need, besides the traits at the root.
//!
//! - [`envelope`]: an event as one line of JSON, and [`Layout`], where its parts lie in that line;
//! - [`CheckpointCell`]: one entry of a [`CheckpointStore`](crate::CheckpointStore), moved by swaps that may lose
//!   their replies;
//! - [`caught`]: a call into foreign code, whose panic becomes an error;
//! - [`follow_by_reading`]: [`follow`](crate::EventSource::follow) for a store without notifications.
//!
//! [`Batch::fresh_after`](crate::Batch::fresh_after), [`Batch::check_held`](crate::Batch::check_held) and
//! [`Batch::check_held_with`](crate::Batch::check_held_with) are the first lines of an `append`.

pub mod envelope;

/// Types of other crates in the signatures that a store implements or calls.
pub use {async_trait::async_trait, bytes::Bytes, serde_json::Value};

pub use crate::checkpoints::CheckpointCell;
pub use crate::event::Layout;
pub use crate::fanout::guard::caught;
pub use crate::reading::follow_by_reading;
