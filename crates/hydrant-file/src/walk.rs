//! Reads a log's events in order, across its files. Blocking: the stream runs it beside the runtime.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use hydrant::{Error, Event, EventId, Layout, ReadFrom, Result};

use crate::commit::Structure;
use crate::directory::{Directory, Sealed};
use crate::disk::{DiskFile, Identity};
use crate::lines::{self, Block, Lines, Piece};
use crate::opening::{Opening, read_line, too_long};
use crate::wire::{self, Line, Opens};

/// What of a log may be read.
#[derive(Clone, Default)]
pub(crate) struct View {
    /// In order.
    pub(crate) sealed: Arc<[Sealed]>,
    pub(crate) current: Option<Current>,
}

/// `state`, as far as it is synced.
#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) identity: Identity,
    pub(crate) end: u64,
}

/// Some events, in order, as they lie in one buffer.
pub(crate) struct Chunk {
    pub(crate) data: Bytes,
    pub(crate) items: Vec<Item>,
    /// What comes behind them; the last item of the read.
    pub(crate) error: Option<Error>,
}

/// One event of a chunk.
pub(crate) enum Item {
    /// A line at this offset of the buffer, whose layout is known.
    Slice(u32, Layout),
    /// A line that had to be parsed.
    Event(Event),
}

/// A position in a log, on its way through the files.
pub(crate) struct Walk {
    dir: Arc<Directory>,
    /// Where to begin, until it has.
    from: Option<ReadFrom>,
    /// No event up to this one is yielded any more.
    position: Option<EventId>,
    /// The last event read, yielded or not.
    last: Option<EventId>,
    segment: Option<Segment>,
}

/// The file that is being read.
struct Segment {
    path: PathBuf,
    /// What its name says, where it is sealed.
    sealed: Option<EventId>,
    identity: Identity,
    lines: Lines,
    structure: Structure,
    /// The number of the next line, where lines have no ids.
    number: Option<u64>,
    /// The last line lacked its line break.
    unterminated: bool,
    /// It was entered at its first line, so that the log before it can be checked.
    at_start: bool,
}

impl Walk {
    pub(crate) fn new(dir: Arc<Directory>, from: ReadFrom) -> Self {
        Self { dir, from: Some(from), position: None, last: None, segment: None }
    }

    /// The next events; `None` at the end of the view.
    pub(crate) fn next(&mut self, view: &View) -> Result<Option<Chunk>> {
        if let Some(from) = self.from {
            self.start(view, from)?;
            self.from = None;
        }
        loop {
            let Some(segment) = &mut self.segment else {
                let Some(segment) = self.choose(view)? else {
                    return Ok(None);
                };
                self.segment = Some(segment);
                continue;
            };
            if segment.lines.at() < segment.lines.end() {
                let chunk = self.chunk()?;
                if !chunk.items.is_empty() || chunk.error.is_some() {
                    return Ok(Some(chunk));
                }
                continue;
            }
            if segment.sealed.is_some() {
                self.finish_segment()?;
                continue;
            }
            let Some(current) = &view.current else {
                return Ok(None);
            };
            let is_sealed = current.identity != segment.identity;
            let end = if is_sealed {
                // A rotation sealed it since: all of it counts.
                segment.lines.file().stat().map_err(|cause| self.dir.unread(&segment.path, cause))?.len
            } else {
                current.end
            };
            if end > segment.lines.end() {
                segment.lines.extend(end);
            } else if is_sealed {
                self.segment = None;
            } else {
                return Ok(None);
            }
        }
    }

    /// Offers a chunk's buffer for the next one.
    pub(crate) fn recycle(&mut self, data: Bytes) {
        if let Some(segment) = &mut self.segment {
            segment.lines.recycle(data);
        }
    }

    fn start(&mut self, view: &View, from: ReadFrom) -> Result<()> {
        match from.exclusive() {
            ReadFrom::Snapshot => return self.start_at_snapshot(view),
            ReadFrom::After(id) => self.position = Some(id),
            ReadFrom::Origin | ReadFrom::At(_) => {}
        }
        self.segment = self.choose(view)?;
        if let (Some(segment), Some(position)) = (&mut self.segment, self.position) {
            segment.seek(&self.dir, position)?;
        }
        Ok(())
    }

    fn start_at_snapshot(&mut self, view: &View) -> Result<()> {
        let mut files = vec![self.current(view)?];
        let mut sealed = view.sealed.iter().rev();
        loop {
            for mut segment in files.drain(..).flatten() {
                let opening =
                    Opening::of(&self.dir, &segment.path, segment.lines.file(), segment.lines.end())?;
                if let Some(at) = opening.and_then(|opening| opening.snapshot) {
                    segment.go_to(&self.dir, at);
                    self.segment = Some(segment);
                    return Ok(());
                }
            }
            match sealed.next() {
                Some(next) => files.push(self.open(*next)?),
                None => break,
            }
        }
        // No snapshot anywhere: from the oldest event on.
        if let Some((_, oldest)) = self.oldest(view)? {
            self.position = oldest.predecessor();
        }
        Ok(())
    }

