//! Makes durable what hydra-node wrote: it never syncs, neither its files nor their names.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use hydrant::Error;

use crate::directory::{Directory, Sealed};
use crate::disk::{DiskFile, Identity, sync_name};
use crate::lines;
use crate::lock::{Phase, Record};
use crate::mutants::mutant;
use crate::wire::{self, Line};

/// The files whose sync failed, for one handle. A later sync of such a file may succeed and save nothing.
#[derive(Clone, Default)]
pub(crate) struct Doubts(Arc<Mutex<Vec<Doubt>>>);

struct Doubt {
    identity: Identity,
    /// The record of `lock` at that time, if the file was `state`.
    record: Option<Record>,
}

impl Doubts {
    fn add(&self, identity: Identity, record: Option<Record>) {
        let mut doubts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        doubts.retain(|doubt| doubt.identity != identity);
        doubts.push(Doubt { identity, record });
    }

    fn has(&self, identity: Identity) -> bool {
        let doubts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        doubts.iter().any(|doubt| doubt.identity == identity) && !mutant("reader-forgets-failed-sync")
    }

    /// Returns whether a sync of this `state` failed since a writer of Hydrant last opened the log: a writer makes durable
    /// what it finds, and says so in the record.
    pub(crate) fn has_state(&self, identity: Identity, record: Option<Record>) -> bool {
        let is_settled = |before: Option<Record>| {
            let is_open = |now: &Record| matches!(now.phase, Phase::Open | Phase::Closed);
            record != before && record.is_some_and(|now| now.inode == identity.inode && is_open(&now))
        };
        let mut doubts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        doubts.retain(|doubt| doubt.identity != identity || !is_settled(doubt.record));
        drop(doubts);
        self.has(identity)
    }
}

/// Syncs a file that a foreign writer wrote. On a read-only file system, its bytes are durable already.
///
/// # Errors
/// Also `Unavailable` if an earlier sync of this file by this handle failed.
pub(crate) fn sync(
    dir: &Directory,
    path: &Path,
    file: &dyn DiskFile,
    identity: Identity,
    record: Option<Record>,
) -> hydrant::Result<()> {
    if dir.doubts.has(identity) {
        return Err(doubtful(path));
    }
    match file.sync() {
        Err(cause) if cause.kind() == ErrorKind::ReadOnlyFilesystem => Ok(()),
        Err(cause) => {
            dir.doubts.add(identity, record);
            Err(dir.unread(path, cause))
        }
        Ok(()) => Ok(()),
    }
}

/// The error of a file whose sync failed before.
pub(crate) fn doubtful(path: &Path) -> Error {
    Error::unavailable(
        "a sync of this file failed before, so it is unknown what of it is on the disk; check the disk and open the log again",
    )
    .at_target(path.display().to_string())
}

/// Makes durable what a foreign writer renamed, if it began where `record` ends: the file in which a writer of Hydrant was
/// killed, and the names.
pub(crate) fn sync_renamed(
    dir: &Directory,
    record: Option<Record>,
    sealed: &[Sealed],
) -> hydrant::Result<()> {
    if let Some(record) = record.filter(|record| record.phase != Phase::Closed)
        && let Some((path, file, stat)) = record.sealed_in(dir, sealed)?
    {
        sync(dir, &path, &*file, stat.identity, None)?;
    }
    sync_names(dir)
}

/// Makes durable the names that a foreign writer gave, also that of the directory.
pub(crate) fn sync_names(dir: &Directory) -> hydrant::Result<()> {
    sync_name(&*dir.disk, &dir.path).map_err(|cause| dir.unread(&dir.path, cause))?;
    // Some file systems cannot sync a directory.
    match dir.disk.sync_dir(&dir.path) {
        Err(cause) if matches!(cause.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::InvalidInput) => {
            Ok(())
        }
        synced => synced.map_err(|cause| dir.unread(&dir.path, cause)),
    }
}

/// Makes the last of these sealed files durable, back to one that a writer of Hydrant wrote.
pub(crate) fn sync_sealed(dir: &Directory, sealed: &[Sealed]) -> hydrant::Result<()> {
    for sealed in sealed.iter().rev() {
        // Hydrant syncs what it compresses, and has opened the log before that.
        let path = dir.file(&Sealed { compressed: false, ..*sealed }.name());
        let Some((file, stat)) = dir.open(&path)? else { break };
        // When its writer opened the log, it made the files before durable. For the file itself, see `sync_renamed`.
        let last = lines::last_before(&file, stat.len, dir, &path);
        if last.is_ok_and(|(_, line)| matches!(wire::parse(&line), Ok(Line::Ours(_)))) {
            break;
        }
        sync(dir, &path, &*file, stat.identity, None)?;
    }
    Ok(())
}
