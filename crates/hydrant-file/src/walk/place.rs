//! Finds the file in which a read continues, and decides what a missing file means.

use hydrant::{Checkpoint, Error, Event, EventId, ReadFrom, Result};

use super::{Item, Next, Segment, View, Walk};
use crate::directory::Sealed;
use crate::lines::Lines;
use crate::mutants::mutant;
use crate::opening::Opening;

/// How many times the files are listed before one of them counts as missing.
const LISTINGS_MAX: usize = 8;

/// How many times a follower polls a log that became too short before it ends.
const SHORT_LOOKS_MAX: u32 = 25;

impl Walk {
    /// Opens the file that the read begins in.
    pub(super) fn start(&mut self, view: &View, from: ReadFrom) -> Result<Option<Segment>> {
        match from.exclusive() {
            ReadFrom::Snapshot => return self.start_at_snapshot(view),
            ReadFrom::After(id) => self.position = Some(id),
            ReadFrom::Origin | ReadFrom::At(_) => {}
        }
        self.enter(view)
    }

    fn start_at_snapshot(&mut self, view: &View) -> Result<Option<Segment>> {
        let mut files = vec![self.current(view)?];
        let mut sealed = view.sealed.iter().rev();
        loop {
            for mut segment in files.drain(..).flatten() {
                if let Some(at) = self.opening(&segment)?.and_then(|opening| opening.snapshot) {
                    segment.go_to(&self.dir, at);
                    return Ok(Some(segment));
                }
            }
            match sealed.next() {
                Some(next) => files.push(self.open(*next)?),
                None => break,
            }
        }
        // No snapshot anywhere: from the oldest event on.
        if let Some(oldest) = self.oldest(&view.sealed, view)? {
            self.position = oldest.predecessor();
        }
        self.enter(view)
    }

    /// Opens the file that has the next event, at a line at or before it.
    pub(super) fn enter(&mut self, view: &View) -> Result<Option<Segment>> {
        let mut segment = match view.sealed.iter().find(|sealed| Some(sealed.last) > self.position) {
            Some(sealed) => match self.open(*sealed)? {
                Some(segment) => Some(segment),
                None if mutant("prune-meets-read") => {
                    return Err(Error::corrupt("the file is missing; put it back"));
                }
                None => Some(self.find_again(view, Some(sealed.last))?),
            },
            None => self.current(view)?,
        };
        if let Some(found) = &segment
            && let Some(opening) = self.opening(found)?
            && !opening.joins(self.last, self.position)
        {
            segment = Some(self.find_again(view, opening.predecessor())?);
        }
        if let (Some(segment), Some(position), None) = (&mut segment, self.position, self.last) {
            segment.seek(&self.dir, position)?;
        }
        Ok(segment)
    }

    /// Opens the file with the event behind the position, and none behind `until`, which the view does not show.
    ///
    /// The view may be older than the files: a segment was pruned meanwhile, or was compressed just when the directory
    /// was listed, so that the listing shows none of its names.
    fn find_again(&self, view: &View, until: Option<EventId>) -> Result<Segment> {
        for _ in 0..LISTINGS_MAX {
            let listed = self.dir.list()?.sealed;
            if let Some(oldest) = self.oldest(&listed, view)?
                && oldest.predecessor() > self.position
            {
                return Err(Error::pruned(oldest.id).at_target(self.dir.path.display().to_string()));
            }
            let is_wanted =
                |sealed: &&Sealed| Some(sealed.last) > self.position && Some(sealed.last) <= until;
            if let Some(sealed) = listed.iter().find(is_wanted)
                && let Some(segment) = self.open(*sealed)?
                && let Some(opening) = self.opening(&segment)?
                && opening.joins(self.last, self.position)
            {
                return Ok(segment);
            }
        }
        let until = until.map_or_else(String::new, |until| format!(" up to {until}"));
        let behind = self.position.map_or_else(String::new, |id| format!(" behind event {id}"));
        Err(Error::corrupt(format!("the file with the events{behind}{until} is missing; put it back"))
            .at_target(self.dir.path.display().to_string()))
    }

