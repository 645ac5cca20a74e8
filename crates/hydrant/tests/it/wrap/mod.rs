//! The wrappers, alone and composed.

mod cell;
mod checkpointed;
mod composed;
mod dead_letter;
mod deferred;
mod filtered;
mod mapped;

use async_trait::async_trait;
use hydrant::{Batch, Checkpoint, EventSink, EventSource, EventSourceExt, MemoryStore, ReadFrom, Result};

/// A sink without memory: it takes whatever comes, and what it took can be read.
#[derive(Clone, Debug, Default)]
struct Forgetful {
    taken: std::sync::Arc<std::sync::Mutex<Vec<u64>>>,
}

impl Forgetful {
    fn taken(&self) -> Vec<u64> {
        self.taken.lock().unwrap().clone()
    }
}

#[async_trait]
impl EventSink for Forgetful {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        self.taken.lock().unwrap().extend(batch.events().iter().map(|event| event.id().get()));
        Ok(())
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        Ok(Checkpoint::Unknown)
    }
}

/// The ids that a store holds.
async fn ids(store: &impl EventSource) -> Vec<u64> {
    let events = store.collect(ReadFrom::Origin).await.unwrap();
    events.iter().map(|event| event.id().get()).collect()
}

/// A memory store that holds the events with these ids.
async fn holding(ids: &[u64]) -> MemoryStore {
    let store = MemoryStore::default();
    for &id in ids {
        let after = store.checkpoint().await.unwrap().id();
        store.append(Batch::new(after, &[crate::support::event(id)]).unwrap()).await.unwrap();
    }
    store
}
