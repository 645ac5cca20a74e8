//! The steps of a rotation from where it counts, taken by the writer or, after a crash, by recovery.

use std::path::Path;

use hydrant::{Error, ErrorKind, EventId, Result, Retry};

use crate::directory::{Directory, Sealed};
use crate::error::io_error;

/// Seals `state`, whose last event is `last`, and lets the files of `chain` take their places: each stands
/// behind the event of its name, and its own last event is the name of the next one.
///
/// Every step is durable before one that could lose something without it. Taking them again is safe.
pub(crate) fn finish(dir: &Directory, last: EventId, chain: &[EventId]) -> Result<Vec<Sealed>> {
    let Some((newest, between)) = chain.split_last() else {
        return Ok(Vec::new());
    };
    let mut sealed = Vec::new();
    let mut seal = |path: &Path, last: EventId| {
        let found = Sealed { last, compressed: false };
        second_name(dir, path, last)?;
        sealed.push(found);
        Ok::<_, Error>(())
    };
    if dir.stat(&dir.state())?.is_some() {
        seal(&dir.state(), last)?;
    }
    if !between.is_empty() {
        // By this name recovery knows that the others belong to a rotation that is not finished.
        sync_dir(dir)?;
    }
    for (after, last) in between.iter().zip(&chain[1..]) {
        seal(&dir.next(*after), *last)?;
    }
    sync_dir(dir)?;
    let (from, to) = (dir.next(*newest), dir.state());
    dir.disk.rename(&from, &to).map_err(|cause| failed(&to, cause))?;
    sync_dir(dir)?;
    for after in between {
        let path = dir.next(*after);
        dir.disk.remove(&path).map_err(|cause| failed(&path, cause))?;
    }
    Ok(sealed)
}

/// Gives a file the name of a sealed one, which must be free or its own already.
fn second_name(dir: &Directory, path: &Path, last: EventId) -> Result<()> {
    let name = dir.file(&Sealed { last, compressed: false }.name());
    match dir.disk.link(path, &name) {
        Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {
            let (ours, there) = (dir.stat(path)?, dir.stat(&name)?);
            match (ours, there) {
                (Some(ours), Some(there)) if ours.identity == there.identity => Ok(()),
                _ => Err(taken(&name)),
            }
        }
        linked => linked.map_err(|cause| failed(&name, cause)),
    }
}

/// A sealed file is never overwritten.
pub(crate) fn taken(name: &Path) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        Retry::Never,
        "a segment of this name is there already, and is not overwritten; move it away",
    )
    .at_target(name.display().to_string())
}

pub(crate) fn sync_dir(dir: &Directory) -> Result<()> {
    dir.disk.sync_dir(&dir.path).map_err(|cause| failed(&dir.path, cause))
}

fn failed(path: &Path, cause: std::io::Error) -> Error {
    io_error(path, "rotating", Retry::AfterCheckpoint, cause)
}
