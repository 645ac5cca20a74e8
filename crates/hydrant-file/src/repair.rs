//! Repairs a damaged log, as far as it can be. What is taken out of the log is kept aside, as files.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hydrant::{Error, Result, Retry};

use crate::commit::Structure;
use crate::directory::{Directory, Sealed};
use crate::disk::{DiskFile, Mode};
use crate::error::io_error;
use crate::lines::{BLOCK_BYTES, Lines, Piece};
use crate::lock::{Lock, Record, print};
use crate::opening::{Opening, read_line};
use crate::options::FileStoreOptions;
use crate::recovery::{is_half_rotated, settle_before_repair};
use crate::rewrite::rewrite;
use crate::rotation::sync_dir;
use crate::verify::{Finding, Verifier, is_sound};
use crate::wire;

/// What [`repair`] did at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repaired {
    /// The first flaw of the file.
    pub finding: Finding,
    /// What was done about it.
    pub done: String,
    /// Where everything is kept that is no longer part of the log.
    pub kept: PathBuf,
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}; kept aside: {}", self.finding, self.done, self.kept.display())
    }
}

/// What came of a repair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairReport {
    /// What was done, in order.
    pub repaired: Vec<Repaired>,
    /// The first flaw of each file that is still there: these need an operator.
    pub remaining: Vec<Finding>,
}

/// Repairs a log that no process writes to. A sound log is not changed.
///
/// First, a rotation that a crash interrupted is finished, or its second name of `state` is removed.
///
/// 1. Lines that were glued together, as hydra-node leaves them after a crash, are taken apart, and half
///    events between whole ones are taken out, where the ids prove that no event is missing then.
/// 2. If a sealed segment is damaged or missing, the log begins behind it: the next segment opens with a snapshot.
///    The segments before are set aside; a reader that still needs them gets `Pruned`. For a missing segment, the report
///    names the ids between which events are missing. If a crash left the compressed form of a damaged segment too, and
///    it is sound, only the damaged form is set aside.
/// 3. If `state` is damaged, the log ends with the last whole commit before the damage.
///
/// The rest of the log is contiguous and sound. Files and parts of files that were taken out are kept as
/// `damaged-<n>.<name>`; nothing is deleted. A torn tail is left to the next open. Each step is durable
/// before the next. After a crash, the next repair continues.
///
/// # Errors
/// `Fenced` if a process has the log open for writing, and errors of the disk.
///
/// # Cancel safety
/// Once begun, it continues without its caller.
pub async fn repair(dir: impl Into<PathBuf>, options: FileStoreOptions) -> Result<RepairReport> {
    let dir = Directory::new(&dir.into(), options.event_bytes_max);
    dir.clone().run(move || repair_in(&dir)).await
}

pub(crate) fn repair_in(dir: &Directory) -> Result<RepairReport> {
    let Some((lock, record)) = Lock::take(dir)? else {
        return Err(Lock::held(dir));
    };
    let mut repair = Repair { dir, lock, record, report: RepairReport::default() };
    if repair.remaining()?.is_empty() && !is_half_rotated(dir, &repair.lock)? {
        return Ok(repair.report);
    }
    settle_before_repair(dir, &repair.lock, repair.record)?;
    repair.prefer_compressed()?;
    repair.take_lines_apart()?;
    repair.raise_the_floor()?;
    repair.cut_state()?;
    repair.report.remaining = repair.remaining()?;
    Ok(repair.report)
}

struct Repair<'a> {
    dir: &'a Directory,
    lock: Lock,
    /// What the last writer left in `lock`.
    record: Option<Record>,
    report: RepairReport,
}

/// What is wrong with a log; a torn tail is nothing of it.
#[derive(Default)]
struct Flaws {
    /// The first damage of each file.
    damage: BTreeMap<PathBuf, Finding>,
    /// What is missing, by the file behind it.
    holes: BTreeMap<PathBuf, Finding>,
}

