//! What happens at open, before anything is written: a rotation is finished or set aside, a torn tail is
//! moved away, and what stays is synced before it counts. Nothing is deleted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hydrant::{Error, ErrorKind, Event, EventId, Result, Retry};

use crate::directory::{Directory, Listing, Sealed};
use crate::disk::{DiskFile, Identity, Mode, Stat, sync_name};
use crate::error::io_error;
use crate::examine::{Tail, examine};
use crate::lines::BLOCK_BYTES;
use crate::lock::{self, Lock, Phase, Record};
use crate::mutants::mutant;
use crate::opening::read_line;
use crate::options::TornTail;
use crate::{foreign, lines, rotation, wire};

/// What recovery had to do at open.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// Where bytes were set aside.
    pub aside: PathBuf,
    /// Where in `state` they began, in bytes; 0 for a rotation that never happened.
    pub offset: u64,
    /// How many they are.
    pub bytes: u64,
}

/// A log that is fit to be written to.
pub(crate) struct Ready {
    /// The directory that the files were found in.
    pub(crate) home: Option<Identity>,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) identity: Identity,
    /// The length of `state`: all of it is complete commits, and synced.
    pub(crate) end: u64,
    pub(crate) head: Option<Event>,
    pub(crate) is_foreign: bool,
    pub(crate) sealed: Vec<Sealed>,
    pub(crate) recovered: Vec<Recovered>,
}

/// What is known before looking at the files.
pub(crate) struct Known {
    /// What the last writer left in `lock`.
    pub(crate) record: Option<Record>,
    pub(crate) torn_tail: TornTail,
    /// The farthest that a secondary was acknowledged.
    pub(crate) delivered: Option<EventId>,
}

pub(crate) fn recover(dir: &Directory, lock: &Lock, known: &Known) -> Result<Ready> {
    let home = dir.identity()?;
    let mut recovery = Recovery::new(dir, lock, known)?;
    let state = recovery.state()?;
    if !recovery.is_synced && !mutant("name-unsynced") {
        // The open that created the directory may have ended before its name was durable.
        sync_name(&*dir.disk, &dir.path).map_err(|cause| failed(&dir.path, cause))?;
    }
    if let Some((file, _, end)) = &state {
        recovery.check_order(&**file, end)?;
    }
    let is_empty = state.is_none() && recovery.listing.sealed.is_empty();
    if !recovery.is_ours && !is_empty {
        // hydra-node syncs nothing. What is appended here must not outlive what is before it.
        foreign::sync_sealed(dir, &recovery.listing.sealed)?;
        recovery.settle_renamed()?;
    }
    let (file, stat, end) = recovery.settle_rotation(state)?;
    recovery.check_order(&*file, &end)?;
    let tail = recovery.settle_tail(&*file, &end)?;
    let newest = recovery.listing.sealed.last().copied();
    let head = match (end.last, newest) {
        (Some(last), Some(sealed)) if last.id() > sealed.last => Some(last),
        (last, None) => last,
        // hydra-node's snapshot may reuse an id. A read yields the first event of that id: the sealed one.
        (_, Some(sealed)) => {
            let missing = || dir.unread(&dir.file(&sealed.name()), std::io::ErrorKind::NotFound.into());
            Some(last_of(dir, sealed)?.ok_or_else(missing)?)
        }
    };
    Ok(Ready {
        home,
        file,
        identity: stat.identity,
        end: tail,
        head,
        is_foreign: end.is_foreign,
        sealed: recovery.listing.sealed,
        recovered: recovery.recovered,
    })
}

/// Returns whether a crash interrupted a rotation that had given `state` its second name. If `state` ends before that
/// name's event, only a repair can open the log again, also if nothing else is wrong.
pub(crate) fn is_half_rotated(dir: &Directory, lock: &Lock) -> Result<bool> {
    let known = Known { record: None, torn_tail: TornTail::default(), delivered: None };
    Ok(Recovery::new(dir, lock, &known)?.second_name()?.is_some())
}

