//! Reading a log that another process may be writing.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hydrant::{Checkpoint, Error, ErrorKind, EventSource, EventStream, ReadFrom, Result, Retry};

use crate::directory::Directory;
use crate::disk::{DiskFile, Identity};
use crate::examine::examine;
use crate::lock::{Phase, Record};
use crate::options::FileSourceOptions;
use crate::stream::{self, Signal, Views};
use crate::walk::{self, Current, View};

/// A log in a directory, only read: while this or another process writes it, or nobody does.
///
/// It takes no lock and never blocks the writer. It yields what a power cut cannot take back: as far as the
/// writer says that it has synced; where nobody holds the lock (hydra-node never does), the reader syncs
/// `state` itself first. [`follow`](EventSource::follow) looks every
/// [`poll_interval`](FileSourceOptions::poll_interval).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydrant::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path();
/// # std::fs::write(path.join("state"), "{\"eventId\":0,\"stateChanged\":{\"tag\":\"T\"}}\n").unwrap();
/// use hydrant::{EventSourceExt, ReadFrom};
/// use hydrant_file::{FileSource, FileSourceOptions};
///
/// let log = FileSource::open(path, FileSourceOptions::default()).await?;
/// assert_eq!(log.collect(ReadFrom::Origin).await?.len(), 1);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct FileSource {
    dir: Arc<Directory>,
    options: FileSourceOptions,
}

impl fmt::Debug for FileSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSource").field("dir", &self.dir.path).finish_non_exhaustive()
    }
}

impl FileSource {
    /// Looks whether there is a directory; what is in it is read when it is asked for.
    ///
    /// # Errors
    /// `Unavailable` when there is no such directory, `Denied` when it must not be read.
    pub async fn open(dir: impl AsRef<Path>, options: FileSourceOptions) -> Result<Self> {
        Self::open_in(Directory::new(dir.as_ref(), options.event_bytes_max), options).await
    }

    /// Opens a log on a simulated disk. See [`sim`](crate::sim).
    ///
    /// # Errors
    /// As [`open`](FileSource::open).
    #[cfg(any(test, feature = "sim"))]
    #[doc(hidden)]
    pub async fn open_on(
        disk: Arc<dyn crate::disk::Disk>,
        dir: &Path,
        options: FileSourceOptions,
    ) -> Result<Self> {
        Self::open_in(Directory::simulated(disk, dir, options.event_bytes_max), options).await
    }

    async fn open_in(dir: Directory, options: FileSourceOptions) -> Result<Self> {
        let dir = Arc::new(dir);
        let looked = dir.clone();
        dir.run(move || {
            if looked.disk.stat(&looked.path).map_err(|cause| looked.unread(&looked.path, cause))?.is_none() {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    Retry::Safe,
                    "there is no such directory; name the one that holds the log's `state`",
                )
                .at_target(looked.path.display().to_string()));
            }
            looked.list().map(drop)
        })
        .await?;
        Ok(Self { dir, options })
    }

    /// The last event that a read would yield now.
    ///
    /// # Errors
    /// Whatever the files give, `Corrupt` for a log that does not check.
    pub async fn checkpoint(&self) -> Result<Checkpoint> {
        for _ in 0..500 {
            let mut views = self.views();
            let found = self
                .dir
                .run(move || match views.view()? {
                    Some(view) => Ok(Some(walk::last_event(&views.dir, &view)?)),
                    None => Ok(None),
                })
                .await?;
            if let Some(last) = found {
                return Ok(last.as_ref().map_or(Checkpoint::Empty, Checkpoint::at));
            }
            tokio::time::sleep(self.options.poll_interval).await;
        }
        Err(Error::new(ErrorKind::Unavailable, Retry::Safe, "another process is opening this log; try again"))
    }

    /// The files of the log and their sizes in bytes: the sealed segments in order, then `state`.
    ///
    /// # Errors
    /// Whatever the files give.
    pub async fn segments(&self) -> Result<Vec<(PathBuf, u64)>> {
        let dir = self.dir.clone();
        self.dir
            .run(move || {
                let sealed = dir.list()?.sealed.into_iter().map(|sealed| sealed.name());
                let files = sealed.chain(["state".to_owned()]).map(|name| dir.file(&name));
                let sized = files.filter_map(|path| {
                    let stat = dir.stat(&path).transpose()?; // `None`: compressed or pruned in between
                    Some(stat.map(|stat| (path, stat.len)))
                });
                sized.collect()
            })
            .await
    }

    /// The bytes of `state` behind its last whole commit, where nobody has the log open: a crash left them, or
    /// a writer that takes no lock is at work. Reads end before them.
    ///
    /// # Errors
    /// As [`checkpoint`](FileSource::checkpoint).
    pub async fn torn_tail(&self) -> Result<Option<Range<u64>>> {
        let mut views = self.views();
        self.dir
            .run(move || {
                let end = views.view()?.and_then(|view| view.current).map(|current| current.end);
                let len = views.seen.as_ref().and_then(|seen| seen.own);
                Ok(end.zip(len).filter(|(end, len)| end < len).map(|(end, len)| end..len))
            })
            .await
    }

    fn views(&self) -> DirectoryViews {
        DirectoryViews { dir: self.dir.clone(), poll_interval: self.options.poll_interval, seen: None }
    }
}