impl Repair<'_> {
    fn flaws(&self) -> Result<Flaws> {
        let mut flaws = Flaws::default();
        Verifier::new(self.dir, |finding: Finding| {
            let kind = if finding.hole.is_some() { &mut flaws.holes } else { &mut flaws.damage };
            kind.entry(finding.file.clone()).or_insert(finding);
            true
        })
        .run()?;
        flaws.damage.retain(|_, finding| !finding.is_torn_tail);
        Ok(flaws)
    }

    fn remaining(&self) -> Result<Vec<Finding>> {
        let Flaws { mut damage, holes } = self.flaws()?;
        damage.extend(holes); // a hole is before the first line
        Ok(damage.into_values().collect())
    }

    /// Takes a plain segment out of the log whose compression was not finished, if only its compressed form is sound.
    fn prefer_compressed(&mut self) -> Result<()> {
        let mut damage = self.flaws()?.damage;
        for sealed in self.dir.list()?.sealed {
            let path = self.dir.file(&sealed.name());
            if let Some(finding) = damage.remove(&path).filter(|_| !sealed.compressed)
                && is_sound(self.dir, Sealed { compressed: true, ..sealed })?
            {
                let kept = self.set_aside(&path)?;
                self.note(finding, "its compressed form is sound and counts now", kept);
            }
        }
        Ok(())
    }

    fn take_lines_apart(&mut self) -> Result<()> {
        for (path, finding) in self.flaws()?.damage {
            // The lines of a compressed segment are not those of its file.
            if path.extension().is_some_and(|extension| extension == "zst") {
                continue;
            }
            let temp = self.dir.file("state.repaired");
            self.remove_stale(&temp)?;
            let out = self.create(&temp)?;
            let whole = match self.dir.open(&path)? {
                Some((file, stat)) => rewrite(self.dir, &path, file, stat.len, &*out)?,
                None => false,
            };
            if !whole {
                self.remove_stale(&temp)?;
                continue;
            }
            out.sync().map_err(|cause| failed(&temp, cause))?;
            let kept = self.aside(&path, "")?;
            self.dir.disk.link(&path, &kept).map_err(|cause| failed(&kept, cause))?;
            sync_dir(self.dir)?;
            self.dir.disk.rename(&temp, &path).map_err(|cause| failed(&path, cause))?;
            sync_dir(self.dir)?;
            self.note(finding, "took lines apart; no event is missing", kept);
        }
        Ok(())
    }

    fn raise_the_floor(&mut self) -> Result<()> {
        let Flaws { mut damage, mut holes } = self.flaws()?;
        let sealed = self.dir.list()?.sealed;
        let path = |at: usize| {
            sealed.get(at).map_or_else(|| self.dir.state(), |sealed| self.dir.file(&sealed.name()))
        };
        let damaged = (0..sealed.len()).rev().find(|&at| damage.contains_key(&path(at))).map(|at| at + 1);
        let behind_hole = (1..=sealed.len()).rev().find(|&at| holes.contains_key(&path(at)));
        let Some(floor) = damaged.max(behind_hole) else {
            return Ok(());
        };
        if !self.opens_with_snapshot(&path(floor))? {
            return Ok(()); // nothing of the log could be hydrated: this needs an operator
        }
        let precedes =
            if damaged == Some(floor) { "precedes a damaged file" } else { "precedes a missing segment" };
        // From the oldest on, so that a crash in between leaves a contiguous log.
        for (at, oldest) in sealed[..floor].iter().enumerate() {
            let hole = holes.remove(&path(at + 1)).and_then(|finding| finding.hole);
            let hole = hole.map_or_else(String::new, |hole| format!("; {hole}"));
            let done = format!("the log begins behind this segment now{hole}");
            // If a compression was not finished, both forms go, the plain one first: either is the oldest segment then.
            for compressed in [false, true] {
                let path = self.dir.file(&Sealed { compressed, ..*oldest }.name());
                if self.dir.stat(&path)?.is_some() {
                    let finding = damage.remove(&path).unwrap_or_else(|| Finding::of_file(&path, precedes));
                    let kept = self.set_aside(&path)?;
                    self.note(finding, &done, kept);
                }
            }
        }
        Ok(())
    }

    fn cut_state(&mut self) -> Result<()> {
        let path = self.dir.state();
        // A hole before `state` is no damage of it.
        let Some(finding) = self.flaws()?.damage.remove(&path) else {
            return Ok(());
        };
        let file = self.dir.disk.open(&path, Mode::Write).map_err(|cause| failed(&path, cause))?;
        let len = file.stat().map_err(|cause| failed(&path, cause))?.len;
        let end = self.whole_commits(&path, &file, finding.offset)?;
        let kept = self.aside(&path, &format!(".from-byte-{end}"))?;
        let out = self.create(&kept)?;
        let mut buffer = vec![0; BLOCK_BYTES];
        let mut at = end;
        while at < len {
            let read = file.read_at(&mut buffer, at).map_err(|cause| failed(&path, cause))?;
            if read == 0 {
                break;
            }
            out.write_at(&buffer[..read], at - end).map_err(|cause| failed(&kept, cause))?;
            at += read as u64;
        }
        out.sync().map_err(|cause| failed(&kept, cause))?;
        sync_dir(self.dir)?;
        self.vouch_for_less(&path, &*file, end)?;
        file.truncate(end).and_then(|()| file.sync()).map_err(|cause| failed(&path, cause))?;
        let done = format!("the log ends at byte {end} of this file now; {} bytes were cut off", len - end);
        self.note(finding, &done, kept);
        Ok(())
    }

    /// What was synced ends at `end` now, before anything is cut: else the next open would miss the rest.
    fn vouch_for_less(&mut self, path: &Path, file: &dyn DiskFile, end: u64) -> Result<()> {
        let stat = file.stat().map_err(|cause| failed(path, cause))?;
        let Some(record) = &mut self.record else { return Ok(()) };
        let vouched = record.vouches_for(file, &stat).map_err(|cause| failed(path, cause))?;
        if vouched.is_some_and(|synced| synced > end) {
            record.synced = end;
            record.print = print(file, end).map_err(|cause| failed(path, cause))?;
            self.lock.publish(record)?;
            self.lock.sync()?;
        }
        Ok(())
    }

    /// Where the last commit ends that lies before `flaw` as a whole.
    fn whole_commits(&self, path: &Path, file: &Arc<dyn DiskFile>, flaw: u64) -> Result<u64> {
        let mut lines = Lines::new(file.clone(), 0, flaw, self.dir.line_bytes_max);
        let mut structure = Structure::from_start();
        let (mut end, mut number, mut is_bare) = (0, 0, false);
        while let Some(piece) = lines.next(self.dir, path)? {
            let Piece::Lines(block) = piece else { break };
            let mut at = 0;
            while let Some(len) = memchr::memchr(b'\n', &block.data[at..]) {
                let line = block.data.slice(at..at + len);
                is_bare = if number == 0 { wire::is_bare(&line) } else { is_bare };
                let (line, _) = read_line(&line, is_bare.then_some(number))?;
                if structure.take(block.offset + at as u64, &line)? {
                    end = block.offset + (at + len + 1) as u64;
                }
                number += 1;
                at += len + 1;
            }
        }
        Ok(end)
    }

    fn opens_with_snapshot(&self, path: &Path) -> Result<bool> {
        let Some((file, stat)) = self.dir.open(path)? else { return Ok(false) };
        let opening = Opening::of(self.dir, path, &file, stat.len);
        Ok(opening.is_ok_and(|opening| opening.is_some_and(|opening| opening.snapshot == Some(0))))
    }

    /// Takes a whole file out of the log. Returns where it is kept.
    fn set_aside(&self, path: &Path) -> Result<PathBuf> {
        let kept = self.aside(path, "")?;
        self.dir.disk.rename(path, &kept).map_err(|cause| failed(&kept, cause))?;
        sync_dir(self.dir)?;
        Ok(kept)
    }

    /// Returns a free name beside the log for the file that was `path`.
    fn aside(&self, path: &Path, suffix: &str) -> Result<PathBuf> {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        for number in 1_u64.. {
            let kept = self.dir.file(&format!("damaged-{number}.{name}{suffix}"));
            if self.dir.disk.stat(&kept).map_err(|cause| failed(&kept, cause))?.is_none() {
                return Ok(kept);
            }
        }
        unreachable!("a directory holds less than 2^64 files")
    }

    fn create(&self, path: &Path) -> Result<Arc<dyn DiskFile>> {
        self.dir.disk.open(path, Mode::New).map_err(|cause| failed(path, cause))
    }

    /// Removes the files of a repair that crashed.
    fn remove_stale(&self, path: &Path) -> Result<()> {
        match self.dir.disk.remove(path) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(failed(path, cause)),
            _ => Ok(()),
        }
    }

    fn note(&mut self, finding: Finding, done: &str, kept: PathBuf) {
        tracing::warn!(%finding, done, kept = %kept.display(), "repaired");
        self.report.repaired.push(Repaired { finding, done: done.to_owned(), kept });
    }
}

fn failed(path: &Path, cause: std::io::Error) -> Error {
    io_error(path, "repairing", Retry::AfterCheckpoint, cause)
}
