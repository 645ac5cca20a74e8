//! A memory for a sink that has none.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;

use crate::{
    Batch, Checkpoint, CheckpointEntry, CheckpointStore, Error, ErrorKind, EventSink, Result, Retry,
};

/// Gives a sink a durable checkpoint, kept for it in a [`CheckpointStore`].
///
/// For sinks without a memory of their own, such as a datagram sink, and around
/// [`Filtered`](super::Filtered), [`Mapped`](super::Mapped) and [`DeadLetter`](super::DeadLetter): the
/// checkpoint counts the *source's* events that are disposed of, whether the sink held them, passed over
/// them, or they are dead letters.
///
/// Acknowledged means: the sink acknowledged, and then the checkpoint was written. A crash between the two
/// sends the batch again: at least once, in order. What lies at or below the checkpoint is never sent again.
///
/// So the sink's `Ok` must be durable, and what it acknowledged it must still know after a crash, if it has a memory.
/// One that acknowledges first and syncs, or writes its own checkpoint, later (a file that is synced by an interval, a
/// stream whose checkpoint is) does not belong here: what a crash takes from it is lost.
///
/// The entry moves by compare-and-swap only: if somebody else moved it, two runners share one name, and the
/// append is `Fenced`. Names must be unique in their store; the roster of a fan-out keeps entries of its
/// own, so take another store than [`Primary::roster`](crate::Primary::roster), or another name.
///
/// It stands outermost; below it, in any order, the other three:
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
/// assert_eq!(sink.checkpoint().await?.id(), Some(EventId::new(3))); // all four are disposed of
/// # Ok(()) }
/// ```
pub struct Checkpointed<S> {
    sink: S,
    store: Arc<dyn CheckpointStore>,
    name: String,
    target: String,
    memory: Mutex<Memory>,
}

/// The entry as far as it is known.
#[derive(Debug)]
struct Memory {
    entry: Option<CheckpointEntry>,
    /// What a swap wanted to write whose outcome is open.
    pending: Option<CheckpointEntry>,
}

impl<S: EventSink> Checkpointed<S> {
    /// Opens the checkpoint `name` of the sink that writes to `target` (without secrets).
    ///
    /// # Errors
    /// `Invalid` when the checkpoint belongs to another target, and whatever the store meets.
    ///
    /// # Cancel safety
    /// It only reads.
    pub async fn open(
        sink: S,
        store: Arc<dyn CheckpointStore>,
        name: impl Into<String>,
        target: impl Into<String>,
    ) -> Result<Self> {
        let (name, target) = (name.into(), target.into());
        let entry = store.load(&name).await?;
        if let Some(entry) = &entry
            && entry.target != target
        {
            let message = format!(
                "this checkpoint belongs to `{}`, not to `{target}`; give the sink another name, or remove the \
                 entry so that it starts at the beginning",
                entry.target
            );
            return Err(Error::invalid(message).at_target(name));
        }
        let memory = Mutex::new(Memory { entry, pending: None });
        Ok(Self { sink, store, name, target, memory })
    }

    /// The sink inside.
    pub fn inner(&self) -> &S {
        &self.sink
    }

    /// Finds out what became of a swap that was dropped or had an unknown outcome.
    async fn settle(&self, memory: &mut Memory) -> Result<()> {
        let Some(pending) = &memory.pending else { return Ok(()) };
        let loaded = self.store.load(&self.name).await?;
        if loaded.as_ref() != Some(pending) && loaded != memory.entry {
            return Err(self.fenced());
        }
        *memory = Memory { entry: loaded, pending: None };
        Ok(())
    }

    async fn advance(&self, memory: &mut Memory, checkpoint: Checkpoint) -> Result<()> {
        let new = CheckpointEntry::new(&*self.name, &*self.target, checkpoint);
        memory.pending = Some(new.clone());
        let swapped = self.store.swap(&self.name, memory.entry.as_ref(), Some(&new)).await;
        match &swapped {
            Ok(()) => *memory = Memory { entry: Some(new), pending: None },
            // These say that the swap was not made; any other outcome is open.
            Err(error) if error.kind() == ErrorKind::Fenced || error.retry() == Retry::Safe => {
                memory.pending = None;
            }
            Err(_) => {}
        }
        // What the sink took is applied, whatever became of the swap.
        swapped.map_err(Error::maybe_applied)
    }

    fn fenced(&self) -> Error {
        Error::fenced("another runner moved this checkpoint; end one of the two").at_target(&self.name)
    }

    /// The sink says that it lacks what its checkpoint says it holds. Sending from the checkpoint again
    /// would never help.
    fn diverged(&self, gap: Error) -> Error {
        let message = "the sink lost events that its checkpoint counts as delivered; restore them, or empty \
                       the sink and remove its checkpoint entry so that it starts at the beginning";
        let event = gap.event();
        let error = Error::new(ErrorKind::Diverged, Retry::Never, message).at_target(&self.name).because(gap);
        match event {
            Some(event) => error.at(event),
            None => error,
        }
    }
}

impl Memory {
    fn checkpoint(&self) -> Checkpoint {
        self.entry.as_ref().map_or(Checkpoint::Empty, |entry| entry.checkpoint)
    }
}

#[async_trait]
impl<S: EventSink> EventSink for Checkpointed<S> {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let mut memory = self.memory.lock().await;
        self.settle(&mut memory).await?;
        let fresh = batch.fresh_after(&memory.checkpoint())?;
        let (Some(last), skipped) = (fresh.last(), batch.events().len() - fresh.len()) else {
            return Ok(());
        };
        let after = if skipped == 0 { batch.after() } else { Some(batch.events()[skipped - 1].id()) };
        match self.sink.append(Batch::new(after, fresh)?).await {
            Err(gap) if gap.kind() == ErrorKind::Gap => return Err(self.diverged(gap)),
            appended => appended?,
        }
        self.advance(&mut memory, Checkpoint::at(last)).await
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        let mut memory = self.memory.lock().await;
        self.settle(&mut memory).await?;
        Ok(memory.checkpoint())
    }
}

impl<S: fmt::Debug> fmt::Debug for Checkpointed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpointed")
            .field("sink", &self.sink)
            .field("name", &self.name)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}
