//! The file that is being read.

use std::path::PathBuf;

use hydrant::{EventId, Result};

use super::View;
use crate::commit::Structure;
use crate::directory::{Directory, Sealed};
use crate::disk::Identity;
use crate::foreign;
use crate::lines::{Lines, Piece};
use crate::mutants::mutant;
use crate::opening::read_line;
use crate::wire;

pub(super) struct Segment {
    pub(super) path: PathBuf,
    /// The id in its name, if it is sealed.
    pub(super) sealed: Option<EventId>,
    identity: Identity,
    pub(super) lines: Lines,
    pub(super) structure: Structure,
    /// The number of the next line, where lines have no ids.
    pub(super) number: Option<u64>,
    /// Whether the file had no line when it was opened. Its beginning is not compared yet, and `number` is not known.
    pub(super) was_empty: bool,
    /// The last line had no line break.
    pub(super) unterminated: bool,
    /// Up to here, all lines are durable.
    durable: u64,
    /// A foreign line behind `durable` is to be yielded.
    pub(super) is_unsynced: bool,
    /// The last line read: offset, length and checksum.
    tail: Option<(u64, usize, u32)>,
}

impl Segment {
    /// Opens a file at its first line.
    pub(super) fn open(
        dir: &Directory,
        path: PathBuf,
        sealed: Option<EventId>,
        identity: Identity,
        lines: Lines,
    ) -> Result<Self> {
        let structure = Structure::from_start();
        // What a view shows of `state` is durable, and so is what Hydrant compressed.
        let is_plain = path.extension().is_none_or(|extension| extension != "zst");
        let durable = if sealed.is_some() && is_plain { 0 } else { lines.end() };
        let was_empty = lines.end() == 0 && !mutant("first-line-unchecked");
        let mut segment = Self {
            path,
            sealed,
            identity,
            lines,
            structure,
            number: None,
            was_empty,
            unterminated: false,
            durable,
            is_unsynced: false,
            tail: None,
        };
        segment.number = segment.is_bare(dir)?.then_some(0);
        Ok(segment)
    }

