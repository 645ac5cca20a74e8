//! A secondary's entry in the roster, as its pump moves it.

use std::time::Duration;

use tokio::time::Instant;

use super::guard::guarded;
use crate::store::CheckpointCell;
use crate::{Checkpoint, ErrorKind, Result};

/// For this long after a secondary starts, another runner may move its entry without being an error: one that was
/// dropped or killed may have a swap under way, and records once more as it ends.
const HANDOVER: Duration = Duration::from_secs(5);

pub(crate) struct RosterEntry {
    cell: CheckpointCell,
    timeout: Duration,
    touched_at: Instant,
    /// When the secondary was attached or resumed.
    started_at: Instant,
}

impl RosterEntry {
    pub(crate) fn new(cell: CheckpointCell, timeout: Duration) -> Self {
        let now = Instant::now();
        Self { cell, timeout, touched_at: now, started_at: now }
    }

    /// The checkpoint that the roster has, as far as it is known.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        self.cell.entry().map_or(Checkpoint::Empty, |entry| entry.checkpoint)
    }

    /// When the entry was read or written last.
    pub(crate) fn touched_at(&self) -> Instant {
        self.touched_at
    }

    pub(crate) fn age(&self) -> Duration {
        self.touched_at.elapsed()
    }

    pub(crate) fn touch(&mut self) {
        self.touched_at = Instant::now();
    }

    /// Forgets what is known of the roster's entry, when an operator resumes the secondary.
    pub(crate) fn forget(&mut self) {
        self.cell.forget();
        self.started_at = Instant::now();
    }

    /// Records how far the sink is. Returns whether the roster has it.
    ///
    /// # Errors
    /// `Fenced` if another process runs this secondary too. Any other failure is logged.
    ///
    /// # Cancel safety
    /// The next call finds out what became of a swap that was dropped.
    pub(crate) async fn record(&mut self, checkpoint: Checkpoint) -> Result<bool> {
        self.touch();
        let swapped = guarded("the roster", self.timeout, || self.cell.advance(checkpoint)).await;
        let Err(error) = swapped else { return Ok(true) };
        if error.kind() == ErrorKind::Fenced && self.started_at.elapsed() >= HANDOVER {
            return Err(error);
        }
        tracing::warn!(error = %error, "the newest progress is not in the roster yet");
        Ok(false)
    }
}