/// Settles a rotation that a crash interrupted, before a repair changes `state`: it may have the name of a sealed
/// segment too. `state` may be damaged. What does not count of the rotation is left to the next open.
pub(crate) fn settle_before_repair(dir: &Directory, lock: &Lock, record: Option<Record>) -> Result<()> {
    let known = Known { record, torn_tail: TornTail::default(), delivered: None };
    let mut recovery = Recovery::new(dir, lock, &known)?;
    // `state` gets a second name only after all of the next segment is durable: it says that the rotation counts.
    let last = match recovery.second_name()? {
        Some(second) => Some(second.last),
        None if recovery.listing.next.is_empty() => return Ok(()),
        None => recovery.last_line()?,
    };
    let next = match last {
        Some(last) => recovery.next(last)?.map(|next| (last, next)),
        None => None,
    };
    let Some((last, (next, end))) = next else { return recovery.drop_second_name() };
    let path = dir.state();
    if dir.stat(&path)?.is_some() {
        let state = dir.disk.open(&path, Mode::Write).map_err(|cause| failed(&path, cause))?;
        let len = state.stat().map_err(|cause| failed(&path, cause))?.len;
        recovery.write_again(&path, &*state, 0, len, len)?;
    }
    recovery.write_again(&dir.next(last), &*next, 0, end.len, end.len)?;
    rotation::finish(dir, last)?;
    tracing::info!(dir = %dir.path.display(), %last, "finished the rotation that a crash interrupted");
    Ok(())
}

/// The open file `state`, its metadata, and its end.
type State = (Arc<dyn DiskFile>, Stat, Tail);

struct Recovery<'a> {
    dir: &'a Directory,
    lock: &'a Lock,
    known: &'a Known,
    /// A writer of Hydrant has opened this `state` before.
    is_ours: bool,
    /// It also has synced events of it.
    is_synced: bool,
    listing: Listing,
    recovered: Vec<Recovered>,
}

impl<'a> Recovery<'a> {
    fn new(dir: &'a Directory, lock: &'a Lock, known: &'a Known) -> Result<Self> {
        let listing = dir.list()?;
        Ok(Self { dir, lock, known, is_ours: false, is_synced: false, listing, recovered: Vec::new() })
    }

    /// The sealed name that `state` has too, while a rotation is under way.
    fn second_name(&self) -> Result<Option<Sealed>> {
        let Some(newest) = self.listing.sealed.last() else { return Ok(None) };
        let identity = |path: &Path| Ok::<_, Error>(self.dir.stat(path)?.map(|stat| stat.identity));
        let state = identity(&self.dir.state())?;
        let is_state = state.is_some() && identity(&self.dir.file(&newest.name()))? == state;
        Ok(is_state.then_some(*newest))
    }

    /// Removes the sealed name of a `state` whose rotation is not going to be finished.
    fn drop_second_name(&mut self) -> Result<()> {
        let Some(second) = self.second_name()? else { return Ok(()) };
        let path = self.dir.file(&second.name());
        self.dir.disk.remove(&path).map_err(|cause| failed(&path, cause))?;
        self.listing.sealed.pop();
        rotation::sync_dir(self.dir)
    }

