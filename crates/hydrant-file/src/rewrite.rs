//! Separates glued lines of a file. hydra-node leaves them when it is killed inside of a write, and then continues.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use hydrant::{Error, Event, EventId, Result};
use serde_json::value::RawValue;

use crate::commit::Structure;
use crate::directory::Directory;
use crate::disk::DiskFile;
use crate::error::io_error;
use crate::lines::{Lines, Piece};
use crate::opening::read_line;
use crate::wire::{self, Flags, Line, Marks, Place};

/// How much is written at once.
const WRITE_BYTES: usize = 1 << 20;

/// Writes a file anew with its events only. Returns whether lines were taken apart and no event is missing then: all
/// dropped bytes were outside of Hydrant's own commits, and between ids that follow each other.
pub(crate) fn rewrite(
    dir: &Directory,
    path: &Path,
    file: Arc<dyn DiskFile>,
    end: u64,
    out: &dyn DiskFile,
) -> Result<bool> {
    let mut lines = Lines::new(file, 0, end, dir.line_bytes_max);
    let mut structure = Structure::from_start();
    let mut copy = Copy::default();
    let mut took_apart = false;
    let flush = |copy: &mut Copy, enough: usize| {
        if copy.out.len() >= enough {
            out.write_at(&copy.out, copy.written)
                .map_err(|cause| io_error(path, "repairing", hydrant::Retry::Safe, cause))?;
            copy.written += copy.out.len() as u64;
            copy.out.clear();
        }
        Ok::<_, Error>(())
    };
    while let Some(piece) = lines.next(dir, path)? {
        let Piece::Lines(block) = piece else { return Ok(false) };
        let mut at = 0;
        while at < block.data.len() {
            let ends = memchr::memchr(b'\n', &block.data[at..]);
            let line = block.data.slice(at..at + ends.unwrap_or(block.data.len() - at));
            let offset = block.offset + at as u64;
            at += line.len() + 1;
            if ends.is_none() {
                copy.out.extend_from_slice(&line); // a torn tail is left to the next open
                continue;
            }
            let taken = match read_line(&line, None) {
                Ok((parsed, event)) => {
                    structure.take(offset, &parsed).is_ok() && copy.put(&line, &parsed, &event)
                }
                Err(_) if !structure.is_complete() => false,
                Err(_) => {
                    took_apart = true;
                    structure = Structure::between();
                    copy.put_pieces(&line)
                }
            };
            if !taken {
                return Ok(false);
            }
        }
        flush(&mut copy, WRITE_BYTES)?;
    }
    flush(&mut copy, 1)?;
    Ok(took_apart && structure.is_complete() && !copy.is_open_ended)
}

#[derive(Default)]
struct Copy {
    out: Vec<u8>,
    written: u64,
    last: Option<EventId>,
    behind_foreign: bool,
    /// Where the commit starts that is under way.
    commit: Option<u64>,
    /// Something was dropped right behind the last event.
    is_open_ended: bool,
}

impl Copy {
    fn at(&self) -> u64 {
        self.written + self.out.len() as u64
    }

    /// Returns whether an event may follow here. If bytes were dropped before it, its id must be the next one.
    fn fits(&mut self, id: EventId) -> bool {
        let next = self.last.map_or(Some(EventId::ZERO), EventId::next);
        let fits = if self.is_open_ended { Some(id) == next } else { self.last < Some(id) };
        self.is_open_ended = false;
        self.last = Some(id);
        fits
    }

    fn put(&mut self, text: &[u8], line: &Line, event: &Event) -> bool {
        if !self.fits(event.id()) {
            return false;
        }
        let Line::Ours(ours) = line else {
            self.out.extend_from_slice(text);
            self.out.push(b'\n');
            self.behind_foreign = true;
            return true;
        };
        // Its marks name offsets, which move when earlier bytes are dropped.
        let at = self.at();
        let mut place = Place { opens: ours.opens, ..Place::default() };
        if ours.flags.has(Flags::ENDS) {
            place.flags |= Flags::ENDS;
        }
        if self.commit.is_none() && self.behind_foreign {
            place.flags |= Flags::AFTER_FOREIGN;
        }
        let start = *self.commit.get_or_insert(at);
        place.marks = ours.marks.map(|_| Marks { start, synced: start });
        if ours.flags.has(Flags::ENDS) {
            self.commit = None;
        }
        self.behind_foreign = false;
        wire::encode(&mut self.out, event, place);
        ours.opens.is_none() || at == 0
    }

    /// Keeps the whole events of a line, and drops the bytes between them.
    fn put_pieces(&mut self, line: &Bytes) -> bool {
        let mut at = 0;
        while let Some(found) = memchr::memmem::find(&line[at..], b"{\"eventId\":") {
            self.is_open_ended |= found > 0;
            at += found;
            let Some(len) = object(&line[at..]) else {
                self.is_open_ended = true;
                at += 1;
                continue;
            };
            let piece = line.slice(at..at + len);
            let Ok((Line::Foreign, event)) = read_line(&piece, None) else { return false };
            if !self.put(&piece, &Line::Foreign, &event) {
                return false;
            }
            at += len;
        }
        self.is_open_ended |= at < line.len();
        true
    }
}

/// How long the JSON object is that `text` begins with.
fn object(text: &[u8]) -> Option<usize> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>();
    values.next()?.ok()?;
    Some(values.byte_offset())
}
