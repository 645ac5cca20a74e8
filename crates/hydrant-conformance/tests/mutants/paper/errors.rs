//! Law 7: errors, what a handle does after them, and deadlines.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hydrant::{Batch, Error, ErrorKind, Event, Result, Retry};
use tokio::time::Instant;

use super::Paper;
use crate::bugs::Bug;

impl Paper {
    /// Fails where a bug keeps a connection that broke, or stopped for good after an error that was retryable.
    pub(super) fn connected(&self) -> Result<()> {
        match self.shared.bug {
            _ if !self.broken.load(Ordering::Relaxed) => Ok(()),
            Bug::StopsAfterAnError => Err(Error::closed("an append failed before")),
            _ => Err(Error::new(ErrorKind::Unavailable, Retry::Safe, "the connection is broken")),
        }
    }

    /// The error of an append that was not applied.
    pub(super) fn jammed(&self, batch: &Batch<'_>, fresh: &[Event]) -> Error {
        match self.shared.bug {
            Bug::KeepsADeadConnection | Bug::StopsAfterAnError => self.broken.store(true, Ordering::Relaxed),
            Bug::CommandLandsLate => {
                let (paper, after, fresh) = (self.clone(), batch.after(), fresh.to_vec());
                drop(tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(25)).await;
                    let batch = Batch::new(after, &fresh).expect("it was one before");
                    if paper.shared.page().compare(&batch, Bug::None).is_ok_and(|fresh| !fresh.is_empty()) {
                        paper.commit(&batch, &fresh);
                    }
                }));
            }
            _ => {}
        }
        Error::new(ErrorKind::Unavailable, Retry::AfterCheckpoint, "the paper jammed")
    }

    /// Waits for a slow answer, but not past the deadline.
    pub(super) async fn answer(&self, deadline: Option<Instant>) -> Result<()> {
        let delay = self.shared.page().delay;
        let answered = tokio::time::sleep(delay);
        match deadline {
            Some(deadline) if !delay.is_zero() && !self.shared.has(Bug::IgnoresTheDeadline) => {
                let waited = tokio::time::timeout_at(deadline, answered).await;
                waited.map_err(|_| Error::new(ErrorKind::Unavailable, Retry::Safe, "the deadline passed"))
            }
            _ if delay.is_zero() => Ok(()),
            _ => {
                answered.await;
                Ok(())
            }
        }
    }
}
