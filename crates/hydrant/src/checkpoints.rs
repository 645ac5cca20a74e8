//! Checkpoints kept on behalf of sinks: the roster of a fan-out, and the memory of sinks that have none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Checkpoint, Error, Result};

/// One sink's checkpoint, kept for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointEntry {
    /// The sink's name.
    pub name: String,
    /// What the checkpoint belongs to, for example the sink's URL without secrets. A sink of another
    /// target must not go on from it.
    pub target: String,
    /// How far the *source's* events are disposed of: held, filtered out, or durably dead-lettered.
    pub checkpoint: Checkpoint,
}

/// Keeps checkpoints by the name of the sink they belong to.
///
/// Entries move only by compare-and-swap, so that two runners of one sink never overwrite each other.
#[async_trait]
pub trait CheckpointStore: Send + Sync {
    /// The entry of this name.
    ///
    /// # Errors
    /// Whatever the server or disk meets; `Corrupt` for an entry that does not check.
    async fn load(&self, name: &str) -> Result<Option<CheckpointEntry>>;

    /// All entries, by name.
    ///
    /// # Errors
    /// As [`load`](CheckpointStore::load).
    async fn list(&self) -> Result<Vec<CheckpointEntry>>;

    /// Replaces the entry `name` by `new` (`None` removes it), durably, if it still is `expected`.
    ///
    /// # Errors
    /// `Fenced` when it is not: another runner moved it.
    ///
    /// # Cancel safety
    /// A dropped future leaves the old entry or the new one, whole; [`load`](CheckpointStore::load) tells which.
    async fn swap(
        &self,
        name: &str,
        expected: Option<&CheckpointEntry>,
        new: Option<&CheckpointEntry>,
    ) -> Result<()>;
}

/// Checkpoints in memory, shared by clones. For tests, and for logs that end with the process.
#[derive(Clone, Debug, Default)]
pub struct MemoryCheckpoints {
    entries: Arc<Mutex<BTreeMap<String, CheckpointEntry>>>,
}

impl MemoryCheckpoints {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, CheckpointEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl CheckpointStore for MemoryCheckpoints {
    async fn load(&self, name: &str) -> Result<Option<CheckpointEntry>> {
        Ok(self.lock().get(name).cloned())
    }

    async fn list(&self) -> Result<Vec<CheckpointEntry>> {
        Ok(self.lock().values().cloned().collect())
    }

    async fn swap(
        &self,
        name: &str,
        expected: Option<&CheckpointEntry>,
        new: Option<&CheckpointEntry>,
    ) -> Result<()> {
        let mut entries = self.lock();
        if entries.get(name) != expected {
            return Err(
                Error::fenced("another runner moved this checkpoint; end one of the two").at_target(name)
            );
        }
        match new {
            Some(entry) => drop(entries.insert(name.to_owned(), entry.clone())),
            None => drop(entries.remove(name)),
        }
        Ok(())
    }
}
