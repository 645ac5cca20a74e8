//! Positions in the stream, kept so that a read after an event does not begin at the oldest record.

use std::sync::Arc;
use std::time::Duration;

use hydrant::store::CheckpointCell;
use hydrant::{Checkpoint, CheckpointEntry, Digest, ErrorKind, EventId, ReadFrom, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::lineage::ShardId;
use super::upstream::{SequenceNumber, Upstream};

/// How many positions are kept, the newest close together and the older ones further and further apart, so that
/// a reader that lags far behind finds one, too.
const POSITIONS_MAX: usize = 8;

/// How long the store may take before the read continues without it.
const PATIENCE: Duration = Duration::from_secs(5);

/// A place in the stream: every event after `last` is behind it.
///
/// It may be earlier in the stream than necessary, never later: what is read again is dropped by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) last: (EventId, Digest),
    /// The shards that were being read, and the last record of each that is disposed of. Their ancestors are
    /// disposed of, all others are not begun.
    pub(crate) shards: Vec<(ShardId, Option<SequenceNumber>)>,
}

/// What an entry keeps beside its checkpoint.
#[derive(Serialize, Deserialize)]
struct Beside<'a> {
    /// The name of each shard, and a sequence number in it.
    #[serde(borrow)]
    shards: Vec<(&'a str, Option<&'a str>)>,
}

impl Position {
    fn checkpoint(&self) -> Checkpoint {
        let (id, digest) = self.last;
        Checkpoint::At { id, digest }
    }

    fn beside(&self) -> Value {
        let shards = self.shards.iter().map(|(shard, number)| (&**shard, number.as_deref())).collect();
        serde_json::to_value(Beside { shards }).expect("text and lists are JSON")
    }

    fn of(entry: &CheckpointEntry) -> Option<Self> {
        let Checkpoint::At { id, digest } = entry.checkpoint else { return None };
        let beside = Beside::deserialize(entry.beside.as_ref()?).ok()?;
        let shards = beside.shards.into_iter().map(|(shard, number)| (shard.into(), number.map(Into::into)));
        Some(Self { last: (id, digest), shards: shards.collect() })
    }
}

/// The positions of one log in a [`CheckpointStore`](hydrant::CheckpointStore).
pub(crate) struct Positions {
    name: String,
    slots: Vec<Slot>,
    snapshot: Slot,
}

/// One entry, and its position.
struct Slot {
    cell: CheckpointCell,
    position: Option<Position>,
    /// Whether the entry belongs to another log, or to a stream that was made anew.
    is_foreign: bool,
}

impl Slot {
    fn new(cell: CheckpointCell) -> Self {
        Self { cell, position: None, is_foreign: false }
    }

    fn id(&self) -> Option<EventId> {
        self.position.as_ref().map(|position| position.last.0)
    }

