//! The contract: what a source, a sink and a store are.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use crate::{Batch, Checkpoint, CheckpointEntry, CheckpointStore, Event, EventId, Result};

/// Events in order; an error is the last item.
pub type EventStream = BoxStream<'static, Result<Event>>;

/// Where a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// The first event that the log ever had.
    Origin,
    /// The first event after this one, whether the log has it or not.
    After(EventId),
    /// This event, or the first after it if the log does not have it.
    At(EventId),
    /// The newest snapshot event; the origin if there is none.
    Snapshot,
}

impl ReadFrom {
    /// Converts `At(id)` into a read after the previous id.
    ///
    /// A store matches on this, so that it implements one of the two.
    #[must_use]
    pub fn exclusive(self) -> Self {
        match self {
            Self::At(id) => id.prev().into(),
            other => other,
        }
    }
}

impl From<Option<EventId>> for ReadFrom {
    /// Reads after an event, or from the origin.
    fn from(after: Option<EventId>) -> Self {
        after.map_or(Self::Origin, Self::After)
    }
}

/// Takes events, in order, at least once.
///
/// Its laws are tests in `hydrant-conformance`. In short: acknowledged events are held; appending held events is `Ok`
/// and changes nothing; a hole is `Gap`; another event under a held id is `Fenced`.
#[async_trait]
pub trait EventSink: Send + Sync {
    /// Appends a batch directly after its predecessor. `Ok` means acknowledged, as this sink's page defines it.
    ///
    /// An implementation calls [`Batch::fresh_after`] to learn which events it still has to write.
    ///
    /// # Errors
    /// - `Gap` if the predecessor is missing;
    /// - `Fenced` if another event is held under one of the ids;
    /// - `Pruned` if the batch is below the floor;
    /// - `Invalid`, naming an event that this sink can never take;
    /// - any error of the server or disk.
    ///
    /// [`Retry::Safe`](crate::Retry::Safe) only if nothing was applied.
    ///
    /// # Cancel safety
    /// A dropped future leaves all of the batch or none (with [`Capabilities::ATOMIC`]), else a prefix of it. Work
    /// that continues after the drop ends before the next call on this handle begins.
    async fn append(&self, batch: Batch<'_>) -> Result<()>;

    /// Returns the newest event that this sink holds durably, together with all events before it.
    ///
    /// # Errors
    /// Any error of the server or disk.
    ///
    /// # Cancel safety
    /// Reads only.
    async fn checkpoint(&self) -> Result<Checkpoint>;
}

/// Yields the events of a log, in order, each once.
pub trait EventSource: Send + Sync {
    /// Yields events in order, in bounded memory, up to the end that the log had when the read began.
    ///
    /// An error is the last item. A read that begins below the floor ends with `Pruned`. An event that a crash may
    /// take back is not yielded.
    fn read(&self, from: ReadFrom) -> EventStream;

    /// Like [`read`](Self::read), then yields new events as they are appended. Never ends on its own.
    ///
    /// [`follow_by_reading`](crate::store::follow_by_reading) builds it from `read` for stores without notifications.
    fn follow(&self, from: ReadFrom) -> EventStream;
}

/// A sink that is also a source.
pub trait Store: EventSource + EventSink {}

impl<T: EventSource + EventSink + ?Sized> Store for T {}

/// A store that can remove its oldest segments.
#[async_trait]
pub trait Prune: Store {
    /// Removes sealed segments that end before `before`, and raises the floor. Keeps the newest snapshot.
    ///
    /// # Errors
    /// Any error of the server or disk. Pruning again is safe.
    ///
    /// # Cancel safety
    /// A dropped future leaves a whole log, with the old floor or a higher one. Pruning again is safe.
    async fn prune(&self, before: EventId) -> Result<()>;
}

/// A store that a [`Journal`](crate::Journal) writes to: it fences writers and keeps batches whole.
///
/// A [`FanOut`](crate::FanOut) is one too.
#[async_trait]
pub trait CommitPoint: Store {
    /// Returns the newest event that was acknowledged, durable or not: the predecessor of the next batch.
    ///
    /// Equals [`checkpoint`](EventSink::checkpoint) unless `Ok` from `append` means [`Durability::Accepted`].
    ///
    /// # Errors
    /// Any error of the server or disk.
    ///
    /// # Cancel safety
    /// Reads only.
    async fn head(&self) -> Result<Checkpoint>;