    /// The oldest file of the log, and how it begins.
    fn oldest(&self, view: &View) -> Result<Option<(Segment, Opening)>> {
        for sealed in view.sealed.iter() {
            if let Some(segment) = self.open(*sealed)? {
                let opening =
                    Opening::of(&self.dir, &segment.path, segment.lines.file(), segment.lines.end())?;
                return Ok(opening.map(|opening| (segment, opening)));
            }
        }
        let Some(segment) = self.current(view)? else {
            return Ok(None);
        };
        let opening = Opening::of(&self.dir, &segment.path, segment.lines.file(), segment.lines.end())?;
        Ok(opening.map(|opening| (segment, opening)))
    }

    /// The file that holds the event behind the position.
    fn choose(&self, view: &View) -> Result<Option<Segment>> {
        if let Some((_, oldest)) = self.oldest(view)?
            && oldest.predecessor() > self.position
        {
            return Err(Error::pruned(oldest.id).at_target(self.dir.path.display().to_string()));
        }
        match view.sealed.iter().find(|sealed| Some(sealed.last) > self.position) {
            Some(sealed) => match self.open(*sealed)? {
                Some(segment) => Ok(Some(segment)),
                None => Err(self.gone(*sealed)),
            },
            None => self.current(view),
        }
    }

    fn current(&self, view: &View) -> Result<Option<Segment>> {
        let Some(current) = &view.current else {
            return Ok(None);
        };
        let lines = Lines::new(current.file.clone(), 0, current.end, self.dir.line_bytes_max);
        let mut segment = Segment::new(self.dir.state(), None, current.identity, lines);
        segment.number = segment.is_bare(&self.dir)?.then_some(0);
        Ok(Some(segment))
    }

    /// Opens a sealed file; `None` when it is not there any more.
    fn open(&self, sealed: Sealed) -> Result<Option<Segment>> {
        let Some((path, file, stat)) = self.dir.open_sealed(sealed)? else {
            return Ok(None);
        };
        let lines = Lines::new(file, 0, stat.len, self.dir.line_bytes_max);
        let mut segment = Segment::new(path, Some(sealed.last), stat.identity, lines);
        segment.number = segment.is_bare(&self.dir)?.then_some(0);
        Ok(Some(segment))
    }

    /// Why a sealed file cannot be opened: it was pruned while the log was being read, or is missing.
    fn gone(&self, sealed: Sealed) -> Error {
        let lost = |error: Option<Error>| {
            error.unwrap_or_else(|| {
                Error::corrupt(format!(
                    "the file with the events up to {} is missing; put it back",
                    sealed.last
                ))
                .at_target(self.dir.file(&sealed.name()).display().to_string())
            })
        };
        let now = match self.dir.list() {
            Ok(listing) => View { sealed: listing.sealed.into(), current: None },
            Err(error) => return error,
        };
        match self.oldest(&now) {
            Ok(Some((_, oldest))) if oldest.predecessor() > self.position => {
                Error::pruned(oldest.id).at_target(self.dir.path.display().to_string())
            }
            Ok(_) => lost(None),
            Err(error) => lost(Some(error)),
        }
    }

    /// Leaves a sealed file, of which all was read.
    fn finish_segment(&mut self) -> Result<()> {
        let Some(segment) = self.segment.take() else {
            return Ok(());
        };
        let file = &**segment.lines.file();
        let end = segment.lines.end();
        if !segment.structure.is_complete() {
            let cut = Error::corrupt("the last commit of this sealed file is not complete");
            return Err(self.dir.damage(&segment.path, file, end, &cut));
        }
        if self.last != segment.sealed {
            let cut =
                Error::corrupt("the file ends with another event than its name says; lines are missing");
            return Err(self.dir.damage(&segment.path, file, end, &cut));
        }
        self.position = self.position.max(self.last);
        Ok(())
    }

