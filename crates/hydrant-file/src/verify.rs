//! Checks a whole log: every checksum, the order of ids, the structure of commits, the chain of segments.

use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;
use hydrant::{Error, ErrorKind, EventId, Result};
use tokio::sync::mpsc;

use crate::commit::Structure;
use crate::directory::{Directory, Sealed};
use crate::disk::{DiskFile, Stat};
use crate::examine::examine;
use crate::lines::{self, Lines, Piece};
use crate::lock::Record;
use crate::mutants::mutant;
use crate::opening::{Opening, read_line, too_long};
use crate::options::FileSourceOptions;
use crate::wire::{self, Line};

/// How many findings wait for the caller.
const WAITING_MAX: usize = 64;

/// How many times `verify` looks for the end of `state` while a writer changes it.
const LOOKS_MAX: u32 = 8;

/// A place in a log that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// The line, as an editor counts, from 1; 0 where the file as a whole is meant.
    pub line: u64,
    /// Where the line begins, in bytes from the beginning of the file (of what it holds, if it is compressed).
    pub offset: u64,
    /// What is wrong with the line.
    pub what: String,
    /// Whether this is a torn tail: bytes behind the last whole commit, which a crash left. The next open for writing
    /// moves them away.
    pub is_torn_tail: bool,
    /// What is missing before the file, if that is the flaw: nothing is wrong with the line.
    pub(crate) hole: Option<Hole>,
}

/// A place between two files that do not follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    /// The event that the file before it ends with.
    after: Option<EventId>,
    /// The event that the file behind it continues.
    up_to: Option<EventId>,
}

impl Finding {
    pub(crate) fn of_file(path: &Path, what: &str) -> Self {
        let (file, what) = (path.to_owned(), what.to_owned());
        Self { file, line: 0, offset: 0, what, is_torn_tail: false, hole: None }
    }
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.after, self.up_to) {
            (Some(after), Some(up_to)) if after < up_to => {
                write!(f, "the events behind event {after}, up to event {up_to}, are missing")
            }
            (None, Some(up_to)) => write!(f, "the events up to event {up_to} are missing"),
            _ => write!(f, "the next file does not continue it"),
        }
    }
}

impl fmt::Display for Finding {
    /// One line: `file:line: byte N: what`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: byte {}: {}", self.file.display(), self.line, self.offset, self.what)
    }
}

/// Yields findings as they are found. An error is the last item.
pub type FindingStream = Pin<Box<dyn Stream<Item = Result<Finding>> + Send>>;

/// Reads a whole log and yields a finding for each place that is wrong. An empty stream means that the log is sound.
///
/// Checks that every checksum is right, that ids grow, that each commit is whole and in its place, and that no segment
/// is missing or misnamed. Foreign lines carry no checksums, so `verify` only checks that they are events in order. It
/// changes nothing, needs no lock, and may run beside a writer: it reads up to what the writer has synced. It takes
/// memory for a few blocks of lines.
///
/// The stream ends with an error if a file cannot be read at all. Dropping it ends the work.
pub fn verify(dir: impl Into<PathBuf>, options: &FileSourceOptions) -> FindingStream {
    let dir = Directory::new(&dir.into(), options.event_bytes_max);
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = Verifier::new(&dir, |finding| sender.blocking_send(Ok(finding)).is_ok()).run() {
            // If this fails, the caller has dropped the stream.
            let _ = sender.blocking_send(Err(error));
        }
    });
    Box::pin(Findings(receiver))
}

struct Findings(mpsc::Receiver<Result<Finding>>);

impl Stream for Findings {
    type Item = Result<Finding>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

/// Reads the files of a log, and reports its findings until the caller has left.
pub(crate) struct Verifier<'a, F> {
    dir: &'a Directory,
    report: F,
    is_heard: bool,
    /// The last event so far.
    last: Option<EventId>,
    /// Whether a file came before this one.
    is_chain: bool,
}

/// How far `state` goes.
struct End {
    /// The end of the last commit that counts.
    counts: u64,
    /// The end of what was written behind it.
    text: u64,
    /// Where the lock's record says that it ends at least.
    vouched: u64,
}

/// A place in a file.
#[derive(Clone, Copy)]
struct At<'a> {
    path: &'a Path,
    line: u64,
    offset: u64,
}

impl<'a, F: FnMut(Finding) -> bool> Verifier<'a, F> {
    pub(crate) fn new(dir: &'a Directory, report: F) -> Self {
        Self { dir, report, is_heard: true, last: None, is_chain: false }
    }

    pub(crate) fn run(mut self) -> Result<()> {
        let (state, listing) = self.dir.look()?;
        for sealed in &listing.sealed {
            self.sealed(*sealed)?;
        }
        match state {
            Some((file, stat)) => self.state(&file, &stat),
            None => self.missing(&listing.sealed),
        }
    }

