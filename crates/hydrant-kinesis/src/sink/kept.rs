//! The checkpoint that a store keeps for the sink.

use std::sync::Arc;
use std::time::Duration;

use hydrant::store::CheckpointCell;
use hydrant::{Checkpoint, CheckpointStore, Error, ErrorKind, Result};
use tokio::time::{Instant, timeout};

/// How long the store may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// One entry in a store of checkpoints. It may lag behind what the stream holds, and is never ahead of it.
pub(super) struct Kept {
    cell: CheckpointCell,
    /// Without an entry: the oldest checkpoint that a save may have written.
    wished: Option<Checkpoint>,
    saved_at: Instant,
}

impl Kept {
    /// # Errors
    /// `Invalid` if the entry belongs to another stream or log, and any error of the store.
    pub(super) async fn load(store: Arc<dyn CheckpointStore>, name: &str, target: String) -> Result<Self> {
        let mut cell = CheckpointCell::new(store, name, target);
        let loaded = timeout(PATIENCE, cell.load()).await.map_err(|_| late(name))?;
        loaded.map_err(|error| if error.kind() == ErrorKind::Invalid { foreign(&error) } else { error })?;
        Ok(Self { cell, wished: None, saved_at: Instant::now() })
    }

    pub(super) fn checkpoint(&self) -> Option<Checkpoint> {
        self.cell.entry().map(|entry| entry.checkpoint)
    }

    /// What the sink will know when it is opened again, if its events end at `head`: the entry, or what it then
    /// reads from the stream.
    pub(super) fn known_again(&self, head: Checkpoint) -> Checkpoint {
        self.checkpoint().or(self.wished).unwrap_or(head)
    }

    /// Writes the checkpoint.
    ///
    /// # Errors
    /// `Fenced` if another runner moved the entry: then two sinks write this log. With any other error, the
    /// entry may have been written all the same.
    ///
    /// # Cancel safety
    /// After a dropped future, the next call finds out what became of the entry.
    pub(super) async fn save(&mut self, checkpoint: Checkpoint) -> Result<()> {
        // An entry would keep the sink from reading the stream back.
        let is_empty = checkpoint == Checkpoint::Empty;
        if is_empty || self.checkpoint() == Some(checkpoint) {
            return Ok(());
        }
        self.saved_at = Instant::now();
        self.wished.get_or_insert(checkpoint);
        let saved = timeout(PATIENCE, self.cell.swap(checkpoint, None)).await;
        saved.unwrap_or_else(|_| Err(late(self.cell.name())))?;
        self.wished = None;
        Ok(())
    }

    /// The same, if the last time is at least `interval` ago. If the store fails, the checkpoint is written later:
    /// the stream holds the events all the same.
    ///
    /// # Errors
    /// `Fenced` as above, and nothing else.
    ///
    /// # Cancel safety
    /// As above.
    pub(super) async fn save_loosely(&mut self, checkpoint: Checkpoint, interval: Duration) -> Result<()> {
        if self.saved_at.elapsed() < interval {
            return Ok(());
        }
        match self.save(checkpoint).await {
            Err(error) if error.kind() != ErrorKind::Fenced => {
                let name = self.cell.name();
                tracing::warn!(name, %error, "the checkpoint was not written; it is written later");
                Ok(())
            }
            saved => saved,
        }
    }
}

/// The error for the entry of another stream or log.
fn foreign(error: &Error) -> Error {
    let message = format!(
        "{}. Do that only if the stream was made anew and holds nothing of this log; if it holds later events \
         already, send the log under another name",
        error.message()
    );
    let foreign = Error::invalid(message);
    match error.target() {
        Some(name) => foreign.at_target(name),
        None => foreign,
    }
}

fn late(name: &str) -> Error {
    let message = format!("the store of checkpoints did not answer within {PATIENCE:?}; check it");
    Error::unavailable(message).at_target(name)
}

#[cfg(test)]
mod tests {
    use hydrant::{CheckpointEntry, Event, EventId, MemoryCheckpoints};

    use super::*;

    fn at(id: u64) -> Checkpoint {
        Checkpoint::at(&Event::new(EventId::new(id), &id).unwrap())
    }

    async fn load(store: &MemoryCheckpoints, target: &str) -> Result<Kept> {
        Kept::load(Arc::new(store.clone()), "sink", target.to_owned()).await
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_written_at_its_pace_and_found_again() {
        let store = MemoryCheckpoints::default();
        let mut kept = load(&store, "a").await.unwrap();
        assert_eq!(kept.checkpoint(), None);
        let second = Duration::from_secs(1);
        kept.save_loosely(at(1), second).await.unwrap();
        assert_eq!(kept.checkpoint(), None, "not yet");
        tokio::time::advance(second).await;
        kept.save_loosely(at(2), second).await.unwrap();
        kept.save_loosely(at(3), second).await.unwrap();
        assert_eq!(load(&store, "a").await.unwrap().checkpoint(), Some(at(2)));
        kept.save(at(4)).await.unwrap();
        assert_eq!(load(&store, "a").await.unwrap().checkpoint(), Some(at(4)));
    }

    /// Swaps, or not; replies to no one.
    struct Silent {
        store: MemoryCheckpoints,
        swaps: bool,
    }

    #[async_trait::async_trait]
    impl CheckpointStore for Silent {
        async fn load(&self, name: &str) -> Result<Option<CheckpointEntry>> {
            self.store.load(name).await
        }

        async fn list(&self) -> Result<Vec<CheckpointEntry>> {
            self.store.list().await
        }

        async fn swap(
            &self,
            name: &str,
            expected: Option<&CheckpointEntry>,
            new: Option<&CheckpointEntry>,
        ) -> Result<()> {
            if self.swaps {
                self.store.swap(name, expected, new).await?;
            }
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_swap_bounds_what_is_known_again() {
        for swaps in [false, true] {
            let store = MemoryCheckpoints::default();
            let silent = Arc::new(Silent { store: store.clone(), swaps });
            let mut kept = Kept::load(silent.clone(), "sink", "a".to_owned()).await.unwrap();
            assert_eq!(kept.known_again(at(3)), at(3), "the stream is read back");
            assert_eq!(kept.save(at(3)).await.unwrap_err().kind(), ErrorKind::Unavailable);
            kept.save_loosely(at(4), Duration::ZERO).await.unwrap();
            let again = Kept::load(silent, "sink", "a".to_owned()).await.unwrap().known_again(at(4));
            let known = kept.known_again(at(4));
            assert!(known == at(3) && known.id() <= again.id(), "{known:?}, then {again:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_runner_is_fenced_and_another_target_invalid() {
        let store = MemoryCheckpoints::default();
        let (mut one, mut other) = (load(&store, "a").await.unwrap(), load(&store, "a").await.unwrap());
        one.save(at(1)).await.unwrap();
        let error = other.save(at(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced);
        other.save(at(2)).await.unwrap(); // resumed
        let error = load(&store, "b").await.err().unwrap();
        assert!(error.to_string().contains("belongs to `a`"), "{error}");
    }
}
