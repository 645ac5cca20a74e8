//! The journal: the typed door of an application to its log.

mod clock;
mod committer;
mod group;
mod hydrate;
mod metadata;
mod options;
mod queue;
mod room;
mod slot;

use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::fanout::guard::{backoff, guarded, later};
use crate::mutants::mutant;
use crate::{Checkpoint, CommitPoint, Error, EventId, Result, Retry};
use committer::Committer;
use group::{Kind, Payloads};
use queue::Queue;

pub use clock::Clock;
pub use hydrate::{Hydrated, Saved, SavedStream};
pub use metadata::Metadata;
pub use options::JournalOptions;
pub use slot::{Durable, Slot, Submitted};

/// Appends typed events to a log, over a primary or over a fan-out, with group commit. A log has one journal.
///
/// It assigns ids (in the order of the calls, without gaps) and times (one for all that are committed together),
/// encodes, and **groups commits**: all appends that arrive while one write is in flight share the next. Each caller
/// gets its answer when its events are durable, as the store's `Ok` defines it. A handle is cheap to clone.
///
/// [`append`](Journal::append) waits for the outcome. [`reserve`](Journal::reserve) and [`Slot::submit`] return the
/// ids at once and the outcome as a future, for a caller that decides on a state ahead of the disk.
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
/// let submitted = journal.reserve().await?.submit(&[(Change::Deposited(5), None)])?;
/// assert_eq!(submitted.ids.start().get(), 2); // void until it is durable
/// submitted.durable.await?;
///
/// let ledger = journal.hydrate(Ledger::default(), Ledger::apply).await?;
/// assert_eq!(ledger.state.balance, 75);
///
/// journal.snapshot(ledger.head, &Change::Snapshot(ledger.state)).await?; // the next hydrate starts here
/// journal.close().await?;
/// # Ok(()) }
/// ```
///
/// # What goes wrong
/// - An event that cannot be written as JSON, or is larger than the store takes, is refused at once. One that the
///   store finds `Invalid` fails its own caller; the others of the group are sent again.
/// - An error that is [`Retry::Safe`] (nothing was applied) goes to the callers of the group as it is: they decide
///   whether to try again. The journal continues. Back-pressure that outlasts
///   [`append_timeout`](JournalOptions::append_timeout) is such an error.
/// - After either, the ids of the failed events are issued again. Appends that wait move up. Submissions that wait
///   fail with [`Retry::Safe`], because their callers know their ids and may have decided on the failed events.
/// - An **unknown outcome** (a time-out, [`Retry::AfterCheckpoint`]): the same bytes are sent again under the same ids
///   until the store replies `Ok`, for [`resolve_timeout`](JournalOptions::resolve_timeout). If it never does, the
///   journal stops: open the store and a journal again, and hydrate.
/// - `Fenced` (another writer wrote) stops the journal at once, and so does any other error with [`Retry::Never`].
///
/// So no caller gets `Ok` for what is not durable, and no id is `Ok` twice. After a stop every append is `Closed`,
/// with the reason as its source.
///
/// # Bounds
/// [`in_flight_events_max`](JournalOptions::in_flight_events_max) and
/// [`in_flight_bytes_max`](JournalOptions::in_flight_bytes_max) limit what waits for its commit. Later callers wait,
/// in order of arrival, and hold no encoded payload meanwhile. An append that is larger than a limit is let through
/// when nothing else is in flight.
///
/// # Drop
/// Once the last handle is dropped, the journal accepts no further appends, and commits in the background what it accepted.
/// [`close`](Journal::close) also waits for it.
pub struct Journal<T> {
    handle: Arc<Handle>,
    events: PhantomData<fn(T) -> T>,
}

