//! Examines the end of a file: whole commits, a torn tail, or damage.
//!
//! Changes nothing, so that readers of a log without a writer use it too.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use hydrant::{Error, ErrorKind, Event, Result};

use crate::commit::Structure;
use crate::directory::Directory;
use crate::disk::DiskFile;
use crate::lines::{self, Lines, Piece};
use crate::mutants::mutant;
use crate::opening::{Opening, read_line, too_long};
use crate::wire::{self, Line};

/// The end of a file.
#[derive(Clone, Debug)]
pub(crate) struct Tail {
    /// The length of the file.
    pub(crate) len: u64,
    /// Where the NUL bytes at the end of the file begin.
    pub(crate) text: u64,
    /// Where the last complete commit ends.
    pub(crate) end: u64,
    /// The last event before it.
    pub(crate) last: Option<Event>,
    /// From here to the end, the disk may hold other bytes than the page cache shows.
    pub(crate) window: u64,
    /// The last line was not written by Hydrant.
    pub(crate) is_foreign: bool,
    /// The last line is whole but has no line break.
    pub(crate) unterminated: bool,
}

impl Tail {
    /// Returns whether bytes are left behind the last complete commit.
    pub(crate) fn is_torn(&self) -> bool {
        self.end < self.len
    }
}

/// How far the first look goes back; further ones go back eight times as far each.
const LOOK_BACK_BYTES: u64 = 64 << 10;

/// Finds the end of a file of `len` bytes, of which `vouched` are known to be synced.
///
/// # Errors
/// `Corrupt` for damage: bytes that are wrong although they are known to have been synced.
pub(crate) fn examine(
    dir: &Directory,
    path: &Path,
    file: &Arc<dyn DiskFile>,
    len: u64,
    vouched: u64,
) -> Result<Tail> {
    let text = lines::end_of_text(&**file, len).map_err(|cause| dir.unread(path, cause))?;
    if text < vouched {
        return Err(cut(dir, &**file, text, vouched));
    }
    let is_bare = bare(dir, path, file, text)?;
    let look = Look { dir, path, file, text, is_bare };
    let from = look.window()?;
    let mut found = look.scan(from, vouched)?;
    found.len = len;
    if found.last.is_none() && found.end > 0 {
        let (offset, line) = lines::last_before(file, found.end, dir, path)?;
        let number = look.number_of(offset)?;
        let (line, event) =
            read_line(&line, number).map_err(|what| dir.damage(path, &**file, offset, &what))?;
        found.is_foreign = matches!(line, Line::Foreign);
        found.last = Some(event);
    }
    Ok(found)
}

/// The error of a `state` that ends at `end`, and was synced beyond it.
pub(crate) fn cut(dir: &Directory, file: &dyn DiskFile, end: u64, synced: u64) -> Error {
    let lost =
        Error::corrupt(format!("the file was synced up to byte {synced}, and ends or is blank before"));
    dir.damage(&dir.state(), file, end, &lost)
}

/// Returns whether the lines of a file are bare changes. A first line that does not check is not: scanning reports it.
fn bare(dir: &Directory, path: &Path, file: &Arc<dyn DiskFile>, end: u64) -> Result<bool> {
    let mut start = [0; 11];
    let read = file.read_at(&mut start, 0).map_err(|cause| dir.unread(path, cause))?;
    if &start[..read] == b"{\"eventId\":" {
        return Ok(false);
    }
    match Opening::of(dir, path, file, end) {
        Ok(opening) => Ok(opening.is_some_and(|opening| opening.is_bare)),
        Err(error)
            if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported)
                || mutant("unread-is-torn") =>
        {
            Ok(false)
        }
        // Without its first line, each bare change would count as torn.
        Err(error) => Err(error),
    }
}

struct Look<'a> {
    dir: &'a Directory,
    path: &'a Path,
    file: &'a Arc<dyn DiskFile>,
    text: u64,
    is_bare: bool,
}

