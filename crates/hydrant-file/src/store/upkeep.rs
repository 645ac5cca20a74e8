//! What is done to sealed segments beside the writer: compressing, and pruning.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use hydrant::{Error, ErrorKind, EventId, Prune, Result};
use tokio::sync::{Mutex, watch};

use super::FileStore;
use crate::directory::Directory;
use crate::disk::DiskFile;
use crate::writer::{Command, Counters, Gate, Published};

/// Replaces and removes sealed files, one at a time.
pub(super) struct Upkeep {
    dir: Arc<Directory>,
    published: watch::Receiver<Published>,
    /// The log's lock, kept until the work under way has ended.
    lock: Weak<dyn DiskFile>,
    gate: Arc<Mutex<()>>,
    /// A compression under way ends soon, and leaves the gate to another call.
    yields: Arc<AtomicBool>,
    is_closing: AtomicBool,
}

impl Upkeep {
    pub(super) fn new(
        dir: Arc<Directory>,
        published: watch::Receiver<Published>,
        lock: Weak<dyn DiskFile>,
    ) -> Self {
        Self {
            dir,
            published,
            lock,
            gate: Arc::default(),
            yields: Arc::default(),
            is_closing: AtomicBool::new(false),
        }
    }

    /// Compresses at once, and whenever a segment is sealed, until the log is closed.
    pub(super) async fn compress_always(self: Arc<Self>, counters: Arc<Counters>) {
        loop {
            match self.compress().await {
                Err(error) if error.kind() == ErrorKind::Closed => return,
                Err(error) => {
                    tracing::warn!(%error, "a sealed segment was not compressed; it stays as it is");
                }
                Ok(()) => {}
            }
            counters.sealed.notified().await;
        }
    }

    async fn compress(&self) -> Result<()> {
        loop {
            let gate = self.gate.clone().lock_owned().await;
            self.yields.store(false, Ordering::SeqCst);
            let held = self.lock.upgrade().filter(|_| !self.is_closing.load(Ordering::SeqCst));
            let held = held.ok_or_else(|| Error::closed("the log was closed; open it again"))?;
            let sealed = self.published.borrow().view.sealed.clone();
            let (dir, yields) = (self.dir.clone(), self.yields.clone());
            let is_done = self
                .dir
                .run(move || {
                    let _held = (gate, held);
                    for sealed in sealed.iter() {
                        if !dir.compress(*sealed, &yields)? {
                            return Ok(false);
                        }
                    }
                    Ok(true)
                })
                .await?;
            if is_done {
                return Ok(());
            }
        }
    }

    /// Waits until no other call replaces files, and keeps it so. Calls are served in order.
    async fn alone(&self) -> Gate {
        self.yields.store(true, Ordering::SeqCst);
        self.gate.clone().lock_owned().await
    }

    /// Makes the work under way end soon, and lets no other begin.
    pub(super) fn stop(&self) {
        self.is_closing.store(true, Ordering::SeqCst);
        self.yields.store(true, Ordering::SeqCst);
    }

    pub(super) async fn close(&self) {
        self.stop();
        drop(self.alone().await);
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.stop();
    }
}

impl FileStore {
    /// Compresses every sealed segment that is not compressed yet, beside appends and reads.
    ///
    /// Each is written to a file of its own, compared, synced and renamed before the plain one goes.
    ///
    /// # Errors
    /// `Corrupt` for a segment that does not check; it and those behind it stay as they are. `Closed` when
    /// the log is closed meanwhile, and errors of the disk.
    ///
    /// # Cancel safety
    /// The segment under way is compressed to its end without its caller.
    pub async fn compress(&self) -> Result<()> {
        self.shared.upkeep.compress().await
    }
}

#[async_trait]
impl Prune for FileStore {
    /// Removes sealed segments from the oldest on, each durably before the next, so that a crash in between
    /// leaves a log that begins at one of them. Reads under way that still need them end with `Pruned`.
    ///
    /// # Errors
    /// Errors of the disk. Pruning again is safe.
    ///
    /// # Cancel safety
    /// Once the writer has taken it, it continues without its caller.
    async fn prune(&self, before: EventId) -> Result<()> {
        let gate = self.shared.upkeep.alone().await;
        self.ask(|reply| Command::Prune(before, gate, reply)).await
    }
}
