//! Laws 1 and 6: what is written, whole, and durable before it is acknowledged.

use std::sync::PoisonError;
use std::time::Duration;

use hydrant::{Batch, Event, Result};
use tokio::task::yield_now;

use super::Paper;
use crate::bugs::Bug;

impl Paper {
    /// Appends in a task that takes its turn itself: a call that is dropped may come after the next one.
    pub(super) async fn append_in_a_task(&self, batch: &Batch<'_>) -> Result<()> {
        let (paper, after, events) = (self.clone(), batch.after(), batch.events().to_vec());
        let appending = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(25)).await;
            let _turn = paper.shared.turn.lock().await;
            let batch = Batch::new(after, &events)?;
            let fresh = paper.shared.page().compare(&batch, Bug::None)?;
            if !fresh.is_empty() {
                paper.commit(&batch, fresh);
            }
            Ok(())
        });
        appending.await.expect("appending does not panic")
    }

    /// Writes and syncs, with an await before each.
    pub(super) async fn write(&self, batch: &Batch<'_>, fresh: &[Event]) {
        let shared = &self.shared;
        let half = fresh.len() / 2;
        match shared.bug {
            Bug::HalfBatchWhenDropped => {
                self.commit(batch, &fresh[..half]);
                yield_now().await;
                self.commit(batch, &fresh[half..]);
            }
            Bug::HalfBatchAfterACrash => {
                self.accept(batch, fresh);
                shared.page().durable += half;
                yield_now().await;
                shared.sync();
            }
            Bug::ShowsWhatIsInFlight => {
                self.accept(batch, fresh);
                yield_now().await;
                shared.sync();
            }
            Bug::ShowsHolesWhileWriting => {
                let before = shared.page().events.len();
                self.commit(batch, &fresh[half..]);
                tokio::time::sleep(Duration::from_millis(2)).await;
                shared.page().events.splice(before..before, fresh[..half].iter().cloned());
                shared.sync();
            }
            Bug::UnreadableWhileRotating if batch.first().is_snapshot() => {
                shared.page().busy = true;
                tokio::time::sleep(Duration::from_millis(2)).await;
                self.commit(batch, fresh);
                shared.page().busy = false;
            }
            Bug::LandsLate => {
                let (paper, after, fresh) = (self.clone(), batch.after(), fresh.to_vec());
                let landing = tokio::spawn(async move {
                    // Late enough that a busy machine looks before, soon enough that it looks again behind.
                    tokio::time::sleep(Duration::from_millis(25)).await;
                    let batch = Batch::new(after, &fresh).expect("it was one before");
                    paper.commit(&batch, &fresh);
                });
                landing.await.expect("landing does not panic");
            }
            Bug::AcknowledgesEarly => {
                yield_now().await;
                // Only the batch before is synced; this one is merely accepted.
                shared.sync();
                self.accept(batch, fresh);
            }
            _ => {
                yield_now().await;
                self.commit(batch, fresh);
            }
        }
    }

    fn accept(&self, batch: &Batch<'_>, fresh: &[Event]) {
        let mut page = self.shared.page();
        if page.events.is_empty() {
            page.floor_after = batch.after();
        }
        page.events.extend_from_slice(fresh);
        page.claims = None;
        *self.own_head.lock().unwrap_or_else(PoisonError::into_inner) = page.head();
    }

    pub(super) fn commit(&self, batch: &Batch<'_>, fresh: &[Event]) {
        self.accept(batch, fresh);
        if !self.shared.weak {
            self.shared.sync();
        }
    }
}
