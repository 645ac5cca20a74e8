//! What a relay remembers between runs: its roster, and the checkpoints of sinks that have no memory.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;

use hydrant::{CheckpointStore, Checkpointed, EventSink, MemoryCheckpoints, Result};
use hydrant_file::FileCheckpoints;

use crate::args::NamedUrl;
use crate::exit::{Failure, Outcome};
use crate::stores::Keeper;

/// `--state-dir`, held by one relay at a time; or nothing, where every sink remembers by itself.
pub(crate) struct StateDir {
    roster: Arc<dyn CheckpointStore>,
    checkpoints: Arc<dyn CheckpointStore>,
    /// Held as long as this lives; nothing is kept where there is none.
    lock: Option<File>,
}

impl StateDir {
    /// Opens the directory, and creates it where it is missing.
    ///
    /// # Errors
    /// Exit code 3 when another relay holds it, or the file system refuses.
    pub(crate) async fn open(dir: Option<&Path>) -> Outcome<Self> {
        let Some(dir) = dir else {
            let memory = Arc::new(MemoryCheckpoints::default());
            return Ok(Self { roster: memory.clone(), checkpoints: memory, lock: None });
        };
        let checkpoints = FileCheckpoints::open(dir.join("checkpoints")).await?;
        let lock = lock(dir)?;
        let roster = FileCheckpoints::open(dir.join("roster")).await?;
        Ok(Self { roster: Arc::new(roster), checkpoints: Arc::new(checkpoints), lock: Some(lock) })
    }

    /// Where the relay keeps the roster of its secondaries.
    pub(crate) fn roster(&self) -> Arc<dyn CheckpointStore> {
        self.roster.clone()
    }

    /// Where a sink that has a memory may keep its checkpoint beside it.
    pub(crate) fn keeper(&self, name: &str) -> Option<Keeper> {
        self.lock.as_ref().map(|_| Keeper { store: self.checkpoints.clone(), name: name.to_owned() })
    }

    /// A sink without memory, given one.
    pub(crate) async fn checkpointed(
        &self,
        to: &NamedUrl,
        sink: Arc<dyn EventSink>,
    ) -> Result<Arc<dyn EventSink>> {
        let (name, target) = (&to.name, to.url.target());
        Ok(Arc::new(Checkpointed::open(sink, self.checkpoints.clone(), name, target).await?))
    }
}

/// Held until the file is closed, by the end of the process at the latest.
fn lock(dir: &Path) -> Outcome<File> {
    let path = dir.join("lock");
    let refused =
        |cause: std::io::Error| Failure::Refused(format!("{}: cannot be locked: {cause}", path.display()));
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(refused)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Failure::Refused(format!(
            "{}: another relay works with this state directory; end it, or give this one another --state-dir",
            dir.display()
        ))),
        Err(TryLockError::Error(cause)) => Err(refused(cause)),
    }
}
