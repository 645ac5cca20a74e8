//! Moves one entry by compare-and-swaps, whose outcome may be unknown.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::{CheckpointEntry, CheckpointStore};
use crate::mutants::mutant;
use crate::{Checkpoint, Error, ErrorKind, Result, Retry};

/// How many open swaps a cell remembers. If there are more, it forgets the oldest.
const OPEN_MAX: usize = 16;

/// Moves one entry of a [`CheckpointStore`], although a swap may be dropped, lose its reply, or land late.
///
/// After a swap with an unknown outcome, or one whose future was dropped, the next call reads the entry. An
/// entry that the cell's own swaps can have left there is the cell's own; any other one is `Fenced`.
///
/// A dropped swap may still be on its way when the entry is read, and land before the next swap. The store
/// then replies `Fenced`, although there is only one runner. So the cell remembers the swaps whose outcome it
/// never learned, and what each of them expected. If the entry is what a chain of them leads to, the cell
/// continues from there.
///
/// After `Fenced`, the cell has forgotten the entry, and the next call reads it again: a sink that an
/// operator resumes continues from what the store holds by then.
///
/// The caller sets the time-out: each future may be dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydrant::Result<()> {
/// use std::sync::Arc;
/// use hydrant::store::CheckpointCell;
/// use hydrant::{Checkpoint, Event, EventId, MemoryCheckpoints};
///
/// let mut cell = CheckpointCell::new(Arc::new(MemoryCheckpoints::default()), "archive", "s3://bucket/log");
/// assert_eq!(cell.load().await?, None);
/// let checkpoint = Checkpoint::at(&Event::new(EventId::new(7), "it happened")?);
/// cell.swap(checkpoint, None).await?;
/// assert_eq!(cell.load().await?.unwrap().checkpoint, checkpoint);
/// # Ok(()) }
/// ```
pub struct CheckpointCell {
    store: Arc<dyn CheckpointStore>,
    name: String,
    target: String,
    entry: Entry,
    /// Swaps whose outcome is unknown: each may have landed, or may still land. The newest is last.
    open: VecDeque<Swap>,
}

/// What the cell knows of the entry.
#[derive(Debug)]
enum Entry {
    /// The entry was not read yet, or was forgotten.
    Unread,
    /// The entry as read or written last; a swap since then has an unknown outcome.
    Unsettled(Option<CheckpointEntry>),
    /// The entry as read or written last; this cell has not moved it since.
    Settled(Option<CheckpointEntry>),
}

/// A compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Swap {
    expected: Option<CheckpointEntry>,
    new: Option<CheckpointEntry>,
}

impl CheckpointCell {
    /// Creates a cell for the entry `name` of the sink with this `target`. Does not read the store.
    pub fn new(store: Arc<dyn CheckpointStore>, name: impl Into<String>, target: impl Into<String>) -> Self {
        let (name, target) = (name.into(), target.into());
        Self { store, name, target, entry: Entry::Unread, open: VecDeque::new() }
    }

    /// The entry's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The target that the entry belongs to.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Returns the entry as it was read or written last, without asking the store.
    pub fn entry(&self) -> Option<&CheckpointEntry> {
        match &self.entry {
            Entry::Unread => None,
            Entry::Unsettled(entry) | Entry::Settled(entry) => entry.as_ref(),
        }
    }

    /// Returns the entry. Reads the store if nothing is known yet, or the outcome of a swap is unknown.
    ///
    /// # Errors
    /// `Fenced` if another runner moved the entry, `Invalid` if the entry belongs to another target, and any
    /// error of the store.
    ///
    /// # Cancel safety
    /// Reads only.
    pub async fn load(&mut self) -> Result<Option<&CheckpointEntry>> {
        self.settle().await?;
        let other =
            self.entry().filter(|entry| entry.target != self.target).map(|entry| entry.target.clone());
        if let Some(other) = other {
            self.forget();
            return Err(self.belongs_to(&other));
        }
        Ok(self.entry())
    }

    /// Moves the entry to `checkpoint`, with what is kept beside it, and creates it if there is none.
    ///
    /// After `Ok` the entry is exactly that, durably. If the entry was that before, nothing is written.
    ///
    /// # Errors
    /// As [`load`](Self::load). `Safe` only if this call wrote nothing.
    ///
    /// # Cancel safety
    /// After a dropped future, the next call finds out what became of the swap.
    pub async fn swap(&mut self, checkpoint: Checkpoint, beside: Option<Value>) -> Result<()> {
        self.load().await?;
        let new = CheckpointEntry::new(&*self.name, &*self.target, checkpoint).with_beside(beside);
        self.replace(Some(new)).await
    }

