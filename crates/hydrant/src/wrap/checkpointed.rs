//! A memory for a sink that has none.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Mutex, MutexGuard};

use super::guard::before;
use crate::checkpoints::CheckpointCell;
use crate::mutants::mutant;
use crate::{Batch, Checkpoint, CheckpointStore, Error, ErrorKind, EventSink, Result, Retry};

/// Gives a sink a durable checkpoint, kept for it in a [`CheckpointStore`].
///
/// For sinks without a memory of their own, such as a datagram sink, and around
/// [`Filtered`](super::Filtered), [`Mapped`](super::Mapped) and [`DeadLetter`](super::DeadLetter): the
/// checkpoint counts the *source's* events that are handled, whether the sink holds them, they were
/// filtered out, or they are dead letters.
///
/// Acknowledged means: the sink acknowledged, and then the checkpoint was written. A crash between the two
/// sends the batch again: at least once, in order. Events at or below the checkpoint are never sent again.
///
/// So the sink's `Ok` must be durable. Do not wrap a sink whose `Ok` comes first, for example a file that is synced by
/// an interval: a crash loses events of it.
///
/// The entry moves by compare-and-swap only. If another runner moved it, two runners share one name: the
/// append is `Fenced`, and so are all appends after it, until [`checkpoint`](EventSink::checkpoint) is called,
/// which reads the entry again. So an operator ends the other runner, and resumes this one.
///
/// If the sink lost events, the append is `Diverged`. An operator empties the sink, removes the entry from the store, and
/// resumes: after an append that failed with [`Retry::Never`], `checkpoint` reads the entry until an append succeeds.
///
/// Names must be unique in their store. The roster of a fan-out keeps entries of its own, so use another store than
/// [`Primary::roster`](crate::Primary::roster), or another name.
///
/// An append with a deadline calls the sink once, moves the entry, and returns before the deadline.
///
/// It is outermost; the other three are below it, in any order:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydrant::Result<()> {
/// use std::sync::Arc;
/// use hydrant::{Batch, Checkpointed, DeadLetter, Event, EventId, EventSink, EventSourceExt};
/// use hydrant::{Filtered, MemoryCheckpoints, MemoryStore, ReadFrom};
///
/// let (archive, dead_letters) = (MemoryStore::default(), MemoryStore::default());
/// let deposits = Filtered::new(archive.clone(), |event| event.payload().starts_with(b"\"deposit"));
/// let sink = DeadLetter::new(deposits, dead_letters);
/// let checkpoints = Arc::new(MemoryCheckpoints::default());
/// let sink = Checkpointed::open(sink, checkpoints, "deposits", "memory").await?;
///
/// let log = ["deposit 1", "withdrawal", "deposit 2", "withdrawal"];
/// let log: Vec<Event> = (0..).zip(log).map(|(id, text)| Event::new(EventId::new(id), text)).collect::<Result<_, _>>()?;
/// sink.append(Batch::new(None, &log)?).await?;
///
/// assert_eq!(archive.collect(ReadFrom::Origin).await?, [log[0].clone(), log[2].clone()]);
/// assert_eq!(sink.checkpoint().await?.id(), Some(EventId::new(3))); // all four are handled
/// # Ok(()) }
/// ```
pub struct Checkpointed<S> {
    sink: S,
    name: String,
    memory: Mutex<Memory>,
}

struct Memory {
    cell: CheckpointCell,
    /// Why no append is accepted before the next call of `checkpoint`.
    fenced: Option<Error>,
    /// Whether an operator may have changed the entry: an append failed for good, and none succeeded since. A
    /// secondary that parks calls `checkpoint` too, so one call is not enough.
    is_stale: bool,
}

impl<S: EventSink> Checkpointed<S> {
    /// Opens the checkpoint `name` of the sink that writes to `target` (without secrets).
    ///
    /// # Errors
    /// `Invalid` if the checkpoint belongs to another target, and any error of the store.
    ///
    /// # Cancel safety
    /// Reads only.
    pub async fn open(
        sink: S,
        store: Arc<dyn CheckpointStore>,
        name: impl Into<String>,
        target: impl Into<String>,
    ) -> Result<Self> {
        let name = name.into();
        let mut cell = CheckpointCell::new(store, &*name, target);
        cell.load().await?;
        Ok(Self { sink, name, memory: Mutex::new(Memory { cell, fenced: None, is_stale: false }) })
    }

    /// The sink inside.
    pub fn inner(&self) -> &S {
        &self.sink
    }

    /// Waits for its turn, and returns the part of the batch that is still to be delivered.
    async fn fresh<'a>(&self, batch: Batch<'a>) -> Result<(MutexGuard<'_, Memory>, Option<Batch<'a>>)> {
        let mut memory = self.memory.lock().await;
        if let Some(fenced) = &memory.fenced {
            return Err(fenced.clone());
        }
        let fresh = batch.fresh_after(&memory.checkpoint().await?)?;
        let len = batch.events().len();
        Ok((memory, batch.part(len - fresh.len()..len)))
    }

    async fn deliver(&self, memory: &mut Memory, batch: Batch<'_>) -> Result<()> {
        if mutant("checkpoint-before-sink") {
            memory.cell.swap(Checkpoint::at(batch.last()), None).await?;
        }
        let appended = self.sink.append(batch).await.map_err(|error| match error.kind() {
            ErrorKind::Gap => self.diverged(error),
            _ => error,
        });
        memory.is_stale =
            appended.as_ref().is_err_and(|error| memory.is_stale || error.retry() == Retry::Never);
        appended?;
        let swapped = memory.cell.advance(Checkpoint::at(batch.last())).await;
        // The sink applied the batch, whatever became of the swap.
        memory.seen(swapped).map_err(Error::maybe_applied)
    }

    /// The error for a sink without an event that its checkpoint counts. Sending from the checkpoint again
    /// would never help.
    fn diverged(&self, gap: Error) -> Error {
        let message = "the sink lost events that its checkpoint counts as delivered; restore them, or empty \
                       the sink and remove its checkpoint entry so that it starts at the beginning";
        let event = gap.event();
        let error = Error::diverged(message).at_target(&self.name).because(gap);
        match event {
            Some(event) => error.at(event),
            None => error,
        }
    }
}

impl Memory {
    /// Returns the checkpoint, as the store has it if an operator may have changed it.
    async fn read(&mut self) -> Result<Checkpoint> {
        if self.is_stale {
            self.cell.forget();
        }
        self.checkpoint().await
    }

    async fn checkpoint(&mut self) -> Result<Checkpoint> {
        let loaded =
            self.cell.load().await.map(|entry| entry.map_or(Checkpoint::Empty, |entry| entry.checkpoint));
        self.seen(loaded)
    }

    fn seen<T>(&mut self, result: Result<T>) -> Result<T> {
        match &result {
            Ok(_) => self.fenced = None,
            Err(error) if error.kind() == ErrorKind::Fenced => {
                self.fenced = Some(error.clone());
                self.is_stale = true;
            }
            Err(_) => {}
        }
        result
    }
}

#[async_trait]
impl<S: EventSink> EventSink for Checkpointed<S> {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let deadline = batch.deadline();
        let (mut memory, fresh) = before(deadline, self.fresh(batch), Error::unavailable).await?;
        match fresh {
            Some(batch) => before(deadline, self.deliver(&mut memory, batch), Error::outcome_unknown).await,
            None => Ok(()),
        }
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.memory.lock().await.read().await
    }
}

impl<S: fmt::Debug> fmt::Debug for Checkpointed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpointed")
            .field("sink", &self.sink)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
