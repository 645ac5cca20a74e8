//! Helpers for sources: following by reading again, and small sugar over a read.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};

use crate::fanout::lineage::{self, Place};
use crate::mutants::mutant;
use crate::{Event, EventSource, EventStream, ReadFrom, Result};

/// Follows a source by reading it to its end, waiting, and reading again.
///
/// `arm` is called *before* each read, and the future that it returns is awaited after it; the future must
/// resolve when anything was appended since `arm` was called. (After the read would lose a wake-up.) For a
/// store without a notification, `arm` is `|| tokio::time::sleep(interval)`.
///
/// Each further read begins at the event that was yielded last, which the log must still have: the server may have
/// failed over to another copy. The stream ends with `Diverged` if the log continues without that event, and with
/// `Unavailable` if it ends before it.
pub fn follow_by_reading<F, W>(source: Arc<dyn EventSource>, from: ReadFrom, mut arm: F) -> EventStream
where
    F: FnMut() -> W + Send + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let wait = Box::pin(arm());
    let read = source.read(from);
    let state = Some((source, None, read, wait, arm));
    Box::pin(stream::unfold(state, move |state| async move {
        let (source, mut last, mut read, mut wait, mut arm) = state?;
        loop {
            match read.next().await {
                Some(Ok(event)) => {
                    last = Some(Place::Event(event.clone()));
                    return Some((Ok(event), Some((source, last, read, wait, arm))));
                }
                Some(Err(error)) => return Some((Err(error), None)),
                None => {
                    wait.await;
                    wait = Box::pin(arm());
                    if mutant("follow-into-another-log") {
                        read = source.read(last.as_ref().map_or(from, |last| ReadFrom::After(last.id())));
                        continue;
                    }
                    let again = |at: ReadFrom| source.read(if last.is_some() { at } else { from });
                    read = match lineage::open(again, last.as_ref()).await {
                        Ok(read) => read,
                        Err(error) => return Some((Err(error), None)),
                    };
                }
            }
        }
    }))
}

/// Sugar over [`EventSource`], for tests and small logs.
#[async_trait]
pub trait EventSourceExt: EventSource {
    /// Everything from `from` on, in memory.
    ///
    /// # Errors
    /// The error that the read ended with.
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