    /// Moves the entry to `checkpoint`, and keeps what is beside it: another version may have written that.
    ///
    /// # Errors
    /// As [`swap`](Self::swap).
    ///
    /// # Cancel safety
    /// As [`swap`](Self::swap).
    pub async fn advance(&mut self, checkpoint: Checkpoint) -> Result<()> {
        let beside = self.load().await?.and_then(|entry| entry.beside.clone());
        self.swap(checkpoint, beside).await
    }

    /// Removes the entry, whatever its target. Without an entry, does nothing.
    ///
    /// # Errors
    /// As [`load`](Self::load), except that another target is no error.
    ///
    /// # Cancel safety
    /// As [`swap`](Self::swap).
    pub async fn remove(&mut self) -> Result<()> {
        self.settle().await?;
        self.replace(None).await
    }

    /// Forgets the entry: the next call reads the store, and continues from what it holds.
    ///
    /// Call this only when an operator resumes the sink, because it accepts what another runner wrote. Swaps that
    /// may still land are not forgotten.
    pub fn forget(&mut self) {
        if mutant("resume-keeps-entry") {
            return;
        }
        self.entry = Entry::Unread;
    }

    async fn settle(&mut self) -> Result<()> {
        if matches!(self.entry, Entry::Settled(_)) { Ok(()) } else { self.read().await }
    }

    /// Reads the entry, which must be one that this cell's own swaps can have left.
    async fn read(&mut self) -> Result<()> {
        let loaded = self.store.load(&self.name).await?;
        if !self.is_own(loaded.as_ref()) {
            self.forget();
            return Err(moved(&self.name));
        }
        self.entry = Entry::Settled(loaded);
        Ok(())
    }

    /// Returns whether the entry is the one known last, or open swaps lead from that to it.
    fn is_own(&self, loaded: Option<&CheckpointEntry>) -> bool {
        let known = match &self.entry {
            Entry::Unread => return true,
            Entry::Unsettled(known) | Entry::Settled(known) => known.as_ref(),
        };
        let mut reachable = vec![known];
        let mut at = 0;
        while let Some(&from) = reachable.get(at) {
            if from == loaded {
                return true;
            }
            for swap in self.open.iter().filter(|swap| swap.expected.as_ref() == from) {
                if !reachable.contains(&swap.new.as_ref()) {
                    reachable.push(swap.new.as_ref());
                }
            }
            at += 1;
        }
        false
    }

    /// Replaces the settled entry by `new`.
    async fn replace(&mut self, new: Option<CheckpointEntry>) -> Result<()> {
        // Each round that ends in `Fenced` finds the entry where a swap of this cell landed late.
        for _ in 0..=OPEN_MAX {
            if self.entry() == new.as_ref() {
                return Ok(());
            }
            let swap = Swap { expected: self.entry().cloned(), new: new.clone() };
            match self.attempt(swap).await {
                Err(error) if error.kind() == ErrorKind::Fenced => self.read().await?,
                done => return done,
            }
        }
        self.forget();
        Err(moved(&self.name))
    }

    /// Attempts one swap. The swap is open as long as its outcome is unknown.
    async fn attempt(&mut self, swap: Swap) -> Result<()> {
        // An equal swap may be open already. The outcome of this one then does not close it.
        let was_open = self.open.contains(&swap);
        if !was_open {
            if self.open.len() == OPEN_MAX {
                self.open.pop_front();
            }
            self.open.push_back(swap.clone());
        }
        self.entry = Entry::Unsettled(swap.expected.clone());
        let swapped = self.store.swap(&self.name, swap.expected.as_ref(), swap.new.as_ref()).await;
        let entry = match &swapped {
            Ok(()) => swap.new,
            Err(error) if error.kind() == ErrorKind::Fenced || error.retry() == Retry::Safe => swap.expected,
            Err(_) => return swapped,
        };
        if !was_open {
            self.open.pop_back();
        }
        self.entry = Entry::Settled(entry);
        swapped
    }

    fn belongs_to(&self, other: &str) -> Error {
        let message = format!(
            "this checkpoint belongs to `{other}`, not to `{}`; give the sink another name, or remove the entry \
             so that it starts at the beginning",
            self.target
        );
        Error::invalid(message).at_target(&self.name)
    }
}

/// The error for an entry that another runner moved.
pub(super) fn moved(name: &str) -> Error {
    Error::fenced("another runner moved this checkpoint; end one of the two").at_target(name)
}

impl fmt::Debug for CheckpointCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointCell")
            .field("name", &self.name)
            .field("target", &self.target)
            .field("entry", &self.entry)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}
