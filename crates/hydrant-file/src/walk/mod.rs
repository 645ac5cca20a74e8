//! Reads a log's events in order, across its files. Blocking: the stream runs it beside the runtime.

mod place;
mod segment;

use std::sync::Arc;

use bytes::Bytes;
use hydrant::store::Layout;
use hydrant::{Checkpoint, Error, Event, EventId, ReadFrom, Result};

use self::segment::Segment;
use crate::directory::{Directory, Sealed};
use crate::disk::{DiskFile, Identity};
use crate::foreign;
use crate::lines::{self, Block, Piece};
use crate::mutants::mutant;
use crate::opening::{Opening, read_line, too_long};
use crate::wire::{self, Line};

/// What of a log may be read.
#[derive(Clone, Default)]
pub(crate) struct View {
    /// In order.
    pub(crate) sealed: Arc<[Sealed]>,
    pub(crate) current: Option<Current>,
    /// The directory that they were found in.
    pub(crate) home: Option<Identity>,
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

/// What a walk found next.
pub(crate) enum Next {
    Chunk(Chunk),
    /// The end of the view.
    End,
    /// `state` is not as it was: it was cut or rewritten. The walk needs a new view.
    Changed,
}

/// A position in a log, on its way through the files.
pub(crate) struct Walk {
    dir: Arc<Directory>,
    /// Where to begin, until it has.
    from: Option<ReadFrom>,
    /// No event up to this one is yielded any more.
    position: Option<EventId>,
    /// The last event of the file before, or of this one, as far as it was read.
    last: Option<EventId>,
    /// The newest event read: a log that continues must have it.
    newest: Checkpoint,
    segment: Option<Segment>,
    /// The directory of the view before.
    home: Option<Identity>,
    /// The files are not those that were read: the place is found again by `newest`.
    is_lost: bool,
    /// How many times in a row the log was too short to find the place in it.
    short_looks: u32,
}

impl Walk {
    pub(crate) fn new(dir: Arc<Directory>, from: ReadFrom) -> Self {
        Self {
            dir,
            from: Some(from),
            position: None,
            last: None,
            newest: Checkpoint::Empty,
            segment: None,
            home: None,
            is_lost: false,
            short_looks: 0,
        }
    }

    /// Returns the next events of the view.
    pub(crate) fn next(&mut self, view: &View) -> Result<Next> {
        if let Some(from) = self.from {
            self.position = None;
            let started = self.start(view, from);
            if !self.is_at_home(view)? {
                return Ok(self.lose());
            }
            self.segment = started?;
            (self.home, self.from) = (view.home, None);
        }
        if view.home != self.home {
            self.home = view.home;
            self.lose();
        }
        loop {
            if self.is_lost {
                if !self.check_lineage(view)? {
                    return Ok(Next::Changed);
                }
                (self.is_lost, self.short_looks) = (false, 0);
            }
            let Some(segment) = &mut self.segment else {
                let entered = self.enter(view);
                if !self.is_at_home(view)? {
                    return Ok(self.lose());
                }
                let Some(segment) = entered? else { return Ok(Next::End) };
                self.segment = Some(segment);
                continue;
            };
            if !segment.is_in_place(&self.dir, view, self.position)? {
                self.lose();
                continue;
            }
            // Compared before the first line is read, also if the file was sealed meanwhile.
            if segment.was_empty && segment.lines.at() < segment.lines.end() {
                segment.was_empty = false;
                let opening =
                    Opening::of(&self.dir, &segment.path, segment.lines.file(), segment.lines.end())?;
                if opening.is_some_and(|opening| !opening.joins(self.last, self.position)) {
                    self.segment = None;
                    continue;
                }
                segment.number = opening.filter(|opening| opening.is_bare).map(|_| 0);
            }
            if segment.lines.at() < segment.lines.end() {
                match self.chunk()? {
                    Some(chunk) if chunk.items.is_empty() && chunk.error.is_none() => continue,
                    Some(chunk) => return Ok(Next::Chunk(chunk)),
                    None => return Ok(self.lose()),
                }
            }
            if segment.sealed.is_some() {
                self.finish_segment()?;
                continue;
            }
            if segment.has_changed(&self.dir)? {
                return Ok(self.lose());
            }
            match &view.current {
                Some(current) if current.end > segment.lines.end() => segment.lines.extend(current.end),
                _ => return Ok(Next::End),
            }
        }
    }

