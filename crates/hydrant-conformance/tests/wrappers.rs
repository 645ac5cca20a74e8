//! A wrapped sink is a sink: each wrapper under a `Checkpointed` passes every law of what it declares.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use hydrant::{
    Batch, Capabilities, Checkpoint, Checkpointed, EventSink, Filtered, Mapped, MemoryCheckpoints,
    MemoryStore, MemoryStoreOptions, Result,
};
use hydrant_conformance::{Harness, Limits, Opened};

/// What outlives a wrapper: the log of the sink inside, and its checkpoint.
#[derive(Clone, Default)]
struct Kept {
    log: MemoryStore,
    checkpoints: Arc<MemoryCheckpoints>,
}

impl Kept {
    async fn remembered(&self, sink: impl EventSink + 'static) -> Result<Opened> {
        let sink = Checkpointed::open(sink, self.checkpoints.clone(), "wrapped", "memory").await?;
        Ok(Opened::sink(sink).seen_through(self.log.clone()))
    }
}

/// Opens a wrapper around what a namespace keeps.
struct Wrapping<F> {
    open: F,
    kept: Mutex<HashMap<String, Kept>>,
}

fn wrapping<F>(open: F) -> Wrapping<F> {
    Wrapping { open, kept: Mutex::default() }
}

#[async_trait]
impl<F, W> Harness for Wrapping<F>
where
    F: Fn(Kept) -> W + Send + Sync + 'static,
    W: Future<Output = Result<Opened>> + Send,
{
    fn capabilities(&self) -> Capabilities {
        // No `FENCING`: of what lies below its checkpoint, a `Checkpointed` knows the last digest only.
        Capabilities::MEMORY | Capabilities::IDEMPOTENT | Capabilities::ATOMIC
    }

    fn limits(&self) -> Limits {
        Limits::default().with_event_bytes_max(1 << 20).with_events_max(1_500)
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let options = MemoryStoreOptions::default().with_event_bytes_max(self.limits().event_bytes_max);
        let kept = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || Kept { log: MemoryStore::new(options), ..Kept::default() };
            kept.entry(namespace.to_owned()).or_insert_with(new).clone()
        };
        (self.open)(kept).await
    }
}

/// A sink without memory, as one that sends datagrams.
struct Sends(MemoryStore);

#[async_trait]
impl EventSink for Sends {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        self.0.append(batch).await
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        Ok(Checkpoint::Unknown)
    }
}

mod checkpointed {
    use super::*;

    async fn open(kept: Kept) -> Result<Opened> {
        kept.remembered(Sends(kept.log.clone())).await
    }

    hydrant_conformance::sink_suite!(wrapping(open));
}

mod filtered {
    use super::*;

    async fn open(kept: Kept) -> Result<Opened> {
        kept.remembered(Filtered::new(kept.log.clone(), |_| true)).await
    }

    hydrant_conformance::sink_suite!(wrapping(open));
}

mod mapped {
    use super::*;

    async fn open(kept: Kept) -> Result<Opened> {
        kept.remembered(Mapped::new(kept.log.clone(), |event| Ok(event.clone()))).await
    }

    hydrant_conformance::sink_suite!(wrapping(open));
}

mod one_around_the_other {
    use super::*;

    async fn open(kept: Kept) -> Result<Opened> {
        let sink = Filtered::new(kept.log.clone(), |_| true);
        let sink = Mapped::new(sink, |event| Ok(event.detached()));
        kept.remembered(Filtered::new(sink, |_| true)).await
    }

    hydrant_conformance::sink_suite!(wrapping(open));
}