impl Look<'_> {
    /// The number that is the id of a line, where lines have no ids.
    fn number_of(&self, offset: u64) -> Result<Option<u64>> {
        if !self.is_bare {
            return Ok(None);
        }
        lines::count(&**self.file, offset).map(Some).map_err(|cause| self.dir.unread(self.path, cause))
    }

    /// The synced offset in the last line that has one.
    fn window(&self) -> Result<u64> {
        let mut back = LOOK_BACK_BYTES;
        loop {
            let start = self.text.saturating_sub(back);
            let mut window = None;
            self.each_line(self.line_start(start)?, |offset, line| {
                match line.and_then(|line| read_line(line, self.is_bare.then_some(0))) {
                    Ok((Line::Ours(ours), _)) => window = ours.marks.map(|marks| marks.synced).or(window),
                    Ok((Line::Foreign, _)) => window = Some(offset),
                    Err(_) => {}
                }
                Ok(())
            })?;
            match window {
                Some(synced) if synced <= self.text => return Ok(synced),
                _ if start == 0 => return Ok(0),
                _ => back *= 8,
            }
        }
    }

    /// The first line that begins at or behind `offset`.
    fn line_start(&self, offset: u64) -> Result<u64> {
        if offset == 0 {
            return Ok(0);
        }
        let mut buffer = vec![0; lines::BLOCK_BYTES];
        let mut at = offset - 1;
        while at < self.text {
            let read =
                self.file.read_at(&mut buffer, at).map_err(|cause| self.dir.unread(self.path, cause))?;
            if let Some(found) = memchr::memchr(b'\n', &buffer[..read]) {
                return Ok((at + found as u64 + 1).min(self.text));
            }
            if read == 0 {
                break;
            }
            at += read as u64;
        }
        Ok(self.text)
    }

    /// Refuses a line above the limit, from `offset` to `end`, if it is whole. With a higher limit, such a line is an event,
    /// so it must not be taken for a torn tail. A torn line has no line break, or NUL bytes in the place of lost blocks.
    fn refuse_whole(&self, offset: u64, end: u64) -> Result<()> {
        let mut buffer = vec![0; lines::BLOCK_BYTES];
        let (mut at, mut last) = (offset, 0);
        while at < end {
            let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let read = self.file.read_at(&mut buffer[..len], at);
            let read = read.map_err(|cause| self.dir.unread(self.path, cause))?;
            if read == 0 || memchr::memchr(0, &buffer[..read]).is_some() {
                return Ok(());
            }
            last = buffer[read - 1];
            at += read as u64;
        }
        if last == b'\n' {
            return Err(self.dir.damage(self.path, &**self.file, offset, &too_long(self.dir)));
        }
        Ok(())
    }

    /// Calls `each` with every line from `from` on. A line without a line break counts only if it is foreign and
    /// whole.
    fn each_line(&self, from: u64, mut each: impl FnMut(u64, Result<&Bytes>) -> Result<()>) -> Result<()> {
        let mut lines = Lines::new(self.file.clone(), from, self.text, self.dir.line_bytes_max);
        while let Some(piece) = lines.next(self.dir, self.path)? {
            let block = match piece {
                Piece::Lines(block) => block,
                Piece::TooLong(at) => {
                    self.refuse_whole(at, lines.at())?;
                    each(at, Err(too_long(self.dir)))?;
                    continue;
                }
            };
            let mut at = 0;
            while at < block.data.len() {
                let ends = memchr::memchr(b'\n', &block.data[at..]);
                let len = ends.unwrap_or(block.data.len() - at);
                let line = block.data.slice(at..at + len);
                let offset = block.offset + at as u64;
                let half = ends.is_none() && !matches!(wire::parse(&line), Ok(Line::Foreign));
                if len >= self.dir.line_bytes_max {
                    self.refuse_whole(offset, (offset + len as u64 + 1).min(self.text))?;
                    each(offset, Err(too_long(self.dir)))?;
                } else if half {
                    each(offset, Err(Error::corrupt("the line has no end")))?;
                } else {
                    each(offset, Ok(&line))?;
                }
                at += len + 1;
            }
        }
        Ok(())
    }

    /// Reads on from `from`, which a line says was synced.
    fn scan(&self, from: u64, vouched: u64) -> Result<Tail> {
        if self.line_start(from)? != from {
            let inside =
                Error::corrupt("a later line was written behind this place, which is inside of a line");
            return Err(self.dir.damage(self.path, &**self.file, from, &inside));
        }
        let mut number = self.number_of(from)?;
        let mut found = Tail {
            len: 0,
            text: self.text,
            end: from,
            last: None,
            window: from,
            is_foreign: false,
            unterminated: false,
        };
        let mut structure = if from == 0 { Structure::from_start() } else { Structure::between() };
        let mut synced = vouched.max(from);
        let mut flaw: Option<(u64, Error)> = None;
        let mut before = None;
        self.each_line(from, |offset, line| {
            let read = line.and_then(|line| Ok((line.len() as u64, read_line(line, number)?)));
            number = number.map(|number| number + 1);
            let (len, (line, event)) = match read {
                Ok(read) => read,
                Err(what) => {
                    flaw.get_or_insert((offset, what));
                    return Ok(());
                }
            };
            match &line {
                Line::Ours(ours) => synced = ours.marks.map_or(synced, |marks| synced.max(marks.synced)),
                Line::Foreign => synced = synced.max(offset),
            }
            if flaw.is_some() {
                return Ok(());
            }
            let ends = match structure.take(offset, &line) {
                Ok(ends) => ends,
                Err(what) => {
                    flaw = Some((offset, what));
                    return Ok(());
                }
            };
            if before.is_some_and(|before| event.id() <= before) {
                let falls = Error::corrupt("the id does not grow").at(event.id());
                return Err(self.dir.damage(self.path, &**self.file, offset, &falls));
            }
            before = Some(event.id());
            if ends || mutant("half-commit-kept") {
                found.end = (offset + len + 1).min(self.text);
                found.unterminated = found.end < offset + len + 1;
                found.is_foreign = matches!(line, Line::Foreign);
                found.last = Some(event);
            }
            Ok(())
        })?;
        // Only its own version knows whether a line of a newer format was synced.
        let is_newer = |what: &Error| what.kind() == ErrorKind::Unsupported && !mutant("newer-is-torn");
        match flaw {
            Some((offset, what)) if offset < synced || is_newer(&what) => {
                Err(self.dir.damage(self.path, &**self.file, offset, &what))
            }
            _ if found.end < synced => {
                let cut = Error::corrupt("its commit is not complete, and was synced");
                Err(self.dir.damage(self.path, &**self.file, found.end, &cut))
            }
            _ => Ok(found),
        }
    }
}