    /// Returns the size of the largest event that it takes, in bytes of [`Event::size`].
    fn event_bytes_max(&self) -> usize;
}

/// A store that is fit to be the commit point of a [`FanOut`](crate::FanOut), and keeps its roster.
pub trait Primary: CommitPoint {
    /// Returns the roster of secondaries, which is kept beside the log.
    fn roster(&self) -> Arc<dyn CheckpointStore>;

    /// Returns what `Ok` from `append` means.
    fn durability(&self) -> Durability;
}

/// What `Ok` from a primary's `append` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The batch is durable.
    Durable,
    /// The batch is accepted. `checkpoint` follows once it is durable, and only then do readers see it.
    Accepted,
}

/// What a store can do: a closed list that it declares and the conformance kit holds it to.
///
/// ```
/// use hydrant::Capabilities;
///
/// let primary = Capabilities::ALL;
/// assert!(primary.has(Capabilities::FENCING));
/// assert_eq!((Capabilities::SOURCE | Capabilities::MEMORY).to_string(), "Source, Memory");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capabilities(u8);

impl Capabilities {
    /// A plain sink that can do nothing of this list.
    pub const NONE: Self = Self(0);
    /// It can be read.
    pub const SOURCE: Self = Self(1);
    /// Appending what is held changes nothing.
    pub const IDEMPOTENT: Self = Self(1 << 1);
    /// Another event under a held id, or a second writer, is `Fenced`.
    pub const FENCING: Self = Self(1 << 2);
    /// A crash leaves all of a batch or none.
    pub const ATOMIC: Self = Self(1 << 3);
    /// It has a checkpoint of its own.
    pub const MEMORY: Self = Self(1 << 4);
    /// It keeps segments, which a snapshot event opens, and can prune them.
    pub const SEGMENTS: Self = Self(1 << 5);
    /// All of the list.
    pub const ALL: Self = Self((1 << 6) - 1);

    const NAMES: [&'static str; 6] = ["Source", "Idempotent", "Fencing", "Atomic", "Memory", "Segments"];

    /// Returns whether it can do all of `other`.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns all of this and of `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns all of this but `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl std::ops::BitOr for Capabilities {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (bit, name) in Self::NAMES.iter().enumerate() {
            if self.0 & (1 << bit) != 0 {
                f.write_str(if first { "" } else { ", " })?;
                f.write_str(name)?;
                first = false;
            }
        }
        if first { f.write_str("none") } else { Ok(()) }
    }
}

/// Forwards the contract through a pointer, so that `Arc<dyn EventSink>` and `Box<dyn Primary>` are themselves
/// sinks and primaries.
macro_rules! forward {
    ($pointer:ident) => {
        #[async_trait]
        impl<T: EventSink + ?Sized> EventSink for $pointer<T> {
            async fn append(&self, batch: Batch<'_>) -> Result<()> {
                (**self).append(batch).await
            }

            async fn checkpoint(&self) -> Result<Checkpoint> {
                (**self).checkpoint().await
            }
        }

        impl<T: EventSource + ?Sized> EventSource for $pointer<T> {
            fn read(&self, from: ReadFrom) -> EventStream {
                (**self).read(from)
            }

            fn follow(&self, from: ReadFrom) -> EventStream {
                (**self).follow(from)
            }
        }

        #[async_trait]
        impl<T: Prune + ?Sized> Prune for $pointer<T> {
            async fn prune(&self, before: EventId) -> Result<()> {
                (**self).prune(before).await
            }
        }

        #[async_trait]
        impl<T: CommitPoint + ?Sized> CommitPoint for $pointer<T> {
            async fn head(&self) -> Result<Checkpoint> {
                (**self).head().await
            }

            fn event_bytes_max(&self) -> usize {
                (**self).event_bytes_max()
            }
        }

        impl<T: Primary + ?Sized> Primary for $pointer<T> {
            fn roster(&self) -> Arc<dyn CheckpointStore> {
                (**self).roster()
            }

            fn durability(&self) -> Durability {
                (**self).durability()
            }
        }

        #[async_trait]
        impl<T: CheckpointStore + ?Sized> CheckpointStore for $pointer<T> {
            async fn load(&self, name: &str) -> Result<Option<CheckpointEntry>> {
                (**self).load(name).await
            }

            async fn list(&self) -> Result<Vec<CheckpointEntry>> {
                (**self).list().await
            }

            async fn swap(
                &self,
                name: &str,
                expected: Option<&CheckpointEntry>,
                new: Option<&CheckpointEntry>,
            ) -> Result<()> {
                (**self).swap(name, expected, new).await
            }
        }
    };
}

forward!(Arc);
forward!(Box);
