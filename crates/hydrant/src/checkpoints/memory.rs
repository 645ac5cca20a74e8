//! Checkpoints in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::cell::moved;
use super::{CheckpointEntry, CheckpointStore};
use crate::{Error, Result};

/// Keeps checkpoints in memory, shared by clones. For tests, and for logs that end with the process.
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
        if let Some(new) = new
            && new.name != name
        {
            return Err(Error::invalid(format!("the entry is named {:?}, not {name:?}", new.name)));
        }
        let mut entries = self.lock();
        if entries.get(name) != expected {
            return Err(moved(name));
        }
        match new {
            Some(entry) => drop(entries.insert(name.to_owned(), entry.clone())),
            None => drop(entries.remove(name)),
        }
        Ok(())
    }
}
