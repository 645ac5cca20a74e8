//! Helpers for sources: `follow` by repeated reads, and convenience methods over a read.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};

use crate::fanout::lineage::{self, Place};
use crate::mutants::mutant;
use crate::{Event, EventSource, EventStream, ReadFrom, Result};

/// Follows a source by reading it to its end, waiting, and reading again.
///
/// `arm` is called *before* each read, and the future that it returns is awaited after the read. The future must
/// resolve once an event was appended after the call of `arm`. (Calling `arm` after the read would lose a wake-up.)
/// For a store without notifications, `arm` is `|| tokio::time::sleep(interval)`.
///
/// Between two reads, the server may fail over to another copy of the log, or lose its end. So each further read begins
/// at the event that was yielded last, and compares it. If the log continues without that event, the stream ends with
/// `Diverged`. If the log ends before it, the stream ends with `Unavailable`: a standby may still catch up.
pub fn follow_by_reading<F, W>(source: Arc<dyn EventSource>, from: ReadFrom, arm: F) -> EventStream
where
    F: FnMut() -> W + Send + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let follow = Follow { last: None, read: None, wait: None, source, from, arm };
    Box::pin(stream::unfold(Some(follow), |follow| async move {
        let mut follow = follow?;
        let next = follow.next().await;
        let rest = next.is_ok().then_some(follow);
        Some((next, rest))
    }))
}

struct Follow<F, W> {
    source: Arc<dyn EventSource>,
    from: ReadFrom,
    /// The event that was yielded last.
    last: Option<Place>,
    /// The read in progress.
    read: Option<EventStream>,
    /// Resolves once an event was appended after that read began.
    wait: Option<Pin<Box<W>>>,
    arm: F,
}

impl<F: FnMut() -> W, W: Future<Output = ()>> Follow<F, W> {
    async fn next(&mut self) -> Result<Event> {
        loop {
            if self.read.is_none() {
                self.wait = Some(Box::pin((self.arm)()));
                self.read = Some(self.open().await?);
            }
            if let Some(read) = &mut self.read
                && let Some(event) = read.next().await
            {
                let event = event?;
                self.last = Some(Place::Event(event.clone()));
                return Ok(event);
            }
            self.read = None;
            if let Some(wait) = self.wait.take() {
                wait.await;
            }
        }
    }

    /// Opens a read after the event that was yielded last, which the log must still have.
    async fn open(&mut self) -> Result<EventStream> {
        match &self.last {
            Some(last) if mutant("follow-into-another-log") => {
                Ok(self.source.read(ReadFrom::After(last.id())))
            }
            Some(last) => {
                let source = &self.source;
                lineage::open(|from| source.read(from), Some(last)).await
            }
            None => Ok(self.source.read(self.from)),
        }
    }
}

/// Convenience methods for any [`EventSource`], for tests and small logs.
#[async_trait]
pub trait EventSourceExt: EventSource {
    /// Reads all events from `from` on into memory.
    ///
    /// # Errors
    /// The error with which the read ended.
    async fn collect(&self, from: ReadFrom) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let mut read = self.read(from);
        while let Some(event) = read.next().await {
            events.push(event?);
        }
        Ok(events)
    }
}

impl<T: EventSource + ?Sized> EventSourceExt for T {}
