//! Reading a log that another process may be writing.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hydrant::{Checkpoint, Error, EventSource, EventStream, ReadFrom, Result};

use crate::directory::{Directory, Sealed};
use crate::disk::{DiskFile, Identity, Stat};
use crate::examine::{cut, examine};
use crate::foreign;
use crate::lock::{Phase, Record};
use crate::mutants::mutant;
use crate::options::FileSourceOptions;
use crate::stream::{self, Signal, Views};
use crate::walk::{self, Current, View};

/// A log in a directory, opened for reading only, with or without a writer beside it.
///
/// It takes no lock and never blocks the writer. It yields only events that survive a power cut: those that the
/// writer reports as synced. If no process holds the lock (hydra-node never does), the reader first syncs
/// `state` itself, and the sealed files of hydra-node before it yields their events. If such a sync fails, this handle and
/// its clones do not trust the file again: reads end where `lock` says that it is synced, and without a record of the file
/// they fail with `Unavailable`.
///
/// The log may be rotated, pruned, compressed or repaired meanwhile. If `state` is another file, is shorter or was
/// rewritten, or the directory was replaced, a follower looks for the event that it returned last. If the log has that
/// event with the same digest, the follower continues behind it. Otherwise, it ends with `Diverged` or `Pruned`.
/// [`follow`](EventSource::follow) looks every [`poll_interval`](FileSourceOptions::poll_interval).
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
    /// Opens a log for reading. Only checks that the directory exists; each read opens the files.
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
                return Err(Error::unavailable(
                    "there is no such directory; name the one that holds the log's `state`",
                )
                .at_target(looked.path.display().to_string()));
            }
            looked.list().map(drop)
        })
        .await?;
        Ok(Self { dir, options })
    }

    /// Returns the last event that a read would yield now.
    ///
    /// # Errors
    /// `Corrupt` for a damaged log, `Unavailable` if another process keeps opening it, and errors of the disk.
    pub async fn checkpoint(&self) -> Result<Checkpoint> {
        for _ in 0..500 {
            let mut views = self.views();
            let found = self
                .dir
                .run(move || match views.view()? {
                    Some(view) => walk::checkpoint(&views.dir, &view),
                    None => Ok(None),
                })
                .await?;
            if let Some(checkpoint) = found {
                return Ok(checkpoint);
            }
            tokio::time::sleep(self.options.poll_interval.max(POLL_MIN)).await;
        }
        Err(Error::unavailable("another process is opening this log; try again"))
    }

    /// Returns the files of the log and their sizes in bytes: the sealed segments in order, then `state`.
    ///
    /// # Errors
    /// Errors of the disk.
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

    /// Returns the bytes of `state` behind its last whole commit, if no process has the log open. A crash left them, or
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
                Ok(end.zip(len).filter(|(end, (len, _))| end < len).map(|(end, (len, _))| end..len))
            })
            .await
    }

    fn views(&self) -> DirectoryViews {
        DirectoryViews {
            dir: self.dir.clone(),
            poll_interval: self.options.poll_interval.max(POLL_MIN),
            seen: None,
            renamed: None,
            has_shown: false,
        }
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

/// What may be read of a log, as its files show.
struct DirectoryViews {
    dir: Arc<Directory>,
    poll_interval: Duration,
    seen: Option<Seen>,
    /// The sealed files that were found without `state`, whose names are durable.
    renamed: Option<(Option<Identity>, Arc<[Sealed]>)>,
    /// Whether a view was returned before.
    has_shown: bool,
}

/// What the last look found.
struct Seen {
    /// The directory that the files were found in.
    home: Option<Identity>,
    sealed: Arc<[Sealed]>,
    current: Current,
    /// The length that `state` had when the reader found its end by itself, and the record of the lock. The length alone
    /// is not enough: a writer may write over space that the one before had preallocated.
    own: Option<(u64, Option<Record>)>,
}

impl Views for DirectoryViews {
    fn view(&mut self) -> Result<Option<View>> {
        let path = self.dir.state();
        let now = self.dir.stat(&path)?;
        // Another file, or a shorter one, is another place.
        self.seen.take_if(|Seen { current, .. }| {
            now.is_none_or(|now| now.identity != current.identity || now.len < current.end)
        });
        if self.seen.is_none() {
            // Before the files: the view must not name another directory than the one that they are in.
            let home = self.dir.identity()?;
            let (state, listing) = self.dir.look()?;
            let sealed: Arc<[Sealed]> = listing.sealed.into();
            let Some((file, stat)) = state else {
                let record = Record::of(&self.dir)?;
                if let Some(record) = record
                    && let Some(missing) = record.misses(&self.dir, &sealed)?
                {
                    // A writer may have created the file after the look, and synced it before the record was read.
                    return if self.dir.stat(&path)?.is_none() { Err(missing) } else { Ok(None) };
                }
                // hydra-node sealed `state`, and has not created the next one.
                if !sealed.is_empty() && self.renamed != Some((home, sealed.clone())) {
                    foreign::sync_renamed(&self.dir, record, &sealed)?;
                    self.renamed = Some((home, sealed.clone()));
                }
                self.has_shown = true;
                return Ok(Some(View { sealed, current: None, home }));
            };
            let current = Current { file, identity: stat.identity, end: 0 };
            self.seen = Some(Seen { home, sealed, current, own: None });
        }
        let view = self.find_end()?;
        self.has_shown |= view.is_some();
        Ok(view)
    }

    fn changed(&mut self) -> Signal {
        Box::pin(tokio::time::sleep(self.poll_interval))
    }

    fn forget(&mut self) -> bool {
        self.seen = None;
        true
    }
}

/// How many times the lock's record is read if it names more bytes than the file has.
const RECORDS_MAX: u32 = 3;

/// The shortest pause between two polls: without one, a follower would keep a core busy.
const POLL_MIN: Duration = Duration::from_millis(1);

/// How many times a reader looks for the end of `state` while the record changes, before it waits.
const LOOKS_MAX: u32 = 8;

impl DirectoryViews {
    /// Finds how far `state` is durable.
    fn find_end(&mut self) -> Result<Option<View>> {
        let Some(Seen { home, sealed, current, own }) = &mut self.seen else {
            return Ok(None);
        };
        let (dir, path) = (&self.dir, self.dir.state());
        let lock = dir.file("lock");
        for _ in 0..LOOKS_MAX {
            let (record, vouched, stat) = vouched(dir, &*current.file)?;
            let is_cut = vouched.is_some_and(|vouched| vouched.synced > stat.len);
            if let Some(vouched) = vouched.filter(|_| is_cut && !self.has_shown) {
                return Err(cut(dir, &*current.file, stat.len, vouched.synced));
            }
            // If the file was cut under its reader, ignore the record. The reader compares the file with what it read.
            let vouched = vouched.filter(|_| !is_cut);
            let end = match vouched {
                Some(vouched) if vouched.is_final || stat.len == vouched.synced => vouched.synced,
                _ if *own == Some((stat.len, record)) => current.end,
                _ if !is_cut && dir.disk.is_locked(&lock).map_err(|cause| dir.unread(&lock, cause))? => {
                    let now = Record::of(dir)?;
                    if now.is_some_and(|record| record.phase == Phase::Opening) {
                        return Ok(None); // a writer opens the log
                    }
                    // The record may be of an earlier writer than the one that holds the lock. A power cut may have
                    // reverted what it says.
                    if now != record && !mutant("read-past-sync") {
                        continue;
                    }
                    match vouched {
                        Some(_) if mutant("read-past-sync") => stat.len,
                        Some(vouched) => vouched.synced,
                        None => return Ok(None), // a writer opens the log, or rotates
                    }
                }
                _ if dir.doubts.has_state(current.identity, record) => match vouched {
                    Some(vouched) => vouched.synced,
                    None => return Err(foreign::doubtful(&path)),
                },
                _ => {
                    foreign::sync(dir, &path, &*current.file, current.identity, record)?;
                    // If a writer of Hydrant has opened this file, it made durable what is before it.
                    if vouched.is_none() && own.is_none() {
                        foreign::sync_renamed(dir, record, sealed)?;
                    }
                    let synced = vouched.map_or(0, |vouched| vouched.synced);
                    let examined = examine(dir, &path, &current.file, stat.len, synced);
                    // A writer may have opened the log meanwhile: it cuts what a crash left, and what it writes there
                    // is not synced yet. Or the directory was replaced, and the lock is that of another log.
                    if has_begun(dir, current, stat.len, record)? {
                        continue;
                    }
                    let end = examined?.end;
                    *own = Some((stat.len, record));
                    end
                }
            };
            // Events that were shown are durable, so an older record does not hide them again.
            current.end = current.end.max(end);
            return Ok(Some(View { sealed: sealed.clone(), current: Some(current.clone()), home: *home }));
        }
        Ok(None) // the record changes at each look
    }
}

/// Returns whether a writer has begun, or `state` was replaced, since an earlier look. At that look, no process held the
/// lock, the file had this length, and `lock` had this record. A foreign writer takes no lock, and makes the file longer.
fn has_begun(dir: &Directory, current: &Current, len: u64, record: Option<Record>) -> Result<bool> {
    let lock = dir.file("lock");
    let is_locked = dir.disk.is_locked(&lock).map_err(|cause| dir.unread(&lock, cause))?;
    let now = dir.stat(&dir.state())?;
    let is_in_place = now.is_some_and(|now| now.identity == current.identity && now.len >= len);
    Ok((is_locked || !is_in_place || Record::of(dir)? != record) && !mutant("examine-meets-opening"))
}

/// What the lock's record says about a file.
#[derive(Clone, Copy)]
struct Vouched {
    synced: u64,
    /// The reader ignores bytes behind `synced`.
    is_final: bool,
}

/// Returns the lock's record, what it says about this `state`, and the metadata of the file.
fn vouched(dir: &Directory, file: &dyn DiskFile) -> Result<(Option<Record>, Option<Vouched>, Stat)> {
    let unread = |cause| dir.unread(&dir.state(), cause);
    let mut looks = 0;
    loop {
        let record = Record::of(dir)?;
        let stat = file.stat().map_err(unread)?;
        let vouched = match record {
            Some(record) => record
                .vouches_for(file, &stat)
                .map_err(unread)?
                .map(|synced| Vouched { synced, is_final: record.phase == Phase::Stopped }),
            None => None,
        };
        looks += 1;
        // A repair may have cut the file right after the look at its record.
        if looks == RECORDS_MAX || vouched.is_none_or(|vouched| vouched.synced <= stat.len) {
            return Ok((record, vouched, stat));
        }
    }
}
