//! The directory of a log: the names in it, and errors that say where.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hydrant::{Error, ErrorKind, EventId, Result, Retry};

use crate::disk::{Disk, DiskFile, Identity, Mode, RealDisk, Stat};
use crate::error::io_error;
use crate::foreign::Doubts;
use crate::lines;
use crate::wire::OVERHEAD_MAX;
use crate::work::Work;
use crate::zst_file::ZstFile;

/// A log's directory on its disk.
#[derive(Clone)]
pub(crate) struct Directory {
    pub(crate) disk: Arc<dyn Disk>,
    /// Where its work runs.
    pub(crate) work: Work,
    pub(crate) path: PathBuf,
    /// The longest line that is read, its line break included.
    pub(crate) line_bytes_max: usize,
    /// The files that this handle could not sync.
    pub(crate) doubts: Doubts,
}

/// A sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// The id of the last event inside, as the name says.
    pub(crate) last: EventId,
    pub(crate) compressed: bool,
}

impl Sealed {
    pub(crate) fn name(&self) -> String {
        format!("state-{}{}", self.last, if self.compressed { ".zst" } else { "" })
    }
}

/// A sealed segment that was found under this name, as plain text.
pub(crate) type Opened = (PathBuf, Arc<dyn DiskFile>, Stat);

/// A file that was opened.
pub(crate) type Open = (Arc<dyn DiskFile>, Stat);

/// What is found in a directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listing {
    /// In order.
    pub(crate) sealed: Vec<Sealed>,
    /// The rotations that were under way, by the event before them.
    pub(crate) next: Vec<EventId>,
    /// The highest number of a torn tail set aside; 0 for none.
    pub(crate) torn: u64,
}

impl Directory {
    /// A directory on the disk of this machine.
    pub(crate) fn new(path: &Path, event_bytes_max: usize) -> Self {
        let line_bytes_max = event_bytes_max.saturating_add(OVERHEAD_MAX);
        Self {
            disk: Arc::new(RealDisk),
            work: Work::Threads,
            path: path.to_owned(),
            line_bytes_max,
            doubts: Doubts::default(),
        }
    }

