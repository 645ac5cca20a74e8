//! The deadline of a batch, through each wrapper.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hydrant::{
    Batch, Checkpoint, CheckpointEntry, CheckpointStore, Checkpointed, DeadLetter, Deferred, Error,
    ErrorKind, EventSink, Filtered, Mapped, MemoryCheckpoints, MemoryStore, Result, Retry,
};
use tokio::time::Instant;

use crate::support::{Fault, Scripted, batch, events, id};

/// Keeps the deadlines that it receives. Never accepts event 3.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Option<Instant>>>>, MemoryStore);

#[async_trait]
impl EventSink for Recorder {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        self.0.lock().unwrap().push(batch.deadline());
        match batch.events().iter().find(|event| event.id() == id(3)) {
            Some(event) => Err(Error::invalid("too large").at(event.id())),
            None => self.1.append(batch).await,
        }
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.1.checkpoint().await
    }
}

#[tokio::test]
async fn each_wrapper_forwards_the_deadline() {
    let sink = Recorder::default();
    let opened = sink.clone();
    let inside = Deferred::new(move || {
        let sink = opened.clone();
        async move { Ok(sink) }
    });
    let inside = Filtered::new(Mapped::new(inside, |event| Ok(event.clone())), |event| event.id() != id(1));
    let dead = Recorder::default();
    let inside = DeadLetter::new(inside, Filtered::new(dead.clone(), |event| event.id() != id(3)));
    let wrapped = Checkpointed::open(inside, Arc::new(MemoryCheckpoints::default()), "a", "b").await.unwrap();
    let log = events(0..6);
    let deadline = Some(Instant::now() + Duration::from_secs(60));
    wrapped.append(batch(&log).with_deadline(deadline)).await.unwrap();
    let received = std::mem::take(&mut *sink.0.lock().unwrap());
    assert_eq!(received, [deadline; 4], "all, those before the dead letter, from it on, those after it");
    wrapped.append(batch(&events(6..7))).await.unwrap();
    assert_eq!(*sink.0.lock().unwrap(), [None], "a wrapper sets no deadline");
}

/// Hangs in one of its calls.
#[derive(Clone, Copy)]
struct Hanging {
    load: bool,
}

#[async_trait]
impl CheckpointStore for Hanging {
    async fn load(&self, _name: &str) -> Result<Option<CheckpointEntry>> {
        if self.load {
            std::future::pending::<()>().await;
        }
        Ok(None)
    }

    async fn list(&self) -> Result<Vec<CheckpointEntry>> {
        Ok(vec![])
    }

    async fn swap(
        &self,
        _name: &str,
        _expected: Option<&CheckpointEntry>,
        _new: Option<&CheckpointEntry>,
    ) -> Result<()> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_swap_that_hangs_ends_at_the_deadline() {
    let sink = MemoryStore::default();
    let wrapped =
        Checkpointed::open(sink.clone(), Arc::new(Hanging { load: false }), "a", "b").await.unwrap();
    let (began, second) = (Instant::now(), Duration::from_secs(1));
    let log = events(0..2);
    let append = |after: Duration| wrapped.append(batch(&log).with_deadline(Some(began + after)));
    let error = append(second).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::AfterCheckpoint));
    assert_eq!((began.elapsed(), sink.checkpoint().await.unwrap().id()), (second, Some(id(1))));

    // A call that waits behind another one has applied nothing.
    let (first, behind) = tokio::join!(append(3 * second), append(2 * second));
    assert_eq!(first.unwrap_err().retry(), Retry::AfterCheckpoint);
    assert_eq!((behind.unwrap_err().retry(), began.elapsed()), (Retry::Safe, 3 * second));
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_hangs_ends_at_the_deadline() {
    let sink = Scripted::new([Some(Fault::Hang { applied: true })]);
    let store = Arc::new(MemoryCheckpoints::default());
    let wrapped = Checkpointed::open(sink.clone(), store, "a", "b").await.unwrap();
    let (began, second) = (Instant::now(), Duration::from_secs(1));
    let log = events(0..2);
    let error = wrapped.append(batch(&log).with_deadline(Some(began + second))).await.unwrap_err();
    assert_eq!((error.retry(), began.elapsed()), (Retry::AfterCheckpoint, second));
    wrapped.append(batch(&log)).await.unwrap();
    assert_eq!(wrapped.checkpoint().await.unwrap().id(), Some(id(1)));
}

#[tokio::test(start_paused = true)]
async fn an_opening_that_hangs_ends_the_append_at_the_deadline() {
    let wrapped = Deferred::new(std::future::pending::<Result<MemoryStore>>);
    let (began, second) = (Instant::now(), Duration::from_secs(1));
    let log = events(0..2);
    let error = wrapped.append(batch(&log).with_deadline(Some(began + second))).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe));
    assert_eq!(began.elapsed(), second);
}
