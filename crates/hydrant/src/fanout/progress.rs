//! A secondary's entry in the roster, as its pump moves it.

use std::time::Duration;

use tokio::time::Instant;

use super::guard::guarded;
use crate::store::CheckpointCell;
use crate::{Checkpoint, ErrorKind, Result};

/// How often another runner may move the entry before the secondary parks. A runner that was dropped, or killed, may
/// still have a swap on its way, and report once more as it ends.
const MOVES_MAX: u32 = 2;

/// Moves further apart than this are not of one other runner.
const MOVES_WITHIN: Duration = Duration::from_secs(60);

pub(crate) struct RosterEntry {
    cell: CheckpointCell,
    timeout: Duration,
    touched_at: Instant,
    /// How often another runner moved the entry in a row, and when it did last.
    moved: (u32, Instant),
}

impl RosterEntry {
    pub(crate) fn new(cell: CheckpointCell, timeout: Duration) -> Self {
        let now = Instant::now();
        Self { cell, timeout, touched_at: now, moved: (0, now) }
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

    /// An operator resumes the secondary: whatever the roster has by now is right.
    pub(crate) fn forget(&mut self) {
        self.cell.forget();
        self.moved.0 = 0;
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
        let swapped = guarded("the roster", self.timeout, || self.cell.swap(checkpoint, None)).await;
        let Err(error) = swapped else { return Ok(true) };
        if error.kind() == ErrorKind::Fenced {
            let (times, last) = self.moved;
            let times = if last.elapsed() < MOVES_WITHIN { times + 1 } else { 1 };
            self.moved = (times, Instant::now());
            if times > MOVES_MAX {
                return Err(error);
            }
        }
        tracing::warn!(error = %error, "the roster does not know the newest progress");
        Ok(false)
    }
}
