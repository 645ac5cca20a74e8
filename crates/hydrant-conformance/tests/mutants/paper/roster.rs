//! Laws 5, 6 and 8 for checkpoints that a store keeps for sinks.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hydrant::{CheckpointEntry, CheckpointStore, Error, Result};
use tokio::task::yield_now;

use super::Shared;
use crate::bugs::Bug;

impl Shared {
    fn swap(&self, expected: Option<&CheckpointEntry>, new: Option<&CheckpointEntry>) -> Result<()> {
        let mut page = self.page();
        if page.entry.as_ref() != expected && !self.has(Bug::SwapsWithoutComparing) {
            return Err(Error::fenced("another runner moved this checkpoint"));
        }
        page.entry = new.cloned();
        Ok(())
    }
}

/// The roster of a store on paper.
pub(crate) struct Roster(pub(crate) Arc<Shared>);

#[async_trait]
impl CheckpointStore for Roster {
    async fn load(&self, name: &str) -> Result<Option<CheckpointEntry>> {
        Ok(self.0.page().entry.clone().filter(|entry| entry.name == name))
    }

    async fn list(&self) -> Result<Vec<CheckpointEntry>> {
        Ok(self.0.page().entry.iter().cloned().collect())
    }

    async fn swap(
        &self,
        _name: &str,
        expected: Option<&CheckpointEntry>,
        new: Option<&CheckpointEntry>,
    ) -> Result<()> {
        yield_now().await;
        if self.0.has(Bug::SwapsLandLate) {
            let (shared, expected, new) = (Arc::clone(&self.0), expected.cloned(), new.cloned());
            let landing = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(25)).await;
                shared.swap(expected.as_ref(), new.as_ref())
            });
            return landing.await.expect("landing does not panic");
        }
        self.0.swap(expected, new)
    }
}
