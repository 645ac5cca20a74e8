//! The journal: the typed door of an application to its log.

mod clock;
mod committer;
mod group;
mod hydrate;
mod metadata;
mod options;
mod queue;

use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::oneshot;

use crate::{Checkpoint, Error, ErrorKind, EventId, Result, Retry, Store};
use committer::Committer;
use group::{Kind, Payloads, Request};
use queue::Queue;

pub use clock::Clock;
pub use hydrate::{Hydrated, Saved, SavedStream};
pub use metadata::Metadata;
pub use options::JournalOptions;

/// The typed door of one writer to a log: over any store, or over a fan-out.
///
/// It assigns ids (each the one behind the head) and times (one for all that are committed together),
/// encodes, and **groups commits**: all who append while one write is in flight share the next. Each caller
/// is answered when its events are durable, as the store's `Ok` defines it. A handle is cheap to clone.
///
/// ```
/// use hydrant::{Journal, JournalOptions, MemoryStore};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// enum Change {
///     Deposited(u64),
///     Withdrawn(u64),
///     Snapshot(Ledger), // the whole state
/// }
///
/// #[derive(Clone, Default, Serialize, Deserialize)]
/// struct Ledger {
///     balance: u64,
/// }
///
/// impl Ledger {
///     fn apply(&mut self, change: Change) {
///         match change {
///             Change::Deposited(amount) => self.balance += amount,
///             Change::Withdrawn(amount) => self.balance -= amount,
///             Change::Snapshot(ledger) => *self = ledger,
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydrant::Result<()> {
/// let journal = Journal::open(MemoryStore::default(), JournalOptions::default()).await?;
/// journal.append(&Change::Deposited(100)).await?;
/// journal.append(&Change::Withdrawn(30)).await?; // Ok: it happened
///
/// let ledger = journal.hydrate(Ledger::default(), Ledger::apply).await?;
/// assert_eq!(ledger.state.balance, 70);
///
/// journal.snapshot(ledger.head, &Change::Snapshot(ledger.state)).await?; // the next hydrate starts here
/// journal.close().await?;
/// # Ok(()) }
/// ```
///
/// # What goes wrong
/// - An event that the store finds `Invalid` fails its own caller; the others of the group are sent again.
/// - An error that is [`Retry::Safe`] (nothing was applied) goes to the callers of the group as it is:
///   whether to try again, and for how long, is theirs to say. The journal goes on.
/// - An **unknown outcome** (a time-out, [`Retry::AfterCheckpoint`]): the same bytes go again under the same
///   ids until the store says Ok, for [`resolve_timeout`](JournalOptions::resolve_timeout). If it never does,
///   the journal stops, and says so: open the store and a journal again, and hydrate.
/// - `Fenced`, somebody else wrote, stops it at once, and so does any other error that is
///   [`Retry::Never`].
///
/// So nobody is told Ok for what is not durable, and no id is used twice. After a stop every append is
/// `Closed`, with the reason as its source.
///
/// # Bounds
/// [`in_flight_events_max`](JournalOptions::in_flight_events_max) and
/// [`in_flight_bytes_max`](JournalOptions::in_flight_bytes_max) limit what waits for its commit; who comes
/// then waits, in order of arrival, and keeps no encoded bytes meanwhile. What is larger than a limit by
/// itself is let through when nothing else is in flight.
///
/// # Drop
/// Dropping the last handle takes nothing more, and commits what was handed over in the background;
/// [`close`](Journal::close) also waits for it.
pub struct Journal<T> {
    handle: Arc<Handle>,
    events: PhantomData<fn(T) -> T>,
}

struct Handle {
    queue: Arc<Queue>,
    store: Arc<dyn Store>,
    options: JournalOptions,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl<T> Journal<T> {
    /// Opens a journal behind the last event of `store`, and starts its committer on the current runtime.
    ///
    /// # Errors
    /// `Unsupported` for a store that does not know its checkpoint, and whatever the store meets.
    ///
    /// # Cancel safety
    /// A dropped future has started nothing.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time enabled.
    pub async fn open(store: impl Store + 'static, options: JournalOptions) -> Result<Self> {
        let checkpoint = store.checkpoint().await?;
        if checkpoint == Checkpoint::Unknown {
            return Err(Error::new(
                ErrorKind::Unsupported,
                Retry::Never,
                "a journal needs a store that knows where its log ends; open it over one that has a memory of its own",
            ));
        }
        let store: Arc<dyn Store> = Arc::new(store);
        let queue = Arc::new(Queue::new(checkpoint.id(), &options));
        let committer = Committer::new(Arc::clone(&queue), Arc::clone(&store), options.clone());
        tokio::spawn(committer.run());
        Ok(Self { handle: Arc::new(Handle { queue, store, options }), events: PhantomData })
    }

    /// The last durable event.
    pub fn head(&self) -> Option<EventId> {
        self.handle.queue.progress().head
    }

    /// How many events stand behind the newest snapshot. Until [`hydrate`](Journal::hydrate) has counted
    /// those that were there before, only what this journal wrote.
    pub fn events_since_snapshot(&self) -> u64 {
        self.handle.queue.progress().events
    }

    /// Whether [`rotate_every`](JournalOptions::rotate_every) events stand behind the newest snapshot, so
    /// that it is time to [`snapshot`](Journal::snapshot).
    pub fn rotation_due(&self) -> bool {
        self.handle.options.rotate_every.is_some_and(|every| self.events_since_snapshot() >= every)
    }

    /// Takes nothing more, and waits until everything handed over is committed. Reading goes on to work.
    ///
    /// # Errors
    /// The error that had stopped the journal.
    ///
    /// # Cancel safety
    /// Dropped, it closes in the background; call it again to wait.
    pub async fn close(&self) -> Result<()> {
        self.handle.queue.close();
        self.handle.queue.ended().await
    }
}

impl<T: Serialize> Journal<T> {
    /// Appends one event; `Ok` is its id, and says that it is durable.
    ///
    /// # Errors
    /// `Invalid` when the event cannot be written as JSON or the store can never take it, whatever the
    /// store meets, `Closed` after [`close`](Journal::close) or a stop. With [`Retry::Safe`], nothing was
    /// applied; with [`Retry::AfterCheckpoint`] the journal has stopped and only the log tells.
    ///
    /// # Cancel safety
    /// Dropped while it waits for room, nothing is written. Dropped later, the event is committed or not,
    /// wholly, by the journal's own task: only the answer is lost.
    pub async fn append(&self, event: &T) -> Result<EventId> {
        let ids = self.write(std::slice::from_ref(event), None, Kind::Events).await?;
        Ok(*ids.start())
    }

    /// Appends events that stay together: all of them or none, in order, with nothing between them. `Ok` is
    /// the first and the last of their ids, which have no gap.
    ///
    /// # Errors
    /// As [`append`](Journal::append); `Invalid` when there are no events.
    ///
    /// # Cancel safety
    /// As [`append`](Journal::append).
    pub async fn append_all(&self, events: &[T]) -> Result<RangeInclusive<EventId>> {
        self.write(events, None, Kind::Events).await
    }

    /// [`append_all`](Journal::append_all), each of the events with this metadata.
    ///
    /// # Errors
    /// As [`append_all`](Journal::append_all).
    ///
    /// # Cancel safety
    /// As [`append`](Journal::append).
    pub async fn append_with(&self, events: &[T], metadata: &Metadata) -> Result<RangeInclusive<EventId>> {
        self.write(events, Some(metadata), Kind::Events).await
    }

    /// Appends a snapshot: an event that carries the whole state, as it is at the event `of`. It seals the
    /// current segment of every store that has segments, and [`hydrate`](Journal::hydrate) starts from it.
    ///
    /// `of` is what the state was folded up to: [`Hydrated::head`], or the id of the last event applied.
    ///
    /// # Errors
    /// `Fenced` when `of` is no longer (or not yet) the head when its turn comes: nothing was written, and
    /// the journal goes on. Otherwise as [`append`](Journal::append).
    ///
    /// # Cancel safety
    /// As [`append`](Journal::append).
    pub async fn snapshot(&self, of: Option<EventId>, snapshot: &T) -> Result<EventId> {
        let ids = self.write(std::slice::from_ref(snapshot), None, Kind::Snapshot { of }).await?;
        Ok(*ids.start())
    }

    async fn write(
        &self,
        events: &[T],
        metadata: Option<&Metadata>,
        kind: Kind,
    ) -> Result<RangeInclusive<EventId>> {
        if events.is_empty() {
            return Err(Error::invalid("there is nothing to append"));
        }
        let metadata = metadata
            .map(serde_json::to_vec)
            .transpose()
            .map_err(|cause| Error::invalid("the metadata cannot be written as JSON").because(cause))?;
        let queue = &*self.handle.queue;
        let metadata_bytes = metadata.as_ref().map_or(0, Vec::len);
        let (payloads, reservation) =
            queue.reserve(events.len(), metadata_bytes, || Payloads::encode(events)).await?;
        let (answer, outcome) = oneshot::channel();
        let room = reservation.room();
        queue.hand_over(reservation, Request { payloads, metadata, kind, room, answer })?;
        let first = outcome.await.unwrap_or_else(|_| Err(lost()))?;
        let last = EventId::new(first.get() + (events.len() as u64 - 1));
        Ok(first..=last)
    }
}

/// The committer went away with the request.
fn lost() -> Error {
    Error::closed(
        "the journal's task ended while this was written, so its outcome is not known; open the store and a \
         journal again, and hydrate: the log tells",
    )
    .with_retry(Retry::AfterCheckpoint)
}

impl<T> Clone for Journal<T> {
    fn clone(&self) -> Self {
        Self { handle: Arc::clone(&self.handle), events: PhantomData }
    }
}

impl<T> fmt::Debug for Journal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("head", &self.head()).finish_non_exhaustive()
    }
}