    /// Returns whether the file still has its place in the view. A `state` that was sealed since becomes a sealed file.
    pub(super) fn is_in_place(
        &mut self,
        dir: &Directory,
        view: &View,
        position: Option<EventId>,
    ) -> Result<bool> {
        if self.sealed.is_some() {
            return Ok(true);
        }
        if let Some(current) = view.current.as_ref().filter(|current| current.identity == self.identity) {
            return Ok(current.end >= self.lines.end());
        }
        for sealed in view.sealed.iter().filter(|sealed| Some(sealed.last) >= position) {
            let path = dir.file(&Sealed { compressed: false, ..*sealed }.name());
            if let Some(stat) = dir.stat(&path)?
                && stat.identity == self.identity
            {
                (self.path, self.sealed, self.durable) = (path, Some(sealed.last), self.lines.end());
                self.lines.extend(stat.len);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns whether a foreign line at this offset may not be durable. hydra-node syncs no file before it renames it.
    pub(super) fn may_lose(&self, offset: u64) -> bool {
        self.sealed.is_some() && offset >= self.durable && !mutant("foreign-unsynced")
    }

    /// Syncs the file if a foreign line needs it.
    pub(super) fn sync(&mut self, dir: &Directory) -> Result<()> {
        if self.is_unsynced {
            foreign::sync(dir, &self.path, &**self.lines.file(), self.identity, None)?;
            self.is_unsynced = false;
            self.durable = self.lines.end();
        }
        Ok(())
    }

    /// Keeps what [`has_changed`](Segment::has_changed) compares.
    pub(super) fn remember(&mut self, offset: u64, line: &[u8]) {
        self.tail = Some((offset, line.len(), crc32c::crc32c(line)));
    }

    /// Returns whether the file was cut before the known end, or the line read last has changed.
    pub(super) fn has_changed(&self, dir: &Directory) -> Result<bool> {
        let file = self.lines.file();
        let unread = |cause| dir.unread(&self.path, cause);
        if file.stat().map_err(unread)?.len < self.lines.end() {
            return Ok(true);
        }
        let Some((offset, len, check)) = self.tail else { return Ok(false) };
        let mut line = vec![0; len];
        let read = file.read_at(&mut line, offset).map_err(unread)?;
        Ok(read < len || crc32c::crc32c(&line) != check)
    }

    /// Returns whether its lines are bare changes, which have no ids (and which were never rotated).
    fn is_bare(&self, dir: &Directory) -> Result<bool> {
        let file = self.lines.file();
        let mut start = [0; 11];
        let read = file.read_at(&mut start, 0).map_err(|cause| dir.unread(&self.path, cause))?;
        if &start[..read] == b"{\"eventId\":" {
            return Ok(false);
        }
        let mut lines = Lines::new(file.clone(), 0, self.lines.end(), dir.line_bytes_max).in_blocks_of(4096);
        let Some(Piece::Lines(block)) = lines.next(dir, &self.path)? else {
            return Ok(false);
        };
        let end = memchr::memchr(b'\n', &block.data).unwrap_or(block.data.len());
        Ok(wire::is_bare(&block.data.slice(..end)))
    }

    /// Moves to a line that begins at `at`.
    pub(super) fn go_to(&mut self, dir: &Directory, at: u64) {
        if at > 0 {
            let (file, end) = (self.lines.file().clone(), self.lines.end());
            self.lines = Lines::new(file, at, end, dir.line_bytes_max);
            self.structure = Structure::anywhere();
        }
    }

    /// Moves to a line at or shortly before the first one behind `position`.
    ///
    /// Checks every line by which it decides, so a damaged id cannot mislead it.
    pub(super) fn seek(&mut self, dir: &Directory, position: EventId) -> Result<()> {
        const NEAR_BYTES: u64 = 64 << 10;
        if self.number.is_some() {
            return Ok(()); // ids are line numbers: count them
        }
        if let Some(near) = self.lines.file().near(position.get()) {
            self.go_to(dir, near);
            return Ok(());
        }
        let (mut low, mut high) = (0, self.lines.end());
        while high - low > NEAR_BYTES {
            let middle = low + (high - low) / 2;
            match self.line_behind(dir, middle, high)? {
                Some((at, id)) if id <= position => low = at,
                _ => high = middle,
            }
        }
        self.go_to(dir, low);
        Ok(())
    }

    /// Returns the first sound line that begins behind `middle` and before `high`.
    fn line_behind(&self, dir: &Directory, middle: u64, high: u64) -> Result<Option<(u64, EventId)>> {
        const PROBE_BYTES: usize = 4096;
        let file = self.lines.file();
        let mut buffer = [0; PROBE_BYTES];
        let mut at = middle;
        let start = loop {
            let read = file.read_at(&mut buffer, at).map_err(|cause| dir.unread(&self.path, cause))?;
            match memchr::memchr(b'\n', &buffer[..read]) {
                Some(found) => break at + found as u64 + 1,
                None if read == 0 || at + read as u64 >= high => return Ok(None),
                None => at += read as u64,
            }
        };
        if start >= high {
            return Ok(None);
        }
        let end = self.lines.end();
        let mut lines = Lines::new(file.clone(), start, end, dir.line_bytes_max).in_blocks_of(PROBE_BYTES);
        while lines.at() < high {
            let Some(Piece::Lines(block)) = lines.next(dir, &self.path)? else {
                continue;
            };
            let mut at = 0;
            while at < block.data.len() {
                let len = memchr::memchr(b'\n', &block.data[at..]).unwrap_or(block.data.len() - at);
                let offset = block.offset + at as u64;
                if offset >= high {
                    return Ok(None);
                }
                if let Ok((_, event)) = read_line(&block.data.slice(at..at + len), None) {
                    return Ok(Some((offset, event.id())));
                }
                at += len + 1;
            }
        }
        Ok(None)
    }
}
