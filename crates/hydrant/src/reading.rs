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
/// Between two reads, the server may fail over to another copy of the log. So each further read first compares the
/// event that was yielded last. If the log no longer has it, the stream ends with `Diverged`.
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
    /// The event yielded last.
    last: Option<Event>,
    /// The read in progress.
    read: Option<EventStream>,
    /// Resolves once an event was appended after that read began.
    wait: Option<Pin<Box<W>>>,
    arm: F,
}

impl<F: FnMut() -> W, W: Future<Output = ()>> Follow<F, W> {
    async fn next(&mut self) -> Result<Event> {
        loop {
            let is_new = self.read.is_none();
            let from = self.last.as_ref().map_or(self.from, |last| ReadFrom::After(last.id()));
            if is_new {
                self.wait = Some(Box::pin((self.arm)()));
            }
            let read = self.read.get_or_insert_with(|| self.source.read(from));
            if let Some(event) = read.next().await {
                let event = event?;
                if is_new
                    && let Some(last) = &self.last
                    && !mutant("follow-into-another-log")
                {
                    lineage::check(&*self.source, &Place::Event(last.clone())).await?;
                }
                self.last = Some(event.clone());
                return Ok(event);
            }
            self.read = None;
            if let Some(wait) = self.wait.take() {
                wait.await;
            }
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