impl EventSource for FileSource {
    fn read(&self, from: ReadFrom) -> EventStream {
        stream::events(self.dir.clone(), from, Box::new(self.views()), false)
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        stream::events(self.dir.clone(), from, Box::new(self.views()), true)
    }
}

/// What may be read of a log, told by its files.
struct DirectoryViews {
    dir: Arc<Directory>,
    poll_interval: Duration,
    seen: Option<Seen>,
}

/// What the last look found.
struct Seen {
    view: View,
    identity: Identity,
    /// The length that `state` had, when the reader found its end by itself.
    own: Option<u64>,
}

impl Views for DirectoryViews {
    fn view(&mut self) -> Result<Option<View>> {
        let path = self.dir.state();
        for _ in 0..1000 {
            let now = self.dir.stat(&path)?;
            let known =
                self.seen.as_ref().filter(|seen| now.is_some_and(|now| now.identity == seen.identity));
            if known.is_none() {
                // `state` first: if it is sealed meanwhile, it is in the list a second time, and not missing.
                let opened = self.dir.open(&path)?;
                let listing = self.dir.list_behind(opened.as_ref().map(|(_, stat)| stat.identity))?;
                let same = self.dir.stat(&path)?.map(|stat| stat.identity);
                if opened.as_ref().map(|(_, stat)| stat.identity) != same {
                    continue;
                }
                let Some((file, stat)) = opened else {
                    if let Some(missing) = Record::of(&self.dir)?.and_then(|record| record.misses(&path)) {
                        return Err(missing);
                    }
                    return Ok(Some(View { sealed: listing.sealed.into(), current: None }));
                };
                let current = Current { file, identity: stat.identity, end: 0 };
                self.seen = Some(Seen {
                    view: View { sealed: listing.sealed.into(), current: Some(current) },
                    identity: stat.identity,
                    own: None,
                });
            }
            return self.find_end();
        }
        Err(Error::new(ErrorKind::Unavailable, Retry::Safe, "`state` is replaced all the time; try again")
            .at_target(path.display().to_string()))
    }

    fn changed(&mut self) -> Signal {
        Box::pin(tokio::time::sleep(self.poll_interval))
    }
}

impl DirectoryViews {
    /// How far `state` is durable.
    fn find_end(&mut self) -> Result<Option<View>> {
        let Some(Seen { view, own, .. }) = &mut self.seen else {
            return Ok(None);
        };
        let Some(current) = &mut view.current else {
            return Ok(None);
        };
        let (dir, path) = (&self.dir, self.dir.state());
        let unread = |cause| dir.unread(&path, cause);
        let lock = dir.file("lock");
        let record = Record::of(dir)?;
        let stat = current.file.stat().map_err(unread)?;
        let told = match record {
            Some(record) => record
                .vouches_for(&*current.file, &stat)
                .map_err(unread)?
                .map(|synced| (synced, record.phase == Phase::Stopped)),
            None => None,
        };
        let end = match told {
            Some((synced, stopped)) if stopped || stat.len <= synced => synced.min(stat.len),
            _ if *own == Some(stat.len) => current.end,
            _ if dir.disk.is_locked(&lock).map_err(|cause| dir.unread(&lock, cause))? => match told {
                Some((synced, _)) => synced,
                None => return Ok(None), // in the middle of opening, or of a rotation
            },
            _ => {
                sync_foreign(&*current.file).map_err(unread)?;
                let vouched = told.map_or(0, |(synced, _)| synced);
                *own = Some(stat.len);
                examine(dir, &path, &current.file, stat.len, vouched)?.end
            }
        };
        // What was shown once is durable: an older word of a writer takes nothing back.
        current.end = current.end.max(end);
        Ok(Some(view.clone()))
    }
}

/// Makes durable what somebody else wrote. On a read-only file system it is already.
fn sync_foreign(file: &dyn DiskFile) -> std::io::Result<()> {
    match file.sync() {
        Err(cause) if cause.kind() == std::io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        synced => synced,
    }
}