    /// Reads the next block of the file and takes it apart.
    fn chunk(&mut self) -> Result<Chunk> {
        let segment = self.segment.as_mut().expect("called with an open file");
        let block = match segment.lines.next(&self.dir, &segment.path)? {
            Some(Piece::Lines(block)) => block,
            Some(Piece::TooLong(at)) => {
                return Err(self.dir.damage(
                    &segment.path,
                    &**segment.lines.file(),
                    at,
                    &too_long(&self.dir),
                ));
            }
            None => Block { offset: segment.lines.at(), data: Bytes::new() },
        };
        let mut chunk =
            Chunk { items: Vec::with_capacity(block.data.len() / 256), data: block.data, error: None };
        let mut at = 0;
        if std::mem::take(&mut segment.unterminated) && chunk.data.first() == Some(&b'\n') {
            at = 1;
        }
        while at < chunk.data.len() {
            let found = memchr::memchr(b'\n', &chunk.data[at..]);
            let end = found.map_or(chunk.data.len(), |len| at + len);
            let offset = block.offset + at as u64;
            match take(&self.dir, segment, &mut self.last, self.position, &chunk.data, at..end, offset) {
                Ok(Some(item)) => {
                    self.position = self.last;
                    chunk.items.push(item);
                }
                Ok(None) => {}
                Err(what) => {
                    chunk.error =
                        Some(self.dir.damage(&segment.path, &**segment.lines.file(), offset, &what));
                    break;
                }
            }
            segment.unterminated = found.is_none();
            at = end + 1;
        }
        Ok(chunk)
    }
}

/// Takes one line: `None` where it is not to be yielded.
#[inline]
fn take(
    dir: &Directory,
    segment: &mut Segment,
    last: &mut Option<EventId>,
    position: Option<EventId>,
    data: &Bytes,
    range: std::ops::Range<usize>,
    offset: u64,
) -> Result<Option<Item>> {
    let text = &data[range.clone()];
    if text.len() >= dir.line_bytes_max {
        return Err(too_long(dir));
    }
    let line = wire::parse(text)?;
    segment.structure.take(offset, &line)?;
    let (item, id, reuses) = match &line {
        Line::Ours(ours) => {
            if let Some(layout) = ours.layout() {
                let at = u32::try_from(range.start).map_err(|_| too_long(dir))?;
                (Item::Slice(at, layout), layout.id, false)
            } else {
                let event = ours.event(data.slice(range))?;
                let id = event.id();
                (Item::Event(event), id, false)
            }
        }
        Line::Foreign => {
            let event = wire::decode_foreign(data.slice(range), segment.number)?;
            let (id, reuses) = (event.id(), offset == 0 && event.is_snapshot());
            (Item::Event(event), id, reuses)
        }
    };
    if let Some(number) = &mut segment.number {
        *number += 1;
    }
    if std::mem::take(&mut segment.at_start)
        && let Line::Ours(ours) = &line
        && let Some(Opens::Behind(before)) = ours.opens
    {
        // Where the read began with this file, nothing that it asked for may be missing before it.
        let missing =
            if last.is_some() { *last != Some(before) } else { position.is_some_and(|id| id < before) };
        if missing {
            return Err(Error::corrupt(format!(
                "the file that ends with event {before} is missing; put it back"
            )));
        }
    }
    // hydra-node's snapshot may reuse the id of the event before it.
    if *last >= Some(id) && !(reuses && *last == Some(id)) {
        return Err(Error::corrupt("the id does not grow").at(id));
    }
    *last = Some(id);
    Ok((Some(id) > position).then_some(item))
}

impl Segment {
    fn new(path: PathBuf, sealed: Option<EventId>, identity: Identity, lines: Lines) -> Self {
        Self {
            path,
            sealed,
            identity,
            lines,
            structure: Structure::from_start(),
            number: None,
            unterminated: false,
            at_start: true,
        }
    }

    /// Whether its lines are bare changes, which have no ids (and which were never rotated).
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

    /// Goes to a line that begins at `at`.
    fn go_to(&mut self, dir: &Directory, at: u64) {
        if at > 0 {
            let (file, end) = (self.lines.file().clone(), self.lines.end());
            self.lines = Lines::new(file, at, end, dir.line_bytes_max);
            self.structure = Structure::anywhere();
            self.at_start = false;
        }
    }

    /// Goes to a line at or before the first one behind `position`, not far before it.
    ///
    /// Every line that it goes by is checked, so that a damaged id cannot lead it astray.
    fn seek(&mut self, dir: &Directory, position: EventId) -> Result<()> {
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

    /// The first line that checks and begins behind `middle` and before `high`.
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

/// The last event that a view shows.
pub(crate) fn last_event(dir: &Directory, view: &View) -> Result<Option<Event>> {
    if let Some(current) = view.current.as_ref().filter(|current| current.end > 0) {
        let path = dir.state();
        let (offset, line) = lines::last_before(&current.file, current.end, dir, &path)?;
        let number = if wire::is_bare(&line) {
            Some(lines::count(&*current.file, offset).map_err(|cause| dir.unread(&path, cause))?)
        } else {
            None
        };
        let read =
            read_line(&line, number).map_err(|what| dir.damage(&path, &*current.file, offset, &what))?;
        let reused = view.sealed.last().is_some_and(|sealed| sealed.last == read.1.id());
        if !reused {
            return Ok(Some(read.1));
        }
    }
    view.sealed.last().map(|sealed| crate::recovery::last_of(dir, *sealed)).transpose()
}
