//! Makes durable what hydra-node wrote: it never syncs, neither its files nor their names.

use std::io::{ErrorKind, Result};

use crate::directory::{Directory, Sealed};
use crate::disk::DiskFile;
use crate::lines;
use crate::lock::{Phase, Record};
use crate::wire::{self, Line};

/// Syncs a file that a foreign writer wrote. On a read-only file system, its bytes are durable already.
pub(crate) fn sync(file: &dyn DiskFile) -> Result<()> {
    match file.sync() {
        Err(cause) if cause.kind() == ErrorKind::ReadOnlyFilesystem => Ok(()),
        synced => synced,
    }
}

/// Makes durable what a foreign writer renamed, if it began where `record` ends: the file in which a writer of Hydrant was
/// killed, and the names.
pub(crate) fn sync_renamed(
    dir: &Directory,
    record: Option<Record>,
    sealed: &[Sealed],
) -> hydrant::Result<()> {
    if let Some(record) = record.filter(|record| record.phase != Phase::Closed)
        && let Some((path, file)) = record.sealed_in(dir, sealed)?
    {
        sync(&*file).map_err(|cause| dir.unread(&path, cause))?;
    }
    sync_names(dir)
}

/// Makes durable the names that a foreign writer gave.
pub(crate) fn sync_names(dir: &Directory) -> hydrant::Result<()> {
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
        sync(&*file).map_err(|cause| dir.unread(&path, cause))?;
    }
    Ok(())
}