    /// A directory on a simulated disk, whose work runs inline.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn simulated(disk: Arc<dyn Disk>, path: &Path, event_bytes_max: usize) -> Self {
        Self { disk, work: Work::Inline, ..Self::new(path, event_bytes_max) }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.file("state")
    }

    pub(crate) fn next(&self, after: EventId) -> PathBuf {
        self.file(&format!("state.next-{after}"))
    }

    pub(crate) fn list(&self) -> Result<Listing> {
        let names = self.disk.list(&self.path).map_err(|cause| self.unread(&self.path, cause))?;
        let mut listing = Listing::default();
        for name in &names {
            if let Some(last) = name.strip_prefix("state-") {
                let (last, compressed) = last.strip_suffix(".zst").map_or((last, false), |last| (last, true));
                listing
                    .sealed
                    .extend(number(last).map(|last| Sealed { last: EventId::new(last), compressed }));
            } else if let Some(after) = name.strip_prefix("state.next-") {
                listing.next.extend(number(after).map(EventId::new));
            } else if let Some(torn) = name.strip_prefix("state.torn-") {
                listing.torn = listing.torn.max(number(torn).unwrap_or(0));
            }
        }
        // If a segment is listed twice, its compression is not finished, and the plain one counts.
        listing.sealed.sort_by_key(|sealed| (sealed.last, sealed.compressed));
        listing.sealed.dedup_by_key(|sealed| sealed.last);
        listing.next.sort();
        Ok(listing)
    }

    /// Which directory has the name now; `None` if there is none.
    pub(crate) fn identity(&self) -> Result<Option<Identity>> {
        let found = self.disk.stat(&self.path).map_err(|cause| self.unread(&self.path, cause))?;
        Ok(found.map(|stat| stat.identity))
    }

    /// Returns whether there is a log, also an empty one.
    pub(crate) fn has_log(&self) -> Result<bool> {
        let listing = self.list()?;
        let has_segments = !listing.sealed.is_empty() || !listing.next.is_empty();
        Ok(has_segments || self.stat(&self.state())?.is_some())
    }

    /// Opens `state` and lists the sealed segments before it, both as they were at one moment.
    ///
    /// # Errors
    /// `Unavailable` if `state` is replaced each time it is looked at.
    pub(crate) fn look(&self) -> Result<(Option<Open>, Listing)> {
        const LOOKS_MAX: u32 = 1000;
        let path = self.state();
        let identity = |stat: Option<Stat>| stat.map(|stat| stat.identity);
        for _ in 0..LOOKS_MAX {
            // `state` first: if it is sealed meanwhile, it is listed too, and not missing.
            let state = self.open(&path)?;
            let found = identity(state.as_ref().map(|(_, stat)| *stat));
            let listing = self.list_behind(found)?;
            if identity(self.stat(&path)?) == found {
                return Ok((state, listing));
            }
        }
        Err(Error::unavailable("`state` is replaced all the time; try again")
            .at_target(path.display().to_string()))
    }

    /// What is there besides this `state`. While a rotation is under way, `state` has the name of a sealed segment
    /// too: it is not listed.
    fn list_behind(&self, state: Option<Identity>) -> Result<Listing> {
        let mut listing = self.list()?;
        if let (Some(newest), Some(state)) = (listing.sealed.last(), state)
            && self.stat(&self.file(&newest.name()))?.map(|stat| stat.identity) == Some(state)
        {
            listing.sealed.pop();
        }
        Ok(listing)
    }

    /// Returns the metadata under a name, which must be a file.
    pub(crate) fn stat(&self, path: &Path) -> Result<Option<Stat>> {
        let found = self.disk.stat(path).map_err(|cause| self.unread(path, cause))?;
        if found.is_some_and(|found| !found.is_file) {
            return Err(Error::invalid(
                "a log is a regular file, and this is a directory, a pipe or a device; move it away",
            )
            .at_target(path.display().to_string()));
        }
        Ok(found)
    }

    /// Opens a file for reading; `None` when it is not there.
    pub(crate) fn open(&self, path: &Path) -> Result<Option<Open>> {
        // A pipe would block its opener, so look first.
        if self.stat(path)?.is_none() {
            return Ok(None);
        }
        let file = match self.disk.open(path, Mode::Read) {
            Ok(file) => file,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(self.unread(path, cause)),
        };
        let stat = file.stat().map_err(|cause| self.unread(path, cause))?;
        Ok(Some((file, stat)))
    }

    /// Opens a sealed segment as its plain text, whichever form it has by now; `None` when it is gone.
    pub(crate) fn open_sealed(&self, sealed: Sealed) -> Result<Option<Opened>> {
        // Compressed in between, it is found in the second form.
        for compressed in [false, true] {
            let opened = self.open_form(Sealed { compressed, ..sealed })?;
            if opened.is_some() {
                return Ok(opened);
            }
        }
        Ok(None)
    }

    /// Opens one form of a sealed segment as its plain text; `None` when this form is not there.
    pub(crate) fn open_form(&self, sealed: Sealed) -> Result<Option<Opened>> {
        let path = self.file(&sealed.name());
        let Some((file, stat)) = self.open(&path)? else { return Ok(None) };
        if !sealed.compressed {
            return Ok(Some((path, file, stat)));
        }
        let unread = |cause| self.unread(&path, cause);
        let file =
            ZstFile::open(file, unread).map_err(|error| error.at_target(path.display().to_string()))?;
        let stat = file.stat().map_err(unread)?;
        Ok(Some((path, Arc::new(file), stat)))
    }

    /// Returns the error of a read, which changed nothing.
    #[expect(clippy::unused_self, reason = "errors of a directory are made by it")]
    pub(crate) fn unread(&self, path: &Path, cause: std::io::Error) -> Error {
        io_error(path, "reading", Retry::Safe, cause)
    }

    /// Bytes that do not check, with line, offset and the command that helps.
    pub(crate) fn damage(&self, path: &Path, file: &dyn DiskFile, offset: u64, what: &Error) -> Error {
        let line = lines::number_at(file, offset).map_or_else(|_| "?".to_owned(), |line| line.to_string());
        let dir = self.path.display();
        let help = if what.kind() == ErrorKind::Unsupported {
            String::new()
        } else {
            format!(
                "; run `hydrant verify file:{dir}` to see all, `hydrant repair file:{dir}` to keep what can be"
            )
        };
        let error = Error::new(
            what.kind(),
            Retry::Never,
            format!("line {line}, byte {offset}: {}{help}", what.message()),
        )
        .at_target(path.display().to_string());
        match (what.event(), std::error::Error::source(what)) {
            (Some(event), _) => error.at(event),
            (None, Some(cause)) => error.because(cause.to_string()),
            (None, None) => error,
        }
    }
}

/// A number as we write it: without a sign, without leading zeros.
fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}
