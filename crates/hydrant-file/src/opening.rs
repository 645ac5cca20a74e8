//! How a file begins: its first line, and what that says about the log before the file.

use std::path::Path;
use std::sync::Arc;

use hydrant::{EventId, Result};

use crate::directory::Directory;
use crate::disk::DiskFile;
use crate::lines::{Lines, Piece};
use crate::wire::{self, Line, Opens};

/// How a file begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    /// The first event.
    pub(crate) id: EventId,
    /// The event before it, if the file names one.
    pub(crate) opens: Option<Opens>,
    /// The offset of the snapshot that the file begins with. (Of several in a row, the last one. A snapshot of
    /// hydra-node may reuse the id of the event before it; then there is no name under which to seal the first.)
    pub(crate) snapshot: Option<u64>,
    /// Whether its lines are bare changes, which have no ids.
    pub(crate) is_bare: bool,
}

impl Opening {
    /// The event before this file, if there ever was one. Foreign files begin with the first event ever,
    /// or with a snapshot of all events before.
    pub(crate) fn predecessor(&self) -> Option<EventId> {
        match self.opens {
            Some(opens) => opens.predecessor(),
            None if self.snapshot.is_some() => self.id.prev(),
            None => None,
        }
    }

    /// Returns whether the file continues a log that was read up to `last`, by a read that is at `position`.
    pub(crate) fn joins(&self, last: Option<EventId>, position: Option<EventId>) -> bool {
        match (self.opens, last) {
            (Some(opens), Some(_)) => opens.predecessor() == last,
            // Foreign files do not name the event before them: a snapshot has the next id, or reuses the last one.
            (None, Some(_)) => last >= self.predecessor(),
            (_, None) => position >= self.predecessor(),
        }
    }

    /// Returns whether the file begins with a snapshot of hydra-node that has the id of the event before it.
    pub(crate) fn reuses(&self, id: EventId) -> bool {
        self.id == id && self.opens.is_none() && self.snapshot.is_some()
    }

    /// Reads it; `None` where there are no lines before `end`.
    pub(crate) fn of(
        dir: &Directory,
        path: &Path,
        file: &Arc<dyn DiskFile>,
        end: u64,
    ) -> Result<Option<Self>> {
        let mut lines = Lines::new(file.clone(), 0, end, dir.line_bytes_max).in_blocks_of(4096);
        let mut opening: Option<Self> = None;
        while let Some(piece) = lines.next(dir, path)? {
            let block = match piece {
                Piece::Lines(block) => block,
                Piece::TooLong(at) if opening.is_none() => {
                    return Err(dir.damage(path, &**file, at, &too_long(dir)));
                }
                Piece::TooLong(_) => return Ok(opening),
            };
            let mut at = 0;
            while at < block.data.len() {
                let len = memchr::memchr(b'\n', &block.data[at..]).unwrap_or(block.data.len() - at);
                let line = block.data.slice(at..at + len);
                let offset = block.offset + at as u64;
                let is_bare = offset == 0 && wire::is_bare(&line);
                let (ours, event) = match read_line(&line, is_bare.then_some(0)) {
                    Ok(read) => read,
                    // The reader will say so, where it is asked for that line.
                    Err(_) if opening.is_some() => return Ok(opening),
                    Err(what) => return Err(dir.damage(path, &**file, offset, &what)),
                };
                let snapshot = event.is_snapshot().then_some(offset);
                let first = opening.get_or_insert(Self {
                    id: event.id(),
                    opens: match ours {
                        Line::Ours(ours) => ours.opens,
                        Line::Foreign => None,
                    },
                    snapshot,
                    is_bare,
                });
                if snapshot.is_none() {
                    return Ok(opening);
                }
                first.snapshot = snapshot;
                at += len + 1;
            }
        }
        Ok(opening)
    }
}

/// Reads one line, of Hydrant or foreign. `number` is its number where lines have no ids.
pub(crate) fn read_line(line: &bytes::Bytes, number: Option<u64>) -> Result<(Line, hydrant::Event)> {
    let parsed = wire::parse(line)?;
    let event = match &parsed {
        Line::Ours(ours) => ours.event(line.clone())?,
        Line::Foreign => wire::decode_foreign(line.clone(), number)?,
    };
    Ok((parsed, event))
}

/// The flaw of a line that is longer than the limit.
pub(crate) fn too_long(dir: &Directory) -> hydrant::Error {
    hydrant::Error::corrupt(format!(
        "the line is longer than {} bytes; raise `event_bytes_max` if it is an event",
        dir.line_bytes_max
    ))
}
