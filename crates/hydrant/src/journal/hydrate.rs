//! Reading a journal: a fold from the newest snapshot, and typed streams.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream, Fuse};
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{Instrument, field};

use super::queue::Progress;
use super::{Handle, Journal, Metadata, later, pause};
use crate::fanout::guard::rng;
use crate::fanout::lineage::{self, Place};
use crate::{Error, Event, EventId, EventStream, ReadFrom, Result};

/// How much one blocking task decodes: enough to pay for the hand-over, little enough to keep memory flat.
const CHUNK_EVENTS: usize = 1024;
const CHUNK_BYTES: usize = 1 << 20;

/// More tasks than this would only hold more chunks in memory.
const TASKS_MAX: usize = 256;

/// A state, and the position up to which it was folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hydrated<S> {
    /// The state.
    pub state: S,
    /// The last event that is in it.
    pub head: Option<EventId>,
    /// How many events were folded.
    pub events: u64,
}

/// A saved event with its payload as a value.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Saved<T> {
    /// The payload.
    pub value: T,
    /// The event as it is stored. It keeps the buffer that it was read in: keep the value instead of it.
    pub event: Event,
}

/// Typed events in order; an error is the last item.
pub type SavedStream<T> = BoxStream<'static, Result<Saved<T>>>;

impl<T> Saved<T> {
    /// Returns the id.
    pub fn id(&self) -> EventId {
        self.event.id()
    }

    /// Returns whether the event carries the whole state.
    pub fn is_snapshot(&self) -> bool {
        self.event.is_snapshot()
    }

    /// Returns the metadata, if the event has some.
    ///
    /// # Errors
    /// `Invalid`, naming the event, if the metadata is not what [`append_with`](Journal::append_with) writes.
    pub fn metadata(&self) -> Result<Option<Metadata>> {
        let Some(json) = self.event.metadata() else { return Ok(None) };
        serde_json::from_slice(json).map(Some).map_err(|cause| {
            Error::invalid("the metadata is not a `Metadata`; read `event.metadata()` as it is")
                .at(self.id())
                .because(cause)
        })
    }
}

impl<T: DeserializeOwned + Send + 'static> Journal<T> {
    /// Folds the log into `state`, in bounded memory, from the newest snapshot (from the beginning where there is
    /// none). `fold` gets that snapshot first, as an event like any other.
    ///
    /// The state holds every event that was acknowledged before the call. If the store accepts events before they are
    /// durable ([`Durability::Accepted`](crate::Durability)), readers do not see them yet: `hydrate` waits for them,
    /// for at most [`append_timeout`](super::JournalOptions::append_timeout).
    ///
    /// With [`hydrate_tasks`](super::JournalOptions::hydrate_tasks), other threads decode meanwhile.
    ///
    /// # Errors
    /// `Invalid`, naming the event, when a payload is not a `T`; `Unavailable` when acknowledged events cannot be
    /// read yet (hydrate again), or are lost; and any error of the store.
    ///
    /// # Cancel safety
    /// Reads only.
    pub async fn hydrate<S>(&self, state: S, fold: impl FnMut(&mut S, T)) -> Result<Hydrated<S>> {
        let span = tracing::debug_span!("hydrate", events = field::Empty, head = field::Empty);
        let hydrated = self.fold_log(state, fold).instrument(span.clone()).await?;
        span.record("events", hydrated.events);
        if let Some(head) = hydrated.head {
            span.record("head", head.get());
        }
        Ok(hydrated)
    }

    async fn fold_log<S>(&self, state: S, fold: impl FnMut(&mut S, T)) -> Result<Hydrated<S>> {
        let Handle { queue, store, options, .. } = &*self.handle;
        let Progress { head: acknowledged, uncounted: before, .. } = queue.progress();
        let mut pass =
            Pass { hydrated: Hydrated { state, head: None, events: 0 }, last: None, fold, after_snapshot: 0 };
        let deadline = later(options.append_timeout);
        let mut rng = rng(options.seed);
        for attempt in 0.. {
            // The store may have failed over meanwhile: what was folded last must still be there.
            let events = match pass.last.clone().map(Place::Event) {
                Some(last) => lineage::open(|from| store.read(from), Some(&last)).await?,
                None => store.read(ReadFrom::Snapshot),
            };
            match options.hydrate_tasks {
                0 => pass.here(events, before).await?,
                tasks => pass.elsewhere(events, before, tasks.min(TASKS_MAX)).await?,
            }
            if pass.hydrated.head >= acknowledged {
                break;
            }
            if Instant::now() >= deadline {
                return Err(not_readable(acknowledged, pass.hydrated.head, options.append_timeout));
            }
            tokio::time::sleep_until(deadline.min(later(pause(&mut rng, attempt, options)))).await;
        }
        queue.update(|progress| {
            if progress.uncounted.take().is_some() {
                progress.events += pass.after_snapshot;
            }
        });
        Ok(pass.hydrated)
    }

    /// Returns the events from `from` on, up to the end that the log has now.
    pub fn read(&self, from: ReadFrom) -> SavedStream<T> {
        typed(self.handle.store.read(from))
    }

    /// Like [`read`](Journal::read), then yields new events as they are appended: no gap, no duplicate, and never
    /// more in memory than the store's own `follow` keeps. A slow follower does not delay the writer.
    pub fn follow(&self, from: ReadFrom) -> SavedStream<T> {
        typed(self.handle.store.follow(from))
    }
}

