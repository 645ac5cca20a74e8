//! A secondary's entry in the roster. The pump moves it beside the deliveries.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::guard::guarded;
use crate::store::CheckpointCell;
use crate::{Checkpoint, Error, ErrorKind, Result};

/// How often progress is recorded in the roster, whose checkpoints are lower bounds.
pub(super) const ROSTER_INTERVAL: Duration = Duration::from_secs(1);

/// How long after the start of a secondary another runner may move its entry without an error.
///
/// A runner that was dropped or killed may have a swap under way, and a runner that ends records once more.
const HANDOVER: Duration = Duration::from_secs(5);

/// Passes the checkpoint to record from the deliveries to the roster entry. A newer checkpoint replaces an older one.
#[derive(Default)]
pub(super) struct Outbox {
    checkpoint: Mutex<Option<Checkpoint>>,
    filled: Notify,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Option<Checkpoint>> {
        self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, checkpoint: Checkpoint) {
        *self.lock() = Some(checkpoint);
        self.filled.notify_one();
    }

    fn get(&self) -> Option<Checkpoint> {
        *self.lock()
    }

    fn recorded(&self, checkpoint: Checkpoint) {
        let mut kept = self.lock();
        if *kept == Some(checkpoint) {
            *kept = None;
        }
    }

    /// Waits for a checkpoint to record.
    ///
    /// # Cancel safety
    /// If the future is dropped, the checkpoint stays in the outbox.
    async fn wait(&self) -> Checkpoint {
        loop {
            if let Some(checkpoint) = self.get() {
                return checkpoint;
            }
            self.filled.notified().await;
        }
    }
}

/// The entry of one secondary in the roster.
pub(super) struct RosterEntry {
    cell: CheckpointCell,
    outbox: Arc<Outbox>,
    timeout: Duration,
    /// When the secondary was attached or resumed.
    started_at: Instant,
    /// Whether the next record may create the entry. `attach` created it, so only the first record after a resume may.
    may_enter: bool,
    /// Why nothing is recorded before a resume. The cell forgets an entry that another runner moved, so its next swap
    /// would succeed and fence that runner too.
    fenced: Option<Error>,
}

impl RosterEntry {
    pub(super) fn new(cell: CheckpointCell, timeout: Duration) -> Self {
        Self {
            cell,
            outbox: Arc::default(),
            timeout,
            started_at: Instant::now(),
            may_enter: false,
            fenced: None,
        }
    }

    pub(super) fn outbox(&self) -> Arc<Outbox> {
        self.outbox.clone()
    }

    /// Returns the checkpoint that the roster had when it was last read or written.
    pub(super) fn checkpoint(&self) -> Checkpoint {
        self.cell.entry().map_or(Checkpoint::Empty, |entry| entry.checkpoint)
    }

    /// Forgets the known entry when an operator resumes the secondary: the next record reads the roster again.
    pub(super) fn resume(&mut self) {
        self.cell.forget();
        self.started_at = Instant::now();
        self.may_enter = true;
        self.fenced = None;
    }

    /// Records each checkpoint of the outbox, and retries after a failure.
    ///
    /// # Errors
    /// `Fenced` if another process runs this secondary too, or has detached it.
    ///
    /// # Cancel safety
    /// The next call finds out the outcome of a swap that was dropped.
    pub(super) async fn keep_recording(&mut self) -> Result<Infallible> {
        let outbox = self.outbox.clone();
        loop {
            let checkpoint = outbox.wait().await;
            match self.record(checkpoint).await {
                Ok(()) => continue,
                Err(error) if error.kind() != ErrorKind::Fenced => not_yet(&error),
                // Of two runners, the one that was started last may take the entry over.
                Err(error) if self.fenced.is_none() && self.started_at.elapsed() < HANDOVER => {
                    not_yet(&error);
                }
                Err(fenced) => {
                    self.fenced = Some(fenced.clone());
                    return Err(fenced);
                }
            }
            tokio::time::sleep(ROSTER_INTERVAL).await;
        }
    }

    /// Records the checkpoint in the outbox, as the last one before the pump parks or ends. A failure is logged.
    ///
    /// # Cancel safety
    /// As [`keep_recording`](Self::keep_recording).
    pub(super) async fn record_last(&mut self) {
        let Some(checkpoint) = self.outbox.get().filter(|_| self.fenced.is_none()) else { return };
        if let Err(error) = self.record(checkpoint).await {
            not_yet(&error);
            // A parked pump that ends later records once more, but the entry belongs to the other runner by then.
            self.fenced = Some(error).filter(|error| error.kind() == ErrorKind::Fenced);
        }
    }

    /// Records a checkpoint of the outbox.
    ///
    /// # Errors
    /// `Fenced` if another runner moved or detached the entry, and any error of the roster.
    ///
    /// # Cancel safety
    /// As [`keep_recording`](Self::keep_recording).
    async fn record(&mut self, checkpoint: Checkpoint) -> Result<()> {
        if let Some(fenced) = &self.fenced {
            return Err(fenced.clone());
        }
        let (cell, may_enter) = (&mut self.cell, self.may_enter);
        let recording = guarded("the roster", self.timeout, || async {
            if cell.load().await?.is_none() && !may_enter {
                return Ok(false);
            }
            cell.advance(checkpoint).await.map(|()| true)
        });
        if recording.await? {
            self.may_enter = false;
            self.outbox.recorded(checkpoint);
            return Ok(());
        }
        let message = "the roster does not have this secondary any more: another runner detached it; end one of \
                       the two, then resume or detach it here";
        let detached = Error::fenced(message).at_target(self.cell.name());
        self.fenced = Some(detached.clone());
        Err(detached)
    }
}

fn not_yet(error: &Error) {
    tracing::warn!(error = %error, "the newest progress is not in the roster yet");
}
