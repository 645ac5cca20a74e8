//! Checkpoints in a directory: one small file for each sink, replaced as a whole.

mod dir;
mod entry_file;
#[cfg(test)]
mod tests;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use hydrant::{CheckpointEntry, CheckpointStore, Error, ErrorKind, Result, Retry};
use tokio::sync::{Mutex, OwnedMutexGuard};

use self::dir::Dir;

/// Calls for the same name wait for each other; the number of gates bounds the memory for that.
const GATES: usize = 16;

/// Checkpoints kept as files in a directory of their own: `<name>.json` for each sink.
///
/// `Ok` from [`swap`](CheckpointStore::swap) means durable: the new entry is written beside the old one,
/// synced, renamed over it, and the directory is synced. A crash or a power cut at any instant leaves the
/// old entry or the new one, whole. An entry that [`load`](CheckpointStore::load) returns is durable, too. Any
/// number of handles and processes may share the directory: each swap holds a lock for its name
/// (`.<name>.lock`, which stays), so that the second of two runners of one sink gets `Fenced`.
///
/// A name may hold any characters: all but lower-case letters, digits, `-`, `_` and inner `.` are written as
/// `%XX` in the file's name, and a long name ends in its hash. Each entry carries a checksum.
///
/// A swap costs two syncs (half a millisecond on a cloud disk), so a runner makes one for each batch.
/// Clones share one handle. File system calls run on tokio's blocking threads.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydrant::Result<()> {
/// use hydrant::{Checkpoint, CheckpointStore, CheckpointEntry};
/// use hydrant_file::FileCheckpoints;
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path();
/// let checkpoints = FileCheckpoints::open(dir.join("checkpoints")).await?;
/// let entry = CheckpointEntry::new("archive", "s3://bucket/log", Checkpoint::Empty);
/// checkpoints.swap("archive", None, Some(&entry)).await?;
/// assert_eq!(checkpoints.load("archive").await?, Some(entry));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct FileCheckpoints {
    dir: Arc<Dir>,
    gates: Arc<[Arc<Mutex<()>>; GATES]>,
}

impl FileCheckpoints {
    /// Opens the directory, and creates it (durably) if it is missing.
    ///
    /// # Errors
    /// `Denied`, `Full` or `Unavailable`, as the file system reports; `Invalid` if it is no directory.
    pub async fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = Arc::new(Dir::new(dir.into()));
        let opened = dir.clone();
        blocking(move || opened.open()).await?;
        Ok(Self { dir, gates: Arc::new(std::array::from_fn(|_| Arc::default())) })
    }

    /// Waits for the calls that still run for this name, dropped ones included.
    async fn gate(&self, name: &str) -> OwnedMutexGuard<()> {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let index = hasher.finish() % GATES as u64;
        let index = usize::try_from(index).expect("a remainder below 16 fits");
        self.gates[index].clone().lock_owned().await
    }
}

/// # Cancel safety
/// A dropped `swap` is made or not made as a whole, and has ended before the next call for that name begins.
#[async_trait]
impl CheckpointStore for FileCheckpoints {
    async fn load(&self, name: &str) -> Result<Option<CheckpointEntry>> {
        let gate = self.gate(name).await;
        let (dir, name) = (self.dir.clone(), name.to_owned());
        blocking(move || {
            let _gate = gate;
            let entry = dir.read(&name)?;
            dir.settle()?;
            Ok(entry)
        })
        .await
    }

    async fn list(&self) -> Result<Vec<CheckpointEntry>> {
        let mut gates = Vec::with_capacity(GATES);
        for gate in self.gates.iter() {
            gates.push(gate.clone().lock_owned().await);
        }
        let dir = self.dir.clone();
        blocking(move || {
            let _gates = gates;
            let entries = dir.list()?;
            dir.settle()?;
            Ok(entries)
        })
        .await
    }

    async fn swap(
        &self,
        name: &str,
        expected: Option<&CheckpointEntry>,
        new: Option<&CheckpointEntry>,
    ) -> Result<()> {
        for entry in [expected, new].into_iter().flatten() {
            if entry.name != name {
                return Err(Error::invalid(format!("the entry is named {:?}, not {name:?}", entry.name)));
            }
        }
        let gate = self.gate(name).await;
        let (dir, name) = (self.dir.clone(), name.to_owned());
        let (expected, new) = (expected.cloned(), new.cloned());
        blocking(move || {
            let _gate = gate;
            dir.swap(&name, expected.as_ref(), new.as_ref())
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        Err(join) if join.is_panic() => {
            Err(Error::new(ErrorKind::Bug, Retry::AfterCheckpoint, "keeping checkpoints panicked")
                .because(join))
        }
        Err(join) => {
            Err(Error::new(ErrorKind::Closed, Retry::AfterCheckpoint, "the runtime shuts down").because(join))
        }
    }
}
