//! Every file operation on a log behind one trait, so that a simulated disk can take the place of the real one. The roster
//! (`checkpoints/`) is not part of the log.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

/// The identity of a file, which stays when the file is renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The number of the device.
    pub device: u64,
    /// The number of the inode on that device.
    pub inode: u64,
}

/// The metadata of a file or directory.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// Which file it is.
    pub identity: Identity,
    /// Whether it is a regular file.
    pub is_file: bool,
    /// The length in bytes.
    pub len: u64,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// For reading. The file must exist.
    Read,
    /// For reading and writing. The file must exist.
    Write,
    /// For reading and writing. The file must not exist.
    New,
}

/// A file system.
///
/// The contents of a file are durable after [`sync`](DiskFile::sync), its name after [`sync_dir`](Disk::sync_dir).
pub trait Disk: Send + Sync {
    /// Opens a file.
    ///
    /// # Errors
    /// As the file system answers; so it is for all functions of this trait.
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>>;
    /// Returns the metadata of a path, or `None` if nothing has this name.
    fn stat(&self, path: &Path) -> io::Result<Option<Stat>>;
    /// Returns the names in a directory, in any order. Non-UTF-8 names are ignored.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Gives a file a second name, which must be free.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames a file; replaces `to` in one step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Creates a directory in one that exists.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Opens or creates a file and locks it until the handle is dropped. `None` if another handle has the lock.
    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn DiskFile>>>;
    /// Returns whether a handle has the lock of a file; `false` if the file does not exist.
    fn is_locked(&self, path: &Path) -> io::Result<bool>;
    /// Returns whether other simulated processes may act in between the steps of one piece of work.
    #[cfg(any(test, feature = "sim"))]
    fn is_stepped(&self) -> bool {
        false
    }
    /// Waits between two steps of a simulated process.
    #[cfg(any(test, feature = "sim"))]
    fn pace(&self) -> Turn {
        Box::pin(std::future::ready(()))
    }
    /// Waits before and after each piece of work of a simulated process: other tasks run meanwhile.
    #[cfg(any(test, feature = "sim"))]
    fn turn(&self) -> Turn {
        Box::pin(tokio::task::yield_now())
    }
}

/// A simulated process that waits for its turn.
#[cfg(any(test, feature = "sim"))]
pub type Turn = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// An open file. Reads and writes name their offset, so that one handle serves all callers.
pub trait DiskFile: Send + Sync {
    /// Reads until `buffer` is full or the file ends.
    ///
    /// # Errors
    /// As the file system answers; so it is for all functions of this trait.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes`. After an error, any part of them may be written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the contents and the length durable.
    fn sync(&self) -> io::Result<()>;
    /// Sets the length.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Returns the metadata of the file.
    fn stat(&self) -> io::Result<Stat>;
    /// Returns the offset of a line at or before the first event above `after`, and not far before it. `None` if the
    /// file has no index.
    fn near(&self, _after: u64) -> Option<u64> {
        None
    }
}

/// Creates a directory and its missing parents. The name of each parent is durable before something is created in it, so
/// a crash leaves only the last name to be made durable by [`sync_name`].
pub(crate) fn create_dirs(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let Some(parent) = parent_of(dir) else { return Ok(()) };
    if disk.stat(parent)?.is_none() {
        create_dirs(disk, parent)?;
    }
    sync_name(disk, parent)?;
    match disk.create_dir(dir) {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => Err(cause),
        _ => Ok(()), // another process may have created it
    }
}

/// Makes the name of a directory durable.
pub(crate) fn sync_name(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let Some(parent) = parent_of(dir) else { return Ok(()) };
    match disk.sync_dir(parent) {
        // A user that may not read the parent did not create the directory, as a rule. A file system that is read-only has
        // nothing to sync, and some cannot sync a directory.
        Err(cause)
            if matches!(
                cause.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::InvalidInput
            ) =>
        {
            Ok(())
        }
        synced => synced,
    }
}

/// The directory that a directory is in; `None` for the root.
fn parent_of(dir: &Path) -> Option<&Path> {
    let parent = dir.parent()?;
    Some(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
}

/// The file system of this machine.
#[derive(Debug)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        let write = mode != Mode::Read;
        let mut options = OpenOptions::new();
        options.read(true).write(write);
        if mode == Mode::New {
            options.create_new(true);
        }
        Ok(Arc::new(options.open(path)?))
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        match std::fs::metadata(path) {
            Ok(found) => Ok(Some(stat_of(&found))),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn DiskFile>>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Arc::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(cause)) => Err(cause),
        }
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        match File::open(path).map(|file| file.try_lock_shared()) {
            Ok(Ok(())) => Ok(false),
            Ok(Err(TryLockError::WouldBlock)) => Ok(true),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
            Ok(Err(TryLockError::Error(cause))) | Err(cause) => Err(cause),
        }
    }
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match FileExt::read_at(self, &mut buffer[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(cause),
            }
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(stat_of(&self.metadata()?))
    }
}

fn stat_of(found: &std::fs::Metadata) -> Stat {
    Stat {
        identity: Identity { device: found.dev(), inode: found.ino() },
        is_file: found.is_file(),
        len: found.len(),
    }
}
