//! A simulated disk, and the real code of this crate on it. For the simulator of this workspace: the feature `sim` is
//! not part of the public API, and changes without notice.
//!
//! [`FileStore::open_on`](crate::FileStore::open_on) and [`FileSource::open_on`](crate::FileSource::open_on) take a
//! handle of a [`SimDisk`]. They use no thread: the writer and all blocking work are tasks of the runtime they are
//! called on (`current_thread`, with paused time), and each yields before every command and every piece of work
//! (and before each step of a process that is [stepped](SimDisk::set_stepped)). The
//! order of events is then the order in which the runtime polls its tasks. [`verify`] and [`repair`] run to their end
//! at once.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> hydrant::Result<()> {
//! use std::{path::Path, sync::Arc};
//! use hydrant::{Batch, Event, EventId, EventSink, EventSourceExt, MemoryCheckpoints, ReadFrom};
//! use hydrant_file::sim::{Fault, SimDisk, When};
//! use hydrant_file::{FileStore, FileStoreOptions};
//!
//! let (dir, roster) = (Path::new("/log"), Arc::new(MemoryCheckpoints::default()));
//! let disk = SimDisk::new(dir);
//! let process = disk.process();
//! let store =
//!     FileStore::open_on(Arc::new(process.clone()), dir, roster.clone(), FileStoreOptions::default()).await?;
//! let events = [Event::new(EventId::ZERO, "hello")?];
//! disk.fail(When::Next("sync /log/state".to_owned()), Fault::Error(std::io::ErrorKind::Other));
//! store.append(Batch::new(None, &events)?).await.unwrap_err();
//!
//! // The process is killed: its handles fail, its locks are released, and what it wrote stays.
//! process.kill();
//! // Power cut: of what was not synced, a part survives by the seed.
//! let disk = disk.reboot(&mut fastrand::Rng::with_seed(1));
//! let store =
//!     FileStore::open_on(Arc::new(disk.process()), dir, roster, FileStoreOptions::default()).await?;
//! assert!(store.collect(ReadFrom::Origin).await?.len() <= 1);
//! # Ok(()) }
//! ```
//!
//! A killed process never gets another turn: calls that wait for its writer or for its work wait forever. Calls that
//! need no turn may still return, so a simulator ignores what the handles of a killed process return.
//!
//! | fault | function |
//! |---|---|
//! | an error before the effect, half of a write, a power cut or a kill inside of a step | [`SimDisk::fail`] with [`When`] and [`Fault`] |
//! | an error of a read, a `stat` or a listing | [`SimDisk::fail`] with a prefix as `"read /log/state"` |
//! | a full disk | [`SimDisk::set_capacity`] |
//! | another process acts at any step of this one | [`SimDisk::set_stepped`] |
//! | a slow disk, or one that hangs | [`SimDisk::set_pause`] |
//! | another process acts between two steps of a read | [`SimDisk::interrupt_at`] |
//! | files replaced, rewritten in place, renamed or removed from outside, directories copied or removed | [`SimDisk::put`], [`SimDisk::write_over`], [`SimDisk::move_tree`], [`SimDisk::take`], [`SimDisk::copy_dir`], [`SimDisk::remove_dir`] |
//! | a kill, a power cut, a second process | [`SimDisk::kill`], [`SimDisk::reboot`], [`SimDisk::process`] |

use std::path::Path;
use std::sync::Arc;

use hydrant::Result;

use crate::directory::Directory;
use crate::repair::repair_in;
use crate::verify::Verifier;
use crate::{FileSourceOptions, FileStoreOptions, Finding, RepairReport};

mod disk;
mod inode;
pub(crate) mod stepped;
#[cfg(test)]
mod tests;
mod world;

#[cfg(feature = "sim")]
pub use crate::disk::{Disk, DiskFile, Identity, Mode, Stat, Turn};
pub use disk::{Shown, SimDisk};
pub use world::{Fault, When};

/// Verifies a log like [`verify`](crate::verify()), at once, or step by step beside other processes.
///
/// # Errors
/// The error that ends the stream of [`verify`](crate::verify()).
pub async fn verify_beside(disk: &SimDisk, dir: &Path, options: &FileSourceOptions) -> Result<Vec<Finding>> {
    let (seen, dir, options) = (disk.clone(), dir.to_owned(), options.clone());
    let disk: Arc<dyn crate::disk::Disk> = Arc::new(disk.clone());
    stepped::run(&disk, move || verify(&seen, &dir, &options)).await
}

/// Verifies a log like [`verify`](crate::verify()), at once.
///
/// # Errors
/// The error that ends the stream of [`verify`](crate::verify()).
pub fn verify(disk: &SimDisk, dir: &Path, options: &FileSourceOptions) -> Result<Vec<Finding>> {
    let dir = Directory::simulated(Arc::new(disk.clone()), dir, options.event_bytes_max);
    let mut findings = Vec::new();
    Verifier::new(&dir, |finding| {
        findings.push(finding);
        true
    })
    .run()?;
    Ok(findings)
}

/// Repairs a log like [`repair`](crate::repair()), at once.
///
/// # Errors
/// As [`repair`](crate::repair()).
pub fn repair(disk: &SimDisk, dir: &Path, options: &FileStoreOptions) -> Result<RepairReport> {
    repair_in(&Directory::simulated(Arc::new(disk.clone()), dir, options.event_bytes_max))
}