    /// Returns whether the path still leads to the directory of the view. If it does not, a file that is opened by its name
    /// may be of another log than the `state` that the view holds open.
    pub(crate) fn is_at_home(&self, view: &View) -> Result<bool> {
        Ok(self.dir.identity()? == view.home || mutant("follow-into-another-directory"))
    }

    /// Offers a chunk's buffer for the next one.
    pub(crate) fn recycle(&mut self, data: Bytes) {
        if let Some(segment) = &mut self.segment {
            segment.lines.recycle(data);
        }
    }

    /// Leaves a file that is not as it was.
    fn lose(&mut self) -> Next {
        (self.segment, self.last, self.is_lost) = (None, None, true);
        Next::Changed
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

    /// Reads the next block of the file and takes it apart. Returns `None` if the file is not as it was.
    fn chunk(&mut self) -> Result<Option<Chunk>> {
        let before = (self.position, self.last);
        let mut behind = None;
        let read = self.block().map(|block| self.take_apart(block, &mut behind));
        let segment = self.segment.as_mut().expect("called with an open file");
        if segment.sealed.is_none() && segment.has_changed(&self.dir)? {
            (self.position, self.last) = before;
            return Ok(None);
        }
        let chunk = read?;
        segment.sync(&self.dir)?;
        if let Some((offset, range)) = behind {
            let line = chunk.data.slice(range);
            segment.remember(offset, &line);
            let number = segment.number.and_then(|number| number.checked_sub(1));
            // hydra-node's snapshot may reuse the id of the event before it, which is the one that counts.
            if let Ok((_, newest)) = read_line(&line, number)
                && Some(newest.id()) > self.newest.id()
            {
                self.newest = Checkpoint::at(&newest);
            }
        }
        Ok(Some(chunk))
    }

    fn block(&mut self) -> Result<Block> {
        let segment = self.segment.as_mut().expect("called with an open file");
        match segment.lines.next(&self.dir, &segment.path)? {
            Some(Piece::Lines(block)) => Ok(block),
            Some(Piece::TooLong(at)) => {
                Err(self.dir.damage(&segment.path, &**segment.lines.file(), at, &too_long(&self.dir)))
            }
            None => Ok(Block { offset: segment.lines.at(), data: Bytes::new() }),
        }
    }

    /// Takes the lines of a block. `last` becomes the offset and the range of the last one that checks.
    fn take_apart(&mut self, block: Block, last: &mut Option<(u64, std::ops::Range<usize>)>) -> Chunk {
        let segment = self.segment.as_mut().expect("called with an open file");
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
            *last = Some((offset, at..end));
            segment.unterminated = found.is_none();
            at = end + 1;
        }
        chunk
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
    // hydra-node's snapshot may reuse the id of the event before it.
    if *last >= Some(id) && !(reuses && *last == Some(id)) {
        return Err(Error::corrupt("the id does not grow").at(id));
    }
    *last = Some(id);
    let is_new = Some(id) > position;
    segment.is_unsynced |= is_new && matches!(line, Line::Foreign) && segment.may_lose(offset);
    Ok(is_new.then_some(item))
}

/// Returns the checkpoint at the last event that a view shows, or `None` if a file of the view was removed since.
pub(crate) fn checkpoint(dir: &Directory, view: &View) -> Result<Option<Checkpoint>> {
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
            return Ok(Some(Checkpoint::at(&read.1)));
        }
    }
    match view.sealed.last() {
        Some(sealed) => {
            let last = crate::recovery::last_of(dir, *sealed)?;
            foreign::sync_sealed(dir, &[*sealed])?;
            Ok(last.as_ref().map(Checkpoint::at))
        }
        None => Ok(Some(Checkpoint::Empty)),
    }
}