    /// The last event of a `state` that may be damaged; without a `state`, of the log.
    fn last_line(&mut self) -> Result<Option<EventId>> {
        match self.state() {
            Ok(Some((_, _, end))) => return Ok(end.last.as_ref().map(Event::id)),
            Ok(None) => return Ok(self.listing.sealed.last().map(|sealed| sealed.last)),
            Err(error) if error.kind() == ErrorKind::Corrupt => {}
            Err(error) => return Err(error),
        }
        let path = self.dir.state();
        let Some((file, stat)) = self.dir.open(&path)? else { return Ok(None) };
        let read =
            lines::last_before(&file, stat.len, self.dir, &path).and_then(|(_, line)| read_line(&line, None));
        match read {
            Ok((_, event)) => Ok(Some(event.id())),
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `state` as it is found; `None` where it is missing.
    fn state(&mut self) -> Result<Option<State>> {
        let path = self.dir.state();
        if self.dir.stat(&path)?.is_none() {
            return Ok(None);
        }
        let file = self.dir.disk.open(&path, Mode::Write).map_err(|cause| failed(&path, cause))?;
        let stat = file.stat().map_err(|cause| failed(&path, cause))?;
        let vouched = match self.known.record {
            Some(record) => {
                record.vouches_for(&*file, &stat).map_err(|cause| self.dir.unread(&path, cause))?
            }
            None => None,
        };
        self.is_ours = vouched.is_some();
        self.is_synced = vouched.is_some_and(|synced| synced > 0);
        let mut end = examine(self.dir, &path, &file, stat.len, vouched.unwrap_or(0))?;
        // Also before a foreign line, what is behind `synced` may be only in the page cache.
        if let Some(vouched) = vouched.filter(|_| !self.was_closed()) {
            end.window = end.window.min(vouched);
        }
        Ok(Some((file, stat, end)))
    }

    fn was_closed(&self) -> bool {
        self.known.record.is_some_and(|record| record.phase == Phase::Closed)
    }

    /// Makes durable what a foreign writer renamed, if it began where the record ends.
    fn settle_renamed(&self) -> Result<()> {
        if let Some(record) = self.known.record.filter(|_| !self.was_closed())
            && let Some((path, _, stat)) = record.sealed_in(self.dir, &self.listing.sealed)?
        {
            let file = self.dir.disk.open(&path, Mode::Write).map_err(|cause| failed(&path, cause))?;
            self.write_again(&path, &*file, record.synced, stat.len, stat.len)?;
        }
        foreign::sync_names(self.dir)
    }

    /// Refuses a `state` that ends before the newest sealed segment: it is of another log, or an old copy. Or a rotation
    /// gave that name to `state` itself, which was synced before: then it is damaged.
    fn check_order(&self, file: &dyn DiskFile, end: &Tail) -> Result<()> {
        match (&end.last, self.listing.sealed.last()) {
            (Some(last), Some(sealed)) if last.id() < sealed.last => {
                let falls = Error::corrupt(format!(
                    "the log was sealed up to event {}, and ends before it",
                    sealed.last
                ));
                Err(self.dir.damage(&self.dir.state(), file, 0, &falls.at(last.id())))
            }
            _ => Ok(()),
        }
    }

    /// Finishes a rotation that counts, and sets aside one that does not.
    fn settle_rotation(&mut self, state: Option<State>) -> Result<State> {
        let last = match &state {
            Some((_, _, end)) => end.last.as_ref().map(Event::id),
            None => self.listing.sealed.last().map(|sealed| sealed.last),
        };
        if let Some(last) = last
            && let Some((file, end)) = self.next(last)?
        {
            if let Some((state, _, old)) = &state {
                self.write_again(&self.dir.state(), &**state, old.window, old.end, old.len)?;
            }
            self.write_again(&self.dir.next(last), &*file, 0, end.len, end.len)?;
            let stat = file.stat().map_err(|cause| failed(&self.dir.state(), cause))?;
            rotation::finish(self.dir, last)?;
            self.listing = self.dir.list()?;
            tracing::info!(dir = %self.dir.path.display(), %last, "finished the rotation that a crash interrupted");
            self.set_rotations_aside()?;
            return Ok((file, stat, end));
        }
        self.set_rotations_aside()?;
        self.drop_second_name()?;
        match state {
            Some(state) => Ok(state),
            None => self.create(),
        }
    }

    /// The segment that a rotation wrote behind `last`, if all of it is there.
    fn next(&self, last: EventId) -> Result<Option<(Arc<dyn DiskFile>, Tail)>> {
        if !self.listing.next.contains(&last) {
            return Ok(None);
        }
        let path = self.dir.next(last);
        let file = self.dir.disk.open(&path, Mode::Write).map_err(|cause| failed(&path, cause))?;
        let len = file.stat().map_err(|cause| failed(&path, cause))?.len;
        let end = match examine(self.dir, &path, &file, len, 0) {
            Ok(end) => end,
            Err(error) if error.kind() == ErrorKind::Corrupt || mutant("unread-is-torn") => {
                return Ok(None);
            }
            // It may count: only a look at its bytes can say so.
            Err(error) => return Err(error),
        };
        Ok((end.last.is_some() && !end.is_torn()).then_some((file, end)))
    }

    fn set_rotations_aside(&mut self) -> Result<()> {
        for after in std::mem::take(&mut self.listing.next) {
            let path = self.dir.next(after);
            let bytes = self.dir.stat(&path)?.map_or(0, |stat| stat.len);
            let aside = self.aside();
            self.dir.disk.rename(&path, &aside).map_err(|cause| failed(&aside, cause))?;
            rotation::sync_dir(self.dir)?;
            tracing::warn!(aside = %aside.display(), bytes, "set aside a rotation that was not finished; it was not acknowledged");
            self.recovered.push(Recovered { aside, offset: 0, bytes });
        }
        Ok(())
    }

    /// Returns a free name for bytes that are set aside.
    fn aside(&mut self) -> PathBuf {
        self.listing.torn += 1;
        self.dir.file(&format!("state.torn-{}", self.listing.torn))
    }

    /// Begins an empty `state`: in a new log, or where hydra-node crashed inside of a rotation.
    fn create(&self) -> Result<State> {
        let path = self.dir.state();
        if let Some(record) = self.known.record
            && let Some(missing) = record.misses(self.dir, &self.listing.sealed)?
        {
            return Err(missing);
        }
        let file = self.dir.disk.open(&path, Mode::New).map_err(|cause| failed(&path, cause))?;
        file.sync().map_err(|cause| failed(&path, cause))?;
        rotation::sync_dir(self.dir)?;
        let stat = file.stat().map_err(|cause| failed(&path, cause))?;
        let end = examine(self.dir, &path, &file, 0, 0)?;
        Ok((file, stat, end))
    }

    /// Moves a torn tail away and makes the rest durable. Returns the length of `state` then.
    fn settle_tail(&mut self, file: &dyn DiskFile, end: &Tail) -> Result<u64> {
        let path = self.dir.state();
        let ahead = self.known.record.is_some_and(|record| record.preallocates);
        // NUL bytes that a writer put there to be written over are no tail.
        let kept = if ahead { end.text.max(end.end) } else { end.len };
        if kept > end.end {
            self.may_cut(file, end)?;
            let aside = self.aside();
            self.copy(file, end.end, kept, &aside)?;
            let bytes = kept - end.end;
            tracing::warn!(
                file = %path.display(), offset = end.end, bytes, aside = %aside.display(),
                "set aside a torn tail; it may have been acknowledged if the disk lost what it had synced"
            );
            self.recovered.push(Recovered { aside, offset: end.end, bytes });
        }
        if mutant("torn-tail-kept") {
            return Ok(end.len);
        }
        self.write_again(&path, file, end.window, end.end, end.len)?;
        if end.unterminated {
            file.write_at(b"\n", end.end).map_err(|cause| failed(&path, cause))?;
            self.sync(&path, file)?;
            return Ok(end.end + 1);
        }
        Ok(end.end)
    }

    fn may_cut(&self, file: &dyn DiskFile, end: &Tail) -> Result<()> {
        let head = end.last.as_ref().map(Event::id).or(self.listing.sealed.last().map(|sealed| sealed.last));
        let refuse =
            |what: &str| Err(self.dir.damage(&self.dir.state(), file, end.end, &Error::corrupt(what)));
        if self.known.delivered > head {
            return refuse("the tail is torn, and a secondary already holds events of it");
        }
        if self.known.torn_tail == TornTail::Refuse {
            return refuse("the tail is torn, and the options say to refuse it");
        }
        Ok(())
    }

    /// After a failed sync the page cache shows what the disk does not hold: so it is written once more,
    /// up to `end`, where the file is cut.
    fn write_again(&self, path: &Path, file: &dyn DiskFile, from: u64, end: u64, len: u64) -> Result<()> {
        if self.was_closed() && len == end {
            return self.sync(path, file);
        }
        let mut buffer = vec![0; BLOCK_BYTES];
        let mut at = from;
        while at < end {
            let part = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let read = file.read_at(&mut buffer[..part], at).map_err(|cause| self.dir.unread(path, cause))?;
            file.write_at(&buffer[..read], at).map_err(|cause| failed(path, cause))?;
            at += read.max(1) as u64;
        }
        if len > end {
            file.truncate(end).map_err(|cause| failed(path, cause))?;
        }
        self.sync(path, file)
    }

    /// Makes a file durable. If that fails, a later sync may succeed and save nothing, so the record says how far readers
    /// may trust the file, and from where the next writer writes it again.
    fn sync(&self, path: &Path, file: &dyn DiskFile) -> Result<()> {
        file.sync().map_err(|cause| {
            if !mutant("failed-sync-forgotten")
                && let Err(error) = self.distrust(file)
            {
                tracing::warn!(%error, file = %path.display(), "readers in other processes may trust a file whose sync failed");
            }
            failed(path, cause)
        })
    }

    fn distrust(&self, file: &dyn DiskFile) -> Result<()> {
        let unread = |cause| self.dir.unread(&self.dir.state(), cause);
        let stat = file.stat().map_err(unread)?;
        let last = self.known.record;
        let synced = match last {
            Some(record) => record.vouches_for(file, &stat).map_err(unread)?,
            None => None,
        };
        let synced = synced.unwrap_or(0);
        self.lock.publish(&Record {
            pid: std::process::id(),
            phase: Phase::Stopped,
            preallocates: last.is_some_and(|record| record.preallocates),
            inode: stat.identity.inode,
            print: lock::print(file, synced).map_err(unread)?,
            synced,
        })
    }

    /// Copies a part of a file, durably. If that fails, it leaves no half copy: on a full disk, every further attempt to
    /// open the log would add one.
    fn copy(&self, file: &dyn DiskFile, from: u64, to: u64, aside: &Path) -> Result<()> {
        let copied = self.try_copy(file, from, to, aside);
        if copied.is_err() {
            // The error that is returned says what is wrong.
            let _ = self.dir.disk.remove(aside);
        }
        copied
    }

    fn try_copy(&self, file: &dyn DiskFile, from: u64, to: u64, aside: &Path) -> Result<()> {
        let copy = self.dir.disk.open(aside, Mode::New).map_err(|cause| failed(aside, cause))?;
        let mut buffer = vec![0; BLOCK_BYTES];
        let mut at = from;
        while at < to {
            let part = usize::try_from(to - at).unwrap_or(usize::MAX).min(buffer.len());
            let read =
                file.read_at(&mut buffer[..part], at).map_err(|cause| self.dir.unread(aside, cause))?;
            copy.write_at(&buffer[..read], at - from).map_err(|cause| failed(aside, cause))?;
            at += read.max(1) as u64;
        }
        copy.sync().map_err(|cause| failed(aside, cause))?;
        rotation::sync_dir(self.dir)
    }
}

/// The last event of a sealed file; `None` if the file is not there any more.
pub(crate) fn last_of(dir: &Directory, sealed: Sealed) -> Result<Option<Event>> {
    let Some((path, file, stat)) = dir.open_sealed(sealed)? else { return Ok(None) };
    let (offset, line) = lines::last_before(&file, stat.len, dir, &path)?;
    let number = if wire::is_bare(&line) {
        Some(lines::count(&*file, offset).map_err(|cause| dir.unread(&path, cause))?)
    } else {
        None
    };
    let (_, event) = read_line(&line, number).map_err(|what| dir.damage(&path, &*file, offset, &what))?;
    if event.id() != sealed.last {
        let differs = Error::corrupt("the file ends with another event than its name says").at(event.id());
        return Err(dir.damage(&path, &*file, offset, &differs));
    }
    Ok(Some(event))
}

fn failed(path: &Path, cause: std::io::Error) -> Error {
    io_error(path, "opening", Retry::Safe, cause)
}