    /// Reads the entry, unless it is known. A foreign one counts as none.
    async fn load(&mut self) -> Result<()> {
        match self.cell.load().await {
            Ok(entry) => (self.position, self.is_foreign) = (entry.and_then(Position::of), false),
            Err(error) if error.kind() == ErrorKind::Invalid => {
                tracing::warn!(%error, "the position is of another log or stream; reading without it");
                (self.position, self.is_foreign) = (None, true);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Writes a position, unless another reader wrote one first.
    async fn save(&mut self, position: Position) -> Result<()> {
        if self.position.is_none() {
            self.load().await?;
            if self.position.is_some() {
                return Ok(());
            }
        }
        if self.is_foreign {
            self.cell.remove().await?;
            self.is_foreign = false;
        }
        self.cell.swap(position.checkpoint(), Some(position.beside())).await?;
        self.position = Some(position);
        Ok(())
    }
}

impl Positions {
    /// The positions of this log, or nothing if the options name no place. A store that fails or does not answer
    /// in time costs time and no event, so that is logged and not an error.
    pub(crate) async fn load(upstream: &Upstream, incarnation: &str) -> Option<Self> {
        let (store, name) = upstream.options.positions.clone()?;
        let target = format!("kinesis:{}@{incarnation}/{}", upstream.stream, upstream.log);
        let slot = |name: String| Slot::new(CheckpointCell::new(Arc::clone(&store), name, &*target));
        let slots = (0..POSITIONS_MAX).map(|at| slot(format!("{name}.{at}"))).collect();
        let snapshot = slot(format!("{name}.snapshot"));
        let mut positions = Self { name, slots, snapshot };
        let loaded = timeout(PATIENCE, positions.load_all()).await;
        if let Some(why) = failure(loaded) {
            tracing::warn!(positions = positions.name, %why, "no position was found; reading without it");
        }
        Some(positions)
    }

    async fn load_all(&mut self) -> Result<()> {
        for slot in self.slots.iter_mut().chain([&mut self.snapshot]) {
            slot.load().await?;
        }
        Ok(())
    }

    /// The newest position that a read from there may begin at.
    pub(crate) fn best(&self, from: ReadFrom) -> Option<Position> {
        match from.exclusive() {
            ReadFrom::After(id) => {
                let below = self.slots.iter().filter(|slot| slot.id().is_some_and(|at| at <= id));
                below.max_by_key(|slot| slot.id()).and_then(|slot| slot.position.clone())
            }
            ReadFrom::Snapshot => self.snapshot.position.clone(),
            ReadFrom::Origin | ReadFrom::At(_) => None,
        }
    }

    /// Keeps a position. A failure costs time at the next start and no event, so it is logged and not an error.
    ///
    /// # Cancel safety
    /// A dropped future leaves the old entry or the new one.
    pub(crate) async fn save(&mut self, position: Position) {
        let slot = self.slot_for(position.last.0);
        if let Some(slot) = slot {
            self.replace(slot, position).await;
        }
    }

    /// Keeps the position right before the newest snapshot event.
    ///
    /// # Cancel safety
    /// As [`save`](Self::save).
    pub(crate) async fn save_snapshot(&mut self, position: Position) {
        if self.snapshot.id() < Some(position.last.0) {
            self.replace(POSITIONS_MAX, position).await;
        }
    }

    /// The slot that is free, or the one that is missed least: close to its neighbours for its age.
    fn slot_for(&self, newest: EventId) -> Option<usize> {
        if self.slots.iter().any(|slot| slot.id() >= Some(newest)) {
            return None; // another reader is ahead
        }
        if let Some(free) = self.slots.iter().position(|slot| slot.position.is_none()) {
            return Some(free);
        }
        let mut by_id: Vec<(u64, usize)> =
            self.slots.iter().enumerate().filter_map(|(at, slot)| Some((slot.id()?.get(), at))).collect();
        by_id.sort_unstable();
        let missed = |window: &&[(u64, usize)]| {
            let span = u128::from(window[2].0 - window[0].0);
            span * 1_000 / u128::from(newest.get() - window[1].0)
        };
        by_id.windows(3).min_by_key(missed).map(|window| window[1].1)
    }

    async fn replace(&mut self, at: usize, position: Position) {
        let slot = if at < POSITIONS_MAX { &mut self.slots[at] } else { &mut self.snapshot };
        let saved = timeout(PATIENCE, slot.save(position)).await;
        let Some(why) = failure(saved) else { return };
        tracing::warn!(positions = self.name, %why, "a position was not saved; reading continues");
        // Perhaps another reader moved the entry: read it for the next time.
        drop(timeout(PATIENCE, slot.load()).await);
    }
}

/// Why the store did not do it.
fn failure(answer: Result<Result<()>, Elapsed>) -> Option<String> {
    match answer {
        Ok(answer) => answer.err().map(|error| error.to_string()),
        Err(_) => Some(format!("no answer within {PATIENCE:?}")),
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use hydrant::{CheckpointStore, Error, Event, MemoryCheckpoints};

    use super::*;
    use crate::KinesisSourceOptions;

    /// A store that errs or hangs, after so many answers.
    struct Failing {
        entries: MemoryCheckpoints,
        answers: std::sync::atomic::AtomicUsize,
        hangs: bool,
    }

    impl Failing {
        async fn answer(&self) -> Result<()> {
            use std::sync::atomic::Ordering::Relaxed;
            if self.answers.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                return Ok(());
            }
            if self.hangs {
                std::future::pending::<()>().await;
            }
            Err(Error::unavailable("failing for a test"))
        }
    }

    #[async_trait]
    impl CheckpointStore for Failing {
        async fn load(&self, name: &str) -> Result<Option<CheckpointEntry>> {
            self.answer().await?;
            self.entries.load(name).await
        }

        async fn list(&self) -> Result<Vec<CheckpointEntry>> {
            self.answer().await?;
            self.entries.list().await
        }

        async fn swap(
            &self,
            name: &str,
            expected: Option<&CheckpointEntry>,
            new: Option<&CheckpointEntry>,
        ) -> Result<()> {
            self.answer().await?;
            self.entries.swap(name, expected, new).await
        }
    }

    fn position(id: u64) -> Position {
        let event = Event::new(EventId::new(id), &id).unwrap();
        Position { last: (event.id(), event.digest()), shards: vec![("shardId-0".into(), Some("49".into()))] }
    }

    async fn load(store: impl CheckpointStore + 'static) -> Positions {
        let options = KinesisSourceOptions::default().with_positions(Arc::new(store), "reader");
        let upstream = Upstream::new(crate::client::nowhere().await, "stream", "log", options);
        Positions::load(&upstream, "1").await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_costs_time_and_no_read() {
        let entries = MemoryCheckpoints::default();
        load(entries.clone()).await.save(position(7)).await;
        for hangs in [false, true] {
            for answers in 0..=9 {
                let mut positions =
                    load(Failing { entries: entries.clone(), answers: answers.into(), hangs }).await;
                let found = positions.best(ReadFrom::After(EventId::new(9)));
                assert_eq!(found, (answers > 0).then(|| position(7)), "{answers} answers");
                positions.save(position(8)).await;
            }
        }
        let mut healed = load(entries.clone()).await;
        assert_eq!(healed.best(ReadFrom::After(EventId::new(9))), Some(position(7)));
        healed.save(position(8)).await;
        assert_eq!(load(entries).await.best(ReadFrom::After(EventId::new(9))), Some(position(8)));
    }

    #[tokio::test(start_paused = true)]
    async fn positions_come_back_with_their_shards() {
        let entries = MemoryCheckpoints::default();
        let mut kept = position(7);
        kept.shards = vec![("b=1;".into(), None), ("a".into(), Some("49".into()))];
        load(entries.clone()).await.save(kept.clone()).await;
        assert_eq!(load(entries.clone()).await.best(ReadFrom::After(EventId::new(9))), Some(kept));
        let entry = entries.load("reader.0").await.unwrap().unwrap();
        assert_eq!(entry.target, "kinesis:stream@1/log");
        assert_eq!(entry.beside, Some(serde_json::json!({"shards": [["b=1;", null], ["a", "49"]]})));
    }

    #[tokio::test(start_paused = true)]
    async fn the_position_of_another_stream_is_replaced() {
        let entries = MemoryCheckpoints::default();
        let other = CheckpointEntry::new("reader.0", "kinesis:stream@0/log", position(5).checkpoint());
        entries.swap("reader.0", None, Some(&other.with_beside(position(5).beside()))).await.unwrap();
        let mut positions = load(entries.clone()).await;
        assert_eq!(positions.best(ReadFrom::After(EventId::new(9))), None);
        positions.save(position(8)).await;
        assert_eq!(load(entries).await.best(ReadFrom::After(EventId::new(9))), Some(position(8)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_position_of_another_reader_is_read_again() {
        let entries = MemoryCheckpoints::default();
        let (mut one, mut other) = (load(entries.clone()).await, load(entries.clone()).await);
        one.save(position(7)).await;
        other.save(position(8)).await; // finds the slot moved
        assert_eq!(other.best(ReadFrom::After(EventId::new(9))), Some(position(7)));
        other.save(position(8)).await;
        let found = load(entries).await;
        assert_eq!(found.best(ReadFrom::After(EventId::new(9))), Some(position(8)));
        assert_eq!(found.best(ReadFrom::After(EventId::new(7))), Some(position(7)));
    }
}
