//! Positions in the stream, kept so that a read after an event does not begin at the oldest record.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use hydrant::{Checkpoint, CheckpointEntry, CheckpointStore, Digest, EventId, ReadFrom, Result};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::lineage::ShardId;
use super::upstream::{SequenceNumber, Upstream};

/// How many positions are kept, the newest close together and the older ones further and further apart, so that
/// a reader that lags far behind finds one, too.
const POSITIONS_MAX: usize = 8;

/// How long the store may take, before reading goes on without it.
const PATIENCE: Duration = Duration::from_secs(5);

/// A place in the stream: every event behind `last` stands behind it.
///
/// It may be earlier in the stream than necessary, never later: what is read again is dropped by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) last: (EventId, Digest),
    /// The shards that were being read, and the last record of each that is disposed of. Their ancestors are
    /// disposed of, all others are not begun.
    pub(crate) shards: Vec<(ShardId, Option<SequenceNumber>)>,
}

impl Position {
    /// The shards as text: `shardId-0=4959...;shardId-1=`.
    fn encode(&self) -> String {
        let mut text = String::new();
        for (shard, number) in &self.shards {
            let separator = if text.is_empty() { "" } else { ";" };
            let number = number.as_deref().unwrap_or_default();
            write!(text, "{separator}{shard}={number}").expect("a string takes every write");
        }
        text
    }

    fn decode(text: &str, last: (EventId, Digest)) -> Option<Self> {
        let shard = |part: &str| {
            let (shard, number) = part.split_once('=')?;
            Some((shard.into(), (!number.is_empty()).then(|| number.into())))
        };
        let shards = text.split(';').map(shard).collect::<Option<_>>()?;
        Some(Self { last, shards })
    }
}

/// The positions of one log in a [`CheckpointStore`].
pub(crate) struct Positions {
    store: Arc<dyn CheckpointStore>,
    name: String,
    target: String,
    slots: Vec<Slot>,
    snapshot: Slot,
}

/// One entry, and what it says.
#[derive(Clone, Debug)]
struct Slot {
    name: String,
    entry: Option<CheckpointEntry>,
    position: Option<Position>,
}

impl Slot {
    fn empty(name: String) -> Self {
        Self { name, entry: None, position: None }
    }

    fn id(&self) -> Option<EventId> {
        self.position.as_ref().map(|position| position.last.0)
    }
}

impl Positions {
    /// What is kept for this log, or nothing where the options name no place. What the store does not tell in time
    /// costs time and no event, so it is said and not an error.
    pub(crate) async fn load(upstream: &Upstream, incarnation: &str) -> Option<Self> {
        let (store, name) = upstream.options.positions.clone()?;
        let target = format!("kinesis:{}@{incarnation}/{}#", upstream.stream, upstream.log);
        let names = (0..POSITIONS_MAX).map(|slot| format!("{name}.{slot}"));
        let slots = names.map(Slot::empty).collect();
        let snapshot = Slot::empty(format!("{name}.snapshot"));
        let mut positions = Self { store, name, target, slots, snapshot };
        let loaded = timeout(PATIENCE, positions.load_all()).await;
        if let Some(why) = failure(loaded) {
            tracing::warn!(positions = positions.name, %why, "no position was found; reading without it");
        }
        Some(positions)
    }

    async fn load_all(&mut self) -> Result<()> {
        for slot in self.slots.iter_mut().chain([&mut self.snapshot]) {
            *slot = load(&*self.store, &self.target, slot.name.clone()).await?;
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

    /// Keeps a position. That it could not be kept costs time at the next start and no event, so it is said
    /// and not an error.
    ///
    /// # Cancel safety
    /// The old entry stands, or the new one.
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
            return None; // somebody reads ahead of this reader
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
        let (id, digest) = position.last;
        let target = format!("{}{}", self.target, position.encode());
        let entry = CheckpointEntry::new(&*slot.name, target, Checkpoint::At { id, digest });
        let swap = self.store.swap(&slot.name, slot.entry.as_ref(), Some(&entry));
        let Some(why) = failure(timeout(PATIENCE, swap).await) else {
            (slot.entry, slot.position) = (Some(entry), Some(position));
            return;
        };
        tracing::warn!(positions = self.name, %why, "a position was not saved; reading goes on");
        // Perhaps another reader moved the entry, or the answer was lost: look at it for the next time.
        let look = load(&*self.store, &self.target, slot.name.clone());
        if let Ok(Ok(found)) = timeout(PATIENCE, look).await {
            *slot = found;
        }
    }
}

/// Why the store did not do it.
fn failure(answer: Result<Result<()>, Elapsed>) -> Option<String> {
    match answer {
        Ok(answer) => answer.err().map(|error| error.to_string()),
        Err(_) => Some(format!("no answer within {PATIENCE:?}")),
    }
}

/// What an entry says; nothing where it belongs to another log, or to a stream that was made anew.
async fn load(store: &dyn CheckpointStore, target: &str, name: String) -> Result<Slot> {
    let entry = store.load(&name).await?;
    let position = entry.as_ref().and_then(|entry| {
        let Checkpoint::At { id, digest } = entry.checkpoint else { return None };
        Position::decode(entry.target.strip_prefix(target)?, (id, digest))
    });
    if let (Some(entry), None) = (&entry, &position) {
        tracing::warn!(
            name,
            target = entry.target,
            "the position is of another log or stream; reading without it"
        );
    }
    Ok(Slot { name, entry, position })
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use hydrant::{Error, ErrorKind, Event, MemoryCheckpoints, Retry};

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
            Err(Error::new(ErrorKind::Unavailable, Retry::Safe, "failing for a test"))
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
}
