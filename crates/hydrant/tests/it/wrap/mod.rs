//! The wrappers, alone and composed.

mod cell;
mod checkpointed;
mod composed;
mod dead_letter;
mod deadline;
mod deferred;
mod emptied;
mod filtered;
mod mapped;
mod poison;

use async_trait::async_trait;
use hydrant::{
    Batch, Checkpoint, Error, EventSink, EventSource, EventSourceExt, MemoryStore, ReadFrom, Result,
};

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

/// A sink that compares what it holds before it looks for poison.
#[derive(Clone, Default)]
struct LateJudge<S>(S);

#[async_trait]
impl<S: EventSink + EventSource> EventSink for LateJudge<S> {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let checkpoint = self.0.checkpoint().await?;
        let fresh = batch.fresh_after(&checkpoint)?;
        batch.check_held(&checkpoint, &self.0).await?;
        let poison = |event: &&hydrant::Event| String::from_utf8_lossy(event.payload()).contains("poison");
        if let Some(event) = fresh.iter().find(poison) {
            return Err(Error::invalid("this sink does not take it").at(event.id()));
        }
        self.0.append(batch).await
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.0.checkpoint().await
    }
}
