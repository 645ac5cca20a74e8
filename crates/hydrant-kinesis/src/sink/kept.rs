//! The checkpoint that a store keeps for the sink.

use std::sync::Arc;
use std::time::Duration;

use hydrant::{Checkpoint, CheckpointEntry, CheckpointStore, Error, ErrorKind, Result, Retry};
use tokio::time::{Instant, timeout};

/// How long the store may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// One entry in a store of checkpoints. It may lag behind what the stream holds, and is never ahead of it.
pub(super) struct Kept {
    name: String,
    target: String,
    entry: Option<CheckpointEntry>,
    /// What a swap wanted to write whose outcome is open.
    pending: Option<CheckpointEntry>,
    saved_at: Instant,
    store: Arc<dyn CheckpointStore>,
}

impl Kept {
    /// # Errors
    /// `Invalid` when the entry belongs to another stream or log, and whatever the store meets.
    pub(super) async fn load(store: Arc<dyn CheckpointStore>, name: &str, target: String) -> Result<Self> {
        let loading = timeout(PATIENCE, store.load(name)).await;
        let entry = loading.map_err(|_| late(name))??;
        if let Some(entry) = &entry
            && entry.target != target
        {
            let message = format!(
                "this checkpoint belongs to `{}`, not to `{target}`; give the sink another name, or, if the \
                 stream was made anew and holds nothing of this log, remove the entry so that the log is sent from its \
                 beginning; if it holds later events already, send the log under another name",
                entry.target
            );
            return Err(Error::invalid(message).at_target(name));
        }
        let name = name.to_owned();
        Ok(Self { name, target, entry, pending: None, saved_at: Instant::now(), store })
    }

    pub(super) fn checkpoint(&self) -> Option<Checkpoint> {
        self.entry.as_ref().map(|entry| entry.checkpoint)
    }

    /// What the sink will know when it is opened again, where its events are known to end at `head`: the entry, or
    /// what the stream itself tells.
    pub(super) fn known_again(&self, head: Checkpoint) -> Checkpoint {
        let entry = self.entry.as_ref().or(self.pending.as_ref());
        entry.map_or(head, |entry| entry.checkpoint)
    }

    /// Writes the checkpoint.
    ///
    /// # Errors
    /// `Fenced` when another runner moved the entry: then two sinks write this log. Whatever else the store meets;
    /// the entry may have been written all the same.
    ///
    /// # Cancel safety
    /// Dropped, the next call finds out what became of the entry.
    pub(super) async fn save(&mut self, checkpoint: Checkpoint) -> Result<()> {
        // An entry would keep the sink from reading the stream back.
        let is_empty = checkpoint == Checkpoint::Empty;
        if is_empty || self.checkpoint() == Some(checkpoint) {
            return Ok(());
        }
        self.saved_at = Instant::now();
        let saved = timeout(PATIENCE, self.swap(checkpoint)).await;
        saved.unwrap_or_else(|_| Err(late(&self.name)))
    }

    /// The same, if the last time is at least `interval` ago. What cannot be written now is written later: the
    /// stream holds the events all the same.
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
                tracing::warn!(name = self.name, %error, "the checkpoint was not written; trying again later");
                Ok(())
            }
            saved => saved,
        }
    }

    async fn swap(&mut self, checkpoint: Checkpoint) -> Result<()> {
        if let Some(pending) = &self.pending {
            let loaded = self.store.load(&self.name).await?;
            if loaded.as_ref() == Some(pending) {
                self.entry = loaded;
            }
            self.pending = None;
        }
        let new = CheckpointEntry::new(&*self.name, &*self.target, checkpoint);
        self.pending = Some(new.clone());
        let swapped = self.store.swap(&self.name, self.entry.as_ref(), Some(&new)).await;
        match &swapped {
            Ok(()) => (self.entry, self.pending) = (Some(new), None),
            Err(error) if error.kind() == ErrorKind::Fenced => self.pending = None,
            Err(_) => {}
        }
        swapped
    }
}

fn late(name: &str) -> Error {
    let message = format!("the store of checkpoints did not answer within {PATIENCE:?}; check it");
    Error::new(ErrorKind::Unavailable, Retry::Safe, message).at_target(name)
}

#[cfg(test)]
mod tests {
    use hydrant::{Event, EventId, MemoryCheckpoints};

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

    #[tokio::test(start_paused = true)]
    async fn an_entry_whose_outcome_is_open_is_what_may_be_known_again() {
        let mut kept = load(&MemoryCheckpoints::default(), "a").await.unwrap();
        assert_eq!(kept.known_again(at(3)), at(3), "the stream is read back");
        let of = |id| CheckpointEntry::new("sink", "a", at(id));
        kept.pending = Some(of(2));
        assert_eq!(kept.known_again(at(3)), at(2));
        kept.entry = Some(of(1));
        assert_eq!(kept.known_again(at(3)), at(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_runner_and_another_target_are_told() {
        let store = MemoryCheckpoints::default();
        let (mut one, mut other) = (load(&store, "a").await.unwrap(), load(&store, "a").await.unwrap());
        one.save(at(1)).await.unwrap();
        let error = other.save(at(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced);
        let error = load(&store, "b").await.err().unwrap();
        assert!(error.to_string().contains("belongs to `a`"), "{error}");
    }
}
