//! Checkpoints kept on behalf of sinks: the roster of a fan-out, and the memory of sinks without one.

mod cell;
mod memory;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use cell::CheckpointCell;
pub use memory::MemoryCheckpoints;

use crate::{Checkpoint, Result};

/// The checkpoint of one sink, as a [`CheckpointStore`] keeps it.
///
/// ```
/// use hydrant::{Checkpoint, CheckpointEntry};
///
/// let entry = CheckpointEntry::new("archive", "s3://bucket/log", Checkpoint::Empty);
/// assert_eq!(entry.beside, None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CheckpointEntry {
    /// The sink's name.
    pub name: String,
    /// What the checkpoint belongs to, for example the sink's URL without secrets. A sink with another
    /// target must not continue from it.
    pub target: String,
    /// How far the *source's* events are handled: held, filtered out, or durably dead-lettered.
    pub checkpoint: Checkpoint,
    /// What the sink or source keeps beside its checkpoint, for example its positions in a stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<Value>,
}

impl CheckpointEntry {
    /// Creates an entry with nothing beside the checkpoint.
    pub fn new(name: impl Into<String>, target: impl Into<String>, checkpoint: Checkpoint) -> Self {
        Self { name: name.into(), target: target.into(), checkpoint, beside: None }
    }

    /// Sets what is kept beside the checkpoint; `null` is nothing.
    ///
    /// Entries are compared as a whole. So use integers and strings: a fraction may come back from JSON
    /// changed in its last digit. A store may limit the size; 32 KiB fit everywhere.
    #[must_use]
    pub fn with_beside(mut self, beside: impl Into<Option<Value>>) -> Self {
        self.beside = beside.into().filter(|beside| !beside.is_null());
        self
    }
}

/// Keeps checkpoints by the name of the sink they belong to.
///
/// Entries move only by compare-and-swap, so that two runners of one sink never overwrite each other.
/// [`CheckpointCell`](crate::store::CheckpointCell) moves one entry through lost replies and dropped futures.
#[async_trait]
pub trait CheckpointStore: Send + Sync {
    /// Returns the entry with this name.
    ///
    /// # Errors
    /// Any error of the server or disk; `Corrupt` for an entry whose checksum does not match.
    ///
    /// # Cancel safety
    /// Reads only.
    async fn load(&self, name: &str) -> Result<Option<CheckpointEntry>>;

    /// Returns all entries, ordered by name.
    ///
    /// # Errors
    /// As [`load`](CheckpointStore::load).
    ///
    /// # Cancel safety
    /// Reads only.
    async fn list(&self) -> Result<Vec<CheckpointEntry>>;

    /// Replaces the entry `name` by `new` (`None` removes it), durably, if it still equals `expected`.
    ///
    /// # Errors
    /// `Fenced` if the entry differs from `expected`: another runner moved it. `Invalid` if `new` has another name.
    ///
    /// # Cancel safety
    /// A dropped future leaves the old entry or the new one, whole; [`load`](CheckpointStore::load) returns it.
    async fn swap(
        &self,
        name: &str,
        expected: Option<&CheckpointEntry>,
        new: Option<&CheckpointEntry>,
    ) -> Result<()>;
}