/// Acknowledged events that readers do not see.
fn not_readable(acknowledged: Option<EventId>, head: Option<EventId>, waited: Duration) -> Error {
    let readable = head.map_or_else(|| "no event".to_owned(), |head| format!("events up to {head}"));
    let message = format!(
        "the event was acknowledged, but after {waited:?} the store can read {readable}: either it is not durable yet, \
         then hydrate again, or the store lost its newest events"
    );
    let error = Error::unavailable(message);
    match acknowledged {
        Some(id) => error.at(id),
        None => error,
    }
}

fn typed<T: DeserializeOwned + Send + 'static>(events: EventStream) -> SavedStream<T> {
    Box::pin(stream::unfold(Some(events), |events| async move {
        let mut events = events?;
        let saved = events.next().await?.and_then(|event| Ok(Saved { value: event.decode()?, event }));
        let rest = saved.is_ok().then_some(events);
        Some((saved, rest))
    }))
}

/// One fold over a log.
struct Pass<S, F> {
    hydrated: Hydrated<S>,
    /// The event that was read last.
    last: Option<Event>,
    fold: F,
    /// Events after the newest snapshot that were there when the journal was opened.
    after_snapshot: u64,
}

impl<S, F> Pass<S, F> {
    fn see(&mut self, event: &Event, before: Option<EventId>) {
        self.hydrated.head = Some(event.id());
        self.hydrated.events += 1;
        if Some(event.id()) <= before {
            self.after_snapshot = if event.is_snapshot() { 0 } else { self.after_snapshot + 1 };
        }
    }

    async fn here<T: DeserializeOwned>(
        &mut self,
        mut events: EventStream,
        before: Option<EventId>,
    ) -> Result<()>
    where
        F: FnMut(&mut S, T),
    {
        while let Some(event) = events.next().await {
            let event = event?;
            (self.fold)(&mut self.hydrated.state, event.decode()?);
            self.see(&event, before);
            self.last = Some(event);
        }
        Ok(())
    }

    async fn elsewhere<T: DeserializeOwned + Send + 'static>(
        &mut self,
        events: EventStream,
        before: Option<EventId>,
        tasks: usize,
    ) -> Result<()>
    where
        F: FnMut(&mut S, T),
    {
        let mut decoding: VecDeque<JoinHandle<Result<Vec<T>>>> = VecDeque::new();
        let mut events = events.fuse();
        let mut ended = false;
        while !ended || !decoding.is_empty() {
            if !ended && decoding.len() < tasks {
                let chunk = next_chunk(&mut events).await?;
                ended = chunk.is_empty();
                for event in &chunk {
                    self.see(event, before);
                }
                self.last = chunk.last().cloned().or_else(|| self.last.take());
                decoding.push_back(tokio::task::spawn_blocking(move || {
                    chunk.iter().map(Event::decode).collect()
                }));
            } else if let Some(values) = decoding.pop_front() {
                let values =
                    values.await.map_err(|cause| Error::bug("decoding an event panicked").because(cause))?;
                values?.into_iter().for_each(|value| (self.fold)(&mut self.hydrated.state, value));
            }
        }
        Ok(())
    }
}

/// The next events, up to the bounds of a chunk; none at the end.
async fn next_chunk(events: &mut Fuse<EventStream>) -> Result<Vec<Event>> {
    let mut chunk = Vec::with_capacity(CHUNK_EVENTS);
    let mut bytes = 0;
    while chunk.len() < CHUNK_EVENTS && bytes < CHUNK_BYTES {
        let Some(event) = events.next().await else { break };
        let event = event?;
        bytes += event.size();
        chunk.push(event);
    }
    Ok(chunk)
}
