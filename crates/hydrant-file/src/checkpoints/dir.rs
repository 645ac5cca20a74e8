//! The directory that checkpoints are kept in: reading, and replacing a file as a whole.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use hydrant::{CheckpointEntry, Error, Result, Retry};

use super::entry_file;
use crate::disk::{RealDisk, create_dirs, sync_name};
use crate::error::io_error;

/// A larger file is no entry.
const ENTRY_BYTES_MAX: u64 = 1 << 20;

/// The directory; all calls block.
#[derive(Debug)]
pub(super) struct Dir {
    path: PathBuf,
    /// Set once a sync of the directory failed: the rename may not be durable, and a second sync that succeeds
    /// would prove nothing.
    sync_failed: AtomicBool,
    pub(super) fault: Fault,
}

impl Dir {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, sync_failed: AtomicBool::new(false), fault: Fault::default() }
    }

    pub(super) fn open(&self) -> Result<()> {
        let fail = |cause| io_error(&self.path, "creating the directory", Retry::Safe, cause);
        if !fs::exists(&self.path).map_err(fail)? {
            create_dirs(&RealDisk, &self.path).map_err(fail)?;
        }
        if !fs::metadata(&self.path).map_err(fail)?.is_dir() {
            return Err(Error::invalid("this is not a directory; name one to keep checkpoints in")
                .at_target(self.path.display().to_string()));
        }
        // The open that created the directory may have ended before its name was durable. No entry is older than that.
        if self.is_empty().map_err(fail)? {
            self.fault.meet(Step::SyncName).and_then(|()| sync_name(&RealDisk, &self.path)).map_err(fail)?;
        }
        // A runner may have been killed between its rename and its sync.
        self.settle()
    }

    fn is_empty(&self) -> io::Result<bool> {
        for found in fs::read_dir(&self.path)? {
            if found?.file_name().to_str().is_some_and(entry_file::is_entry) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn read(&self, name: &str) -> Result<Option<CheckpointEntry>> {
        let path = self.path.join(entry_file::file_name(name));
        match Self::read_file(&path)? {
            Some(entry) if entry.name != name => Err(Error::corrupt(format!(
                "this file holds the entry of {:?}; move it back to where it belongs",
                entry.name
            ))
            .at_target(path.display().to_string())),
            entry => Ok(entry),
        }
    }

    fn read_file(path: &Path) -> Result<Option<CheckpointEntry>> {
        let fail = |cause| io_error(path, "reading the checkpoint", Retry::Safe, cause);
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(fail(cause)),
        };
        let damaged = |what| entry_file::damaged(what).at_target(path.display().to_string());
        // Opening a pipe would wait for its writer.
        if !found.is_file() {
            return Err(damaged("this is not a regular file"));
        }
        if found.len() > ENTRY_BYTES_MAX {
            return Err(damaged("this is too large to be a checkpoint"));
        }
        let mut bytes = Vec::new();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None), // removed in between
            Err(cause) => return Err(fail(cause)),
        };
        file.take(ENTRY_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
        entry_file::decode(&bytes).map(Some).map_err(|error| error.at_target(path.display().to_string()))
    }

    pub(super) fn list(&self) -> Result<Vec<CheckpointEntry>> {
        let fail = |cause| io_error(&self.path, "listing the checkpoints", Retry::Safe, cause);
        let mut entries = Vec::new();
        for found in fs::read_dir(&self.path).map_err(fail)? {
            let file_name = found.map_err(fail)?.file_name();
            let is_entry = file_name.to_str().is_some_and(entry_file::is_entry);
            if !is_entry {
                continue;
            }
            let path = self.path.join(&file_name);
            let Some(entry) = Self::read_file(&path)? else { continue };
            if *file_name != *entry_file::file_name(&entry.name) {
                return Err(Error::corrupt(format!(
                    "this file holds the entry of {:?}; move it back to where it belongs",
                    entry.name
                ))
                .at_target(path.display().to_string()));
            }
            entries.push(entry);
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    pub(super) fn swap(
        &self,
        name: &str,
        expected: Option<&CheckpointEntry>,
        new: Option<&CheckpointEntry>,
    ) -> Result<()> {
        self.check_sync()?;
        let file_name = entry_file::file_name(name);
        let path = self.path.join(&file_name);
        let lock_path = self.path.join(format!(".{file_name}.lock"));
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .and_then(|lock| lock.lock().map(|()| lock)); // released when it is dropped
        let _lock =
            lock.map_err(|cause| io_error(&lock_path, "locking the checkpoint", Retry::Safe, cause))?;

        if self.read(name)?.as_ref() != expected {
            return Err(
                Error::fenced("another runner moved this checkpoint; end one of the two").at_target(name)
            );
        }
        let temp = self.path.join(format!(".{file_name}.tmp"));
        match new {
            Some(entry) => self.write_synced(&temp, &entry_file::encode(entry)?)?,
            None if expected.is_some() => {}
            None => return Ok(()),
        }
        let renamed = self.fault.meet(Step::Rename).and_then(|()| match new {
            Some(_) => fs::rename(&temp, &path),
            None => fs::remove_file(&path),
        });
        renamed
            .map_err(|cause| io_error(&path, "replacing the checkpoint", Retry::AfterCheckpoint, cause))?;
        self.settle()
    }

    /// Writes the file that is then renamed over the entry. An error means that nothing changed.
    fn write_synced(&self, temp: &Path, bytes: &[u8]) -> Result<()> {
        let write = || {
            // A crash may have left it.
            match fs::remove_file(temp) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
                _ => {}
            }
            self.fault.meet(Step::Create)?;
            let mut file = File::options().write(true).create_new(true).open(temp)?;
            self.fault.meet(Step::Write).inspect_err(|_| drop(file.write_all(&bytes[..bytes.len() / 2])))?;
            file.write_all(bytes)?;
            self.fault.meet(Step::Sync)?;
            file.sync_all()
        };
        write().map_err(|cause| io_error(temp, "writing the checkpoint", Retry::Safe, cause))
    }

    /// Makes the directory's entries durable.
    pub(super) fn settle(&self) -> Result<()> {
        self.check_sync()?;
        self.fault.meet(Step::SyncDir).and_then(|()| sync_dir(&self.path)).map_err(|cause| {
            self.sync_failed.store(true, Ordering::Release);
            io_error(&self.path, "syncing the directory", Retry::AfterCheckpoint, cause)
        })
    }

    fn check_sync(&self) -> Result<()> {
        if self.sync_failed.load(Ordering::Acquire) {
            return Err(Error::closed(
                "a sync failed before, so it is unknown what is durable; check the disk and open again",
            )
            .at_target(self.path.display().to_string()));
        }
        Ok(())
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    match File::open(path).and_then(|dir| dir.sync_all()) {
        // A file system that is mounted read-only has nothing to sync.
        Err(cause) if cause.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        result => result,
    }
}

/// The steps of a swap, for tests that make one of them fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Create,
    Write,
    Sync,
    Rename,
    SyncDir,
    /// Of an open, not of a swap.
    SyncName,
}

/// Fails the step that a test plans. Does nothing in other builds.
#[derive(Debug, Default)]
pub(super) struct Fault {
    #[cfg(test)]
    pub(super) planned: std::sync::Mutex<Option<Step>>,
}

impl Fault {
    #[cfg(not(test))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "a test's build does more")]
    fn meet(&self, _step: Step) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn meet(&self, step: Step) -> io::Result<()> {
        match *self.planned.lock().unwrap() {
            Some(planned) if planned == step => Err(io::Error::other(format!("planned: {step:?}"))),
            _ => Ok(()),
        }
    }
}
