//! Every file operation of this crate, so that a test can fail it or cut the power behind it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a file is, whatever it is called now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// What stands under a name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    pub(crate) identity: Identity,
    pub(crate) is_file: bool,
    pub(crate) len: u64,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Read,
    Write,
    /// For writing, and it must not be there yet.
    New,
}

/// A disk: the real one, or one that a test can fail and cut the power of.
///
/// What a file holds is durable after its [`sync`](DiskFile::sync), that it has a name after
/// [`sync_dir`](Disk::sync_dir).
pub(crate) trait Disk: Send + Sync {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>>;
    /// `None` when nothing stands there.
    fn stat(&self, path: &Path) -> io::Result<Option<Stat>>;
    /// The names in a directory, in any order; names that are not UTF-8 are none of ours.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Gives a file a second name, which must not be taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Replaces `to` in one step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// With all above it, each of them durable.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Opens or creates a file and locks it for as long as the handle lives; `None` when it is locked.
    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn DiskFile>>>;
    /// Whether somebody holds the lock; `false` where there is no such file.
    fn is_locked(&self, path: &Path) -> io::Result<bool>;
}

/// An open file. Reads and writes name their place, so that one handle serves all.
pub(crate) trait DiskFile: Send + Sync {
    /// Reads until `buffer` is full or the file ends.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the contents, and the length, durable.
    fn sync(&self) -> io::Result<()>;
    fn truncate(&self, len: u64) -> io::Result<()>;
    fn stat(&self) -> io::Result<Stat>;
    /// Where a line begins that is not behind the first event above `after`, nor far before it; `None`
    /// where the file has no index.
    fn near(&self, _after: u64) -> Option<u64> {
        None
    }
}

/// The disk of this machine.
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
        let missing: Vec<PathBuf> = dir
            .ancestors()
            .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
            .map(Path::to_owned)
            .collect();
        std::fs::create_dir_all(dir)?;
        for path in missing.iter().rev() {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            self.sync_dir(parent.unwrap_or(Path::new(".")))?;
        }
        Ok(())
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
