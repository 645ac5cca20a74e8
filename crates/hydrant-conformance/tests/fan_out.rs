//! A fan-out over a store is a store: it passes every law as well.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hydrant::{Capabilities, FanOut, FanOutOptions, MemoryStore, MemoryStoreOptions, Result};
use hydrant_conformance::{Harness, Opened};

#[derive(Default)]
struct OverMemory {
    logs: Mutex<HashMap<String, MemoryStore>>,
}

#[async_trait]
impl Harness for OverMemory {
    fn capabilities(&self) -> Capabilities {
        Capabilities::ALL
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let options = MemoryStoreOptions::default().with_event_bytes_max(self.limits().event_bytes_max);
        let primary = {
            let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
            logs.entry(namespace.to_owned()).or_insert_with(|| MemoryStore::new(options)).clone()
        };
        let log = FanOut::open(primary, FanOutOptions::default()).await?;
        let closing = log.clone();
        Ok(Opened::prunable(log.clone()).with_commit_point(log).closed_by(async move {
            drop(closing.close(Duration::from_secs(1)).await);
            Ok(())
        }))
    }
}

hydrant_conformance::store_suite!(OverMemory::default());
