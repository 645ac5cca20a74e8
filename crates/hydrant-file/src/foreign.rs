//! Makes durable what hydra-node wrote: it never syncs, neither its files nor their names.

use std::io::{ErrorKind, Result};

use crate::directory::{Directory, Sealed};
use crate::disk::DiskFile;
use crate::lines;
use crate::wire::{self, Line};

/// Syncs a file that a foreign writer wrote. On a read-only file system, its bytes are durable already.
pub(crate) fn sync(file: &dyn DiskFile) -> Result<()> {
    match file.sync() {
        Err(cause) if cause.kind() == ErrorKind::ReadOnlyFilesystem => Ok(()),
        synced => synced,
    }
}

/// Makes the names in a directory durable that a foreign writer gave. Some file systems cannot sync a directory.
pub(crate) fn sync_names(dir: &Directory) -> hydrant::Result<()> {
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
        // A writer of Hydrant syncs what it writes. When it opened the log, it made the files before durable.
        let last = lines::last_before(&file, stat.len, dir, &path);
        if last.is_ok_and(|(_, line)| matches!(wire::parse(&line), Ok(Line::Ours(_)))) {
            break;
        }
        sync(&*file).map_err(|cause| dir.unread(&path, cause))?;
    }
    Ok(())
}
