//! The steps of a rotation from where it counts, taken by the writer or, after a crash, by recovery.

use std::path::Path;

use hydrant::{Error, ErrorKind, EventId, Result, Retry};

use crate::directory::{Directory, Sealed};
use crate::error::io_error;
use crate::mutants::mutant;

/// Seals `state`, whose last event is `last`, and gives its name to the segment that was written behind that event.
///
/// Each step is durable before one that could lose something without it. Repeating the steps is safe.
pub(crate) fn finish(dir: &Directory, last: EventId) -> Result<Sealed> {
    let sealed = Sealed { last, compressed: false };
    if dir.stat(&dir.state())?.is_some() {
        second_name(dir, sealed)?;
        sync_dir(dir)?;
    }
    let (from, to) = (dir.next(last), dir.state());
    dir.disk.rename(&from, &to).map_err(|cause| failed(&to, cause))?;
    sync_dir(dir)?;
    Ok(sealed)
}

/// Gives `state` the name of a sealed segment, which must be free or its own already.
fn second_name(dir: &Directory, sealed: Sealed) -> Result<()> {
    let (state, name) = (dir.state(), dir.file(&sealed.name()));
    match dir.disk.link(&state, &name) {
        Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {
            match (dir.stat(&state)?, dir.stat(&name)?) {
                (Some(ours), Some(there)) if ours.identity == there.identity => Ok(()),
                _ => Err(taken(&name)),
            }
        }
        linked => linked.map_err(|cause| failed(&name, cause)),
    }
}

/// The error of a rotation that would overwrite a sealed file.
pub(crate) fn taken(name: &Path) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        Retry::Never,
        "a segment of this name exists already and is not overwritten; move it away",
    )
    .at_target(name.display().to_string())
}

pub(crate) fn sync_dir(dir: &Directory) -> Result<()> {
    if mutant("no-sync-of-directory") {
        return Ok(());
    }
    dir.disk.sync_dir(&dir.path).map_err(|cause| failed(&dir.path, cause))
}

fn failed(path: &Path, cause: std::io::Error) -> Error {
    io_error(path, "rotating", Retry::AfterCheckpoint, cause)
}
