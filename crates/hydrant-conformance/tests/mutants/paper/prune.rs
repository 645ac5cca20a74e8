//! Pruning, for the laws that have a floor.

use std::time::Duration;

use async_trait::async_trait;
use hydrant::{EventId, Prune, Result};
use tokio::task::yield_now;

use super::{Page, Paper};
use crate::bugs::Bug;

#[async_trait]
impl Prune for Paper {
    async fn prune(&self, before: EventId) -> Result<()> {
        let ends_before = |page: &Page, at: usize| {
            page.events[at].is_snapshot() && at > 0 && page.events[at - 1].id() < before
        };
        let kept = {
            let mut page = self.shared.page();
            // Sealed segments are durable.
            page.durable = page.events.len();
            let kept = (0..page.events.len()).rev().find(|&at| ends_before(&page, at));
            page.pruning = true;
            if let (Some(kept), Bug::HalfPrunesWhenDropped) = (kept, self.shared.bug) {
                page.events.drain(..kept);
                page.durable -= kept;
            }
            kept
        };
        if self.shared.has(Bug::PruneTearsReads) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        yield_now().await;
        let mut page = self.shared.page();
        page.pruning = false;
        let Some(mut kept) = kept else { return Ok(()) };
        if self.shared.bug == Bug::PrunesTheNewest {
            kept = page.events.len() - 1;
        }
        if self.shared.bug != Bug::HalfPrunesWhenDropped {
            page.floor_after = Some(page.events[kept - 1].id());
            page.events.drain(..kept);
            page.durable -= kept;
        }
        Ok(())
    }
}