    /// Compares the newest event read with the log, whose files are other ones now. Returns `false` if the log is too
    /// short, and another look may find more: a copy of it may be under way.
    pub(super) fn check_lineage(&mut self, view: &View) -> Result<bool> {
        let Checkpoint::At { id, .. } = self.newest else { return Ok(true) };
        if mutant("follow-into-another-directory") {
            return Ok(true);
        }
        self.short_looks += 1;
        let is_patient = self.short_looks < SHORT_LOOKS_MAX || mutant("short-log-is-silent");
        let dir = self.dir.path.display().to_string();
        let diverged = |found: &str| {
            let message = format!(
                "{found} where event {id} was read: the log was replaced, cut or rewritten; put the old log back, or \
                 begin anew with this one"
            );
            Error::diverged(message).at(id).at_target(dir.clone())
        };
        let Some(oldest) = self.oldest(&view.sealed, view)? else {
            return if is_patient { Ok(false) } else { Err(diverged("the log is empty")) };
        };
        if oldest.predecessor() > Some(id) {
            return Err(Error::pruned(oldest.id).at_target(dir));
        }
        // The event itself was pruned, or hydra-node's snapshot took its id: nothing is left to compare.
        if oldest.predecessor() == Some(id) || oldest.reuses(id) {
            return Ok(true);
        }
        match self.event_at(view, id)? {
            None if is_patient => Ok(false),
            Some(found) if Checkpoint::at(&found) == self.newest => Ok(true),
            Some(found) if found.id() == id => Err(diverged("another event is")),
            Some(found) => Err(diverged(&format!("event {} is", found.id()))),
            None => Err(diverged("the log ends")),
        }
    }

    /// The first event of the view at or behind `id`.
    fn event_at(&self, view: &View, id: EventId) -> Result<Option<Event>> {
        let mut walk = Self::new(self.dir.clone(), ReadFrom::At(id));
        let Next::Chunk(chunk) = walk.next(view)? else { return Ok(None) };
        match (chunk.items.into_iter().next(), chunk.error) {
            (Some(Item::Event(event)), _) => Ok(Some(event)),
            (Some(Item::Slice(at, layout)), _) => {
                Event::from_layout(chunk.data.slice(at as usize..), layout).map(Some)
            }
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }

    /// How the oldest file begins: the first of `sealed` that can be opened, or `state`.
    fn oldest(&self, sealed: &[Sealed], view: &View) -> Result<Option<Opening>> {
        for sealed in sealed {
            if let Some(segment) = self.open(*sealed)? {
                return self.opening(&segment);
            }
        }
        match self.current(view)? {
            Some(segment) => self.opening(&segment),
            None => Ok(None),
        }
    }

    fn opening(&self, segment: &Segment) -> Result<Option<Opening>> {
        Opening::of(&self.dir, &segment.path, segment.lines.file(), segment.lines.end())
    }

    fn current(&self, view: &View) -> Result<Option<Segment>> {
        let Some(current) = &view.current else {
            return Ok(None);
        };
        let lines = Lines::new(current.file.clone(), 0, current.end, self.dir.line_bytes_max);
        Segment::open(&self.dir, self.dir.state(), None, current.identity, lines).map(Some)
    }

    /// Opens a sealed file; `None` if it is not there any more.
    fn open(&self, sealed: Sealed) -> Result<Option<Segment>> {
        let Some((path, file, stat)) = self.dir.open_sealed(sealed)? else {
            return Ok(None);
        };
        let lines = Lines::new(file, 0, stat.len, self.dir.line_bytes_max);
        Segment::open(&self.dir, path, Some(sealed.last), stat.identity, lines).map(Some)
    }
}