    /// Reports a `state` that is missing, and was synced.
    fn missing(&mut self, sealed: &[Sealed]) -> Result<()> {
        let path = self.dir.state();
        let missing = match Record::of(self.dir)? {
            Some(record) => record.misses(self.dir, sealed)?,
            None => None,
        };
        // A writer may have created the file after the look, and synced it before the record was read.
        if let Some(missing) = missing
            && self.dir.stat(&path)?.is_none()
        {
            self.report(At { path: &path, line: 0, offset: 0 }, missing.message());
        }
        Ok(())
    }

    /// Checks a sealed segment.
    fn sealed(&mut self, sealed: Sealed) -> Result<()> {
        let path = self.dir.file(&sealed.name());
        let checked = match self.dir.open_sealed(sealed) {
            Ok(Some((_, file, stat))) => self.joined(&path, file, stat.len),
            // The file was removed since it was listed. The next file does not join, and is reported.
            Ok(None) => return Ok(()),
            Err(error) => Err(error),
        };
        let end = match checked {
            Ok(end) => end,
            // A compressed segment that cannot be read as a whole is one finding.
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                self.report(At { path: &path, line: 0, offset: 0 }, &describe(&error));
                self.last = Some(sealed.last);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if self.last != Some(sealed.last) {
            let last = self.last.map_or_else(|| "no event".to_owned(), |last| format!("event {last}"));
            self.report(end, &format!("the file ends with {last}, its name says {}", sealed.last));
        }
        Ok(())
    }

    /// Checks `state`, as far as it counts.
    fn state(&mut self, file: &Arc<dyn DiskFile>, stat: &Stat) -> Result<()> {
        let path = self.dir.state();
        let end = self.end_of_state(file, stat, &path)?;
        let at = self.joined(&path, file.clone(), end.counts)?;
        let behind = At { path: &path, line: at.line + 1, offset: end.counts };
        if end.counts < end.text {
            self.report_torn(behind, end.text - end.counts);
        }
        if end.counts < end.vouched {
            let synced = end.vouched;
            self.report(
                behind,
                &format!("the file ends here, and was synced up to byte {synced}: events are missing"),
            );
        }
        Ok(())
    }

    /// Checks a file, behind those that belong before it.
    fn joined<'p>(&mut self, path: &'p Path, file: Arc<dyn DiskFile>, end: u64) -> Result<At<'p>> {
        // A first line that does not check is reported when the lines are read.
        if self.is_chain
            && !mutant("verify-old-listing")
            && let Ok(Some(opening)) = Opening::of(self.dir, path, &file, end)
            && let Some(before) = opening.predecessor()
            && !opening.joins(self.last, None)
        {
            self.list_again(before)?;
        }
        self.file(path, file, end)
    }

    /// Looks for the segments up to `before`. They may have been pruned since the directory was listed. Or they were
    /// compressed during the listing, so that it showed none of their names.
    fn list_again(&mut self, before: EventId) -> Result<()> {
        let listed = self.dir.list()?.sealed;
        for sealed in &listed {
            if Some(sealed.last) > self.last && sealed.last <= before {
                self.sealed(*sealed)?;
            }
        }
        let is_there = |sealed: &&Sealed| matches!(self.dir.open_sealed(**sealed), Ok(Some(_)) | Err(_));
        if listed.iter().find(is_there).is_none_or(|oldest| oldest.last > before) {
            self.is_chain = false;
        }
        Ok(())
    }

    fn report(&mut self, at: At<'_>, what: &str) {
        self.report_finding(Finding { line: at.line, offset: at.offset, ..Finding::of_file(at.path, what) });
    }

    fn report_finding(&mut self, finding: Finding) {
        self.is_heard = self.is_heard && (self.report)(finding);
    }

    fn report_torn(&mut self, at: At<'_>, bytes: u64) {
        let what = format!("{bytes} bytes were left by a crash; the next open for writing moves them away");
        let finding = Finding {
            line: at.line,
            offset: at.offset,
            is_torn_tail: true,
            ..Finding::of_file(at.path, &what)
        };
        self.report_finding(finding);
    }

    /// Returns how far to check `state`: beside a writer, as far as the writer has synced it; after a crash, as far as
    /// recovery would keep it.
    fn end_of_state(&self, file: &Arc<dyn DiskFile>, stat: &Stat, path: &Path) -> Result<End> {
        let unread = |cause| self.dir.unread(path, cause);
        let lock = self.dir.file("lock");
        let is_locked = || self.dir.disk.is_locked(&lock).map_err(unread);
        let len_now = || file.stat().map(|stat| stat.len).map_err(unread);
        let mut looks = 0;
        loop {
            let (record, len) = (Record::of(self.dir)?, len_now()?);
            let vouched = match record {
                Some(record) => {
                    record.vouches_for(&**file, &Stat { len, ..*stat }).map_err(unread)?.unwrap_or(0)
                }
                None => 0,
            };
            if vouched > len {
                return Ok(End { counts: len, text: len, vouched });
            }
            let whole = |counts| End { counts, text: counts, vouched };
            let was_locked = is_locked()?;
            if vouched > 0 && was_locked {
                return Ok(whole(vouched));
            }
            let text = if record.is_some_and(|record| record.preallocates) {
                lines::end_of_text(&**file, len).map_err(unread)?
            } else {
                len
            };
            let examined = examine(self.dir, path, file, len, vouched);
            // A writer that opens the log may cut what a crash left, while this examines it.
            let is_locked = is_locked()?;
            let has_changed = is_locked != was_locked || len_now()? < len || Record::of(self.dir)? != record;
            looks += 1;
            if has_changed && looks < LOOKS_MAX && !mutant("examine-meets-opening") {
                continue;
            }
            return match examined {
                // Bytes that a writer has not synced yet are no torn tail.
                Ok(end) if is_locked => Ok(whole(end.end)),
                Ok(end) => Ok(End { counts: end.end, text: text.max(end.end), vouched }),
                // Damage below what was synced: its lines are reported one by one.
                Err(error) if error.kind() == ErrorKind::Corrupt => Ok(whole(text)),
                Err(error) => Err(error),
            };
        }
    }

    /// Checks one file to its end. Returns the place of its last line.
    fn file<'p>(&mut self, path: &'p Path, file: Arc<dyn DiskFile>, end: u64) -> Result<At<'p>> {
        let mut at = At { path, line: 0, offset: 0 };
        let mut structure = Structure::from_start();
        let mut is_bare = false;
        let mut lines = Lines::new(file, 0, end, self.dir.line_bytes_max);
        while let Some(piece) = lines.next(self.dir, path)? {
            let block = match piece {
                Piece::Lines(block) => block,
                Piece::TooLong(offset) => {
                    at = At { path, line: at.line + 1, offset };
                    self.report(at, too_long(self.dir).message());
                    structure = Structure::anywhere();
                    continue;
                }
            };
            let mut from = 0;
            while from < block.data.len() {
                if !self.is_heard {
                    return Ok(at);
                }
                let ends = memchr::memchr(b'\n', &block.data[from..]);
                let len = ends.unwrap_or(block.data.len() - from);
                let line = block.data.slice(from..from + len);
                at = At { path, line: at.line + 1, offset: block.offset + from as u64 };
                if at.line == 1 {
                    is_bare = wire::is_bare(&line);
                }
                let checked = read_line(&line, is_bare.then_some(at.line - 1)).and_then(|(line, event)| {
                    if ends.is_none() && matches!(line, Line::Ours(_)) {
                        return Err(Error::corrupt("the last line has no line break"));
                    }
                    self.order(at, &line, &event)?;
                    structure.take(at.offset, &line)?;
                    Ok(())
                });
                if let Err(error) = checked {
                    self.report(at, &describe(&error));
                    // One flaw is reported once, not once more for each line behind it.
                    structure = Structure::anywhere();
                }
                from += len + 1;
            }
        }
        if !structure.is_complete() {
            self.report(at, "the last commit is not complete");
        }
        self.is_chain = true;
        Ok(at)
    }

    /// Checks that an event follows the one before, also across files.
    fn order(&mut self, at: At<'_>, line: &Line, event: &hydrant::Event) -> Result<()> {
        let opens = match line {
            Line::Ours(ours) => ours.opens,
            Line::Foreign => None,
        };
        let before = self.last.replace(event.id());
        let reuses = at.line == 1 && event.is_snapshot() && matches!(line, Line::Foreign);
        if let Some(before) = before
            && (event.id() < before || (event.id() == before && !reuses))
        {
            return Err(Error::corrupt(format!("the id does not increase: event {before} precedes it"))
                .at(event.id()));
        }
        if at.line != 1 || !self.is_chain {
            return Ok(());
        }
        let predecessor = match opens {
            Some(opens) => opens.predecessor(),
            // A snapshot of hydra-node has the next id, or that of the event before it.
            None if event.is_snapshot() => event.id().prev().max(before),
            None => before,
        };
        if predecessor != before {
            let name =
                |id: Option<EventId>| id.map_or_else(|| "nothing".to_owned(), |id| format!("event {id}"));
            let what = format!(
                "event {}: the file continues {}, and the one before it ends with {}: a segment is missing",
                event.id(),
                name(predecessor),
                name(before),
            );
            // No error: the line itself is sound, and those behind it are checked from here.
            let hole = Some(Hole { after: before, up_to: predecessor });
            self.report_finding(Finding { line: at.line, hole, ..Finding::of_file(at.path, &what) });
        }
        Ok(())
    }
}

/// Returns whether one form of a sealed segment is sound, whatever is before it.
pub(crate) fn is_sound(dir: &Directory, sealed: Sealed) -> Result<bool> {
    let mut is_sound = true;
    let mut verifier = Verifier::new(dir, |_| {
        is_sound = false;
        false
    });
    let checked = match dir.open_form(sealed) {
        Ok(Some((path, file, stat))) => verifier.file(&path, file, stat.len).map(drop),
        Ok(None) => return Ok(false),
        Err(error) => Err(error),
    };
    let last = verifier.last;
    match checked {
        Ok(()) => Ok(is_sound && last == Some(sealed.last)),
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => Ok(false),
        Err(error) => Err(error),
    }
}

fn describe(error: &Error) -> String {
    let event = error.event().map_or_else(String::new, |event| format!("event {event}: "));
    let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
    format!("{event}{}{cause}", error.message())
}