struct Handle {
    queue: Arc<Queue>,
    store: Arc<dyn CommitPoint>,
    options: JournalOptions,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl<T> Journal<T> {
    /// Opens a journal after the newest event that `store` acknowledged, and starts its committer on the current
    /// runtime.
    ///
    /// # Errors
    /// `Unsupported` for a store that does not know where its log ends; `Unavailable` if it does not reply within
    /// [`append_timeout`](JournalOptions::append_timeout); and any error of the store.
    ///
    /// # Cancel safety
    /// A dropped future has started nothing.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time enabled.
    pub async fn open(store: impl CommitPoint + 'static, options: JournalOptions) -> Result<Self> {
        let head = guarded("the store's head", options.append_timeout, async || {
            if mutant("open-at-checkpoint") { store.checkpoint().await } else { store.head().await }
        });
        let head = head.await.map_err(Error::nothing_applied)?;
        if head == Checkpoint::Unknown {
            return Err(Error::unsupported(
                "a journal needs a store that knows where its log ends; open it over one that has a memory of its own",
            ));
        }
        let queue = Arc::new(Queue::new(head.id(), store.event_bytes_max(), &options));
        let store: Arc<dyn CommitPoint> = Arc::new(store);
        let committer = Committer::new(Arc::clone(&queue), Arc::clone(&store), options.clone());
        tokio::spawn(committer.run());
        Ok(Self { handle: Arc::new(Handle { queue, store, options }), events: PhantomData })
    }

    /// Returns the newest event that the store acknowledged.
    pub fn head(&self) -> Option<EventId> {
        self.handle.queue.progress().head
    }

    /// Returns how many events come after the newest snapshot. Events from before the journal was opened count once
    /// [`hydrate`](Journal::hydrate) has read them.
    pub fn events_since_snapshot(&self) -> u64 {
        self.handle.queue.progress().events
    }

    /// Returns whether [`rotate_every`](JournalOptions::rotate_every) events come after the newest snapshot, so that
    /// it is time to [`snapshot`](Journal::snapshot).
    pub fn rotation_due(&self) -> bool {
        self.handle.options.rotate_every.is_some_and(|every| self.events_since_snapshot() >= every)
    }

    /// Waits for room for one [`Slot::submit`], in order of arrival.
    ///
    /// # Errors
    /// `Closed` after [`close`](Journal::close) or a stop, also while it waits.
    ///
    /// # Cancel safety
    /// A dropped future has taken no room.
    pub async fn reserve(&self) -> Result<Slot<T>> {
        let reservation = self.handle.queue.reserve().await?;
        Ok(Slot::new(Arc::clone(&self.handle), reservation.keep()))
    }

    /// Takes room for one [`Slot::submit`] if it is there.
    ///
    /// # Errors
    /// `Unavailable` with [`Retry::Safe`] if there is no room now; `Closed` after [`close`](Journal::close) or a stop.
    pub fn try_reserve(&self) -> Result<Slot<T>> {
        let reservation = self.handle.queue.try_reserve()?;
        Ok(Slot::new(Arc::clone(&self.handle), reservation.keep()))
    }

    /// Takes nothing more, and waits until everything handed over is committed. Reading still works.
    ///
    /// Callers that wait for room fail with `Closed` at once, and a [`Slot`] that is out can no longer submit. What
    /// was handed over takes at most [`append_timeout`](JournalOptions::append_timeout) for each group, and
    /// [`resolve_timeout`](JournalOptions::resolve_timeout) if an outcome is unknown.
    ///
    /// # Errors
    /// The error that stopped the journal, before or meanwhile.
    ///
    /// # Cancel safety
    /// A dropped future leaves a journal that closes in the background; call it again to wait.
    pub async fn close(&self) -> Result<()> {
        self.handle.queue.close();
        self.handle.queue.ended().await
    }
}

impl<T: Serialize> Journal<T> {
    /// Appends one event; `Ok` is its id, and means that it is durable.
    ///
    /// # Errors
    /// `Invalid` when the event cannot be written as JSON or the store can never take it; any error of the store;
    /// `Closed` after [`close`](Journal::close) or a stop. With [`Retry::Safe`], nothing was applied. With
    /// [`Retry::AfterCheckpoint`], the journal has stopped, and only the log shows whether the event was written.
    ///
    /// # Cancel safety
    /// If the future is dropped while it waits for room, nothing is written. If it is dropped later, the journal's own task
    /// commits the event or not: only the reply is lost.
    pub async fn append(&self, event: &T) -> Result<EventId> {
        self.commit(Kind::Append, 1, || Payloads::encode(std::iter::once((event, None)))).await
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
        let encode = || Payloads::encode(events.iter().map(|event| (event, None)));
        let first = self.commit(Kind::Append, events.len(), encode).await?;
        Ok(ids(first, events.len()))
    }

