//! Law 5: the checkpoint, and the head of a commit point.

use std::sync::PoisonError;

use async_trait::async_trait;
use hydrant::{Checkpoint, CommitPoint, EventId, Result};
use tokio::task::yield_now;

use super::Paper;
use crate::bugs::Bug;

impl Paper {
    /// The checkpoint, as a call reports it.
    pub(super) async fn reported(&self) -> Result<Checkpoint> {
        let (bug, weak) = (self.shared.bug, self.shared.weak);
        self.connected()?;
        if bug == Bug::ReportsItsOwnHead {
            return Ok(*self.own_head.lock().unwrap_or_else(PoisonError::into_inner));
        }
        let _turn = match bug {
            Bug::LocksInItsTask => Some(self.shared.turn.lock().await),
            _ => None,
        };
        self.shared.page().busy = bug == Bug::StaysBusyWhenDropped;
        yield_now().await;
        let mut page = self.shared.page();
        page.busy = false;
        let durable = page.durable.min(page.events.len());
        let reported = if bug == Bug::CheckpointBeforeDurable { page.events.len() } else { durable };
        // Time passes: what was accepted is durable the next time.
        if weak && bug != Bug::CheckpointBeforeDurable {
            page.durable = page.events.len();
        }
        if let Some(claims) = page.claims {
            return Ok(claims);
        }
        let Some(last) = reported.checked_sub(1).map(|last| &page.events[last]) else {
            let zero = Checkpoint::At { id: EventId::ZERO, digest: [0; 16].into() };
            return Ok(if bug == Bug::NothingIsZero { zero } else { Checkpoint::Empty });
        };
        Ok(match bug {
            Bug::CheckpointOneTooHigh => {
                Checkpoint::At { id: EventId::new(last.id().get() + 1), digest: last.digest() }
            }
            Bug::DigestOfNothing => Checkpoint::At { id: last.id(), digest: [0; 16].into() },
            _ => Checkpoint::at(last),
        })
    }
}

#[async_trait]
impl CommitPoint for Paper {
    async fn head(&self) -> Result<Checkpoint> {
        if self.shared.has(Bug::HeadIsTheCheckpoint) {
            return self.reported().await;
        }
        Ok(self.shared.page().head())
    }

    fn event_bytes_max(&self) -> usize {
        self.shared.event_bytes_max - usize::from(self.shared.has(Bug::MisstatesItsLimit))
    }
}
