//! The store in memory passes every law, and so do checkpoints in memory.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use hydrant::{Capabilities, MemoryCheckpoints, MemoryStore, MemoryStoreOptions, Result};
use hydrant_conformance::{Harness, Opened, store_suite};

/// A log in memory lives as long as the harness that remembers it.
#[derive(Default)]
struct InMemory {
    logs: Mutex<HashMap<String, MemoryStore>>,
}

#[async_trait]
impl Harness for InMemory {
    fn capabilities(&self) -> Capabilities {
        Capabilities::ALL
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let options = MemoryStoreOptions::default().with_event_bytes_max(self.limits().event_bytes_max);
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let log = logs.entry(namespace.to_owned()).or_insert_with(|| MemoryStore::new(options));
        Ok(Opened::primary(log.clone()))
    }
}

store_suite!(InMemory::default());

/// Checkpoints in memory, by namespace.
#[derive(Default)]
struct Checkpoints(Mutex<HashMap<String, MemoryCheckpoints>>);

#[async_trait]
impl Harness for Checkpoints {
    fn capabilities(&self) -> Capabilities {
        Capabilities::NONE
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Opened::checkpoints(kept.entry(namespace.to_owned()).or_default().clone()))
    }
}

mod checkpoints {
    hydrant_conformance::checkpoints_suite!(super::Checkpoints::default());
}