    /// As [`append_all`](Journal::append_all), with metadata beside each event.
    ///
    /// # Errors
    /// As [`append_all`](Journal::append_all).
    ///
    /// # Cancel safety
    /// As [`append`](Journal::append).
    pub async fn append_with(&self, events: &[T], metadata: &Metadata) -> Result<RangeInclusive<EventId>> {
        let metadata = serde_json::to_vec(metadata)
            .map_err(|cause| Error::invalid("the metadata cannot be written as JSON").because(cause))?;
        let encode = || Payloads::encode(events.iter().map(|event| (event, Some(metadata.as_slice()))));
        let first = self.commit(Kind::Append, events.len(), encode).await?;
        Ok(ids(first, events.len()))
    }

    /// Waits for room, hands events over, and waits for the id of the first.
    async fn commit(
        &self,
        kind: Kind,
        events: usize,
        encode: impl Fn() -> Result<Payloads>,
    ) -> Result<EventId> {
        let queue = &self.handle.queue;
        let (payloads, reservation) = queue.admit(events, encode).await?;
        let (_, outcome) = queue.push(reservation, kind, payloads)?;
        outcome.await.unwrap_or_else(|_| Err(lost()))
    }
}

impl<T: Serialize + DeserializeOwned> Journal<T> {
    /// Appends a snapshot: an event that carries the whole state, as it is at the event `of`. It seals the
    /// current segment of every store that has segments, and [`hydrate`](Journal::hydrate) starts from it.
    ///
    /// `of` is the event up to which the state was folded: [`Hydrated::head`], or the id of the last event applied,
    /// durable or not. The snapshot is decoded back before it is written, so that the next start can read it.
    ///
    /// # Errors
    /// `Fenced` if `of` is not the last id that was assigned: nothing was written, and the journal continues.
    /// `Invalid` if the snapshot cannot be decoded back as a `T`: nothing was written, and the journal continues.
    /// `Unavailable` with [`Retry::Safe`] if events before it were not saved. Otherwise as
    /// [`append`](Journal::append).
    ///
    /// # Cancel safety
    /// As [`append`](Journal::append).
    pub async fn snapshot(&self, of: Option<EventId>, snapshot: &T) -> Result<EventId> {
        let encode = || {
            let payloads = Payloads::encode(std::iter::once((snapshot, None)))?;
            payloads.check_decodes::<T>()?;
            Ok(payloads)
        };
        self.commit(Kind::Snapshot { of }, 1, encode).await
    }
}

/// The ids of `count` events, at least one, which [`Queue::push`] has assigned.
fn ids(first: EventId, count: usize) -> RangeInclusive<EventId> {
    first..=EventId::new(first.get() + (count as u64 - 1))
}

/// The committer ended while it held the request.
fn lost() -> Error {
    Error::closed(
        "the journal's task ended while this was written, so its outcome is not known; open the store and a \
         journal again, and hydrate: the log shows it",
    )
    .with_retry(Retry::AfterCheckpoint)
}

/// The pause before the next attempt.
fn pause(rng: &mut fastrand::Rng, attempt: u32, options: &JournalOptions) -> Duration {
    backoff(rng, attempt, options.backoff_min, options.backoff_max)
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
