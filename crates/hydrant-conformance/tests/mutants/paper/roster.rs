//! Laws 5, 6 and 8 for checkpoints that a store keeps for sinks.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hydrant::{CheckpointEntry, CheckpointStore, Error, Result};
use serde_json::Value;
use tokio::task::yield_now;

use super::Shared;
use crate::bugs::Bug;

/// The roster of a store on paper.
pub(crate) struct Roster(pub(crate) Arc<Shared>);

impl Shared {
    /// The name that an entry is kept under.
    fn kept_as(&self, name: &str) -> String {
        if self.has(Bug::FoldsNames) { name.to_lowercase() } else { name.to_owned() }
    }

    fn compare_entry(&self, name: &str, expected: Option<&CheckpointEntry>) -> Result<()> {
        if self.page().entries.get(&self.kept_as(name)) != expected && !self.has(Bug::SwapsWithoutComparing) {
            return Err(Error::fenced("another runner moved this checkpoint"));
        }
        Ok(())
    }

    fn keep_entry(&self, name: &str, new: Option<&CheckpointEntry>) {
        let name = self.kept_as(name);
        let mut page = self.page();
        match new.cloned() {
            Some(mut entry) => {
                if self.has(Bug::KeepsKnownMembers)
                    && let Some(Value::Object(members)) = &mut entry.beside
                {
                    members.retain(|name, _| name.len() == 1);
                }
                drop(page.entries.insert(name, entry));
            }
            None => drop(page.entries.remove(&name)),
        }
    }

    fn swap(
        &self,
        name: &str,
        expected: Option<&CheckpointEntry>,
        new: Option<&CheckpointEntry>,
    ) -> Result<()> {
        self.compare_entry(name, expected)?;
        self.keep_entry(name, new);
        Ok(())
    }
}

#[async_trait]
impl CheckpointStore for Roster {
    async fn load(&self, name: &str) -> Result<Option<CheckpointEntry>> {
        Ok(self.0.page().entries.get(&self.0.kept_as(name)).cloned())
    }

    async fn list(&self) -> Result<Vec<CheckpointEntry>> {
        let mut entries: Vec<_> = self.0.page().entries.values().cloned().collect();
        if self.0.has(Bug::ListsInAnyOrder) {
            entries.reverse();
        }
        Ok(entries)
    }

    async fn swap(
        &self,
        name: &str,
        expected: Option<&CheckpointEntry>,
        new: Option<&CheckpointEntry>,
    ) -> Result<()> {
        if new.is_some_and(|new| new.name != name) && !self.0.has(Bug::KeepsForeignEntries) {
            return Err(Error::invalid("the entry has another name"));
        }
        yield_now().await;
        if self.0.has(Bug::SwapsLandLate) {
            let (shared, name) = (Arc::clone(&self.0), name.to_owned());
            let (expected, new) = (expected.cloned(), new.cloned());
            let landing = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(25)).await;
                shared.swap(&name, expected.as_ref(), new.as_ref())
            });
            return landing.await.expect("landing does not panic");
        }
        if self.0.has(Bug::SwapsWithoutTurns) {
            self.0.compare_entry(name, expected)?;
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.0.keep_entry(name, new);
            return Ok(());
        }
        let _turn = self.0.turn.lock().await;
        self.0.swap(name, expected, new)
    }
}
