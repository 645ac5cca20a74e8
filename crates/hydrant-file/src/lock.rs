//! The lock of a log: one writer, and how far it is synced, for other processes to see.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use hydrant::{Error, ErrorKind, Result, Retry};

use crate::directory::{Directory, Opened, Sealed};
use crate::disk::{DiskFile, Mode, Stat};
use crate::error::io_error;
use crate::mutants::mutant;
use crate::wire;

/// What the last writer does, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// A writer opens a log that the last writer did not close: how far it is synced is not known yet.
    Opening,
    /// All bytes up to `synced` are durable, and there are none behind it.
    Closed,
    /// A sync failed: readers must ignore bytes behind `synced`.
    Stopped,
}

/// The line in `lock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) pid: u32,
    pub(crate) phase: Phase,
    pub(crate) preallocates: bool,
    pub(crate) inode: u64,
    /// The checksum of the first [`PRINT_BYTES`] of that file, by which a reused inode is noticed.
    pub(crate) print: u32,
    pub(crate) synced: u64,
}

/// How much of a file its print covers.
pub(crate) const PRINT_BYTES: usize = 64;

const PHASES: [(&[u8], Phase); 4] = [
    (b"open   ", Phase::Open),
    (b"opening", Phase::Opening),
    (b"closed ", Phase::Closed),
    (b"stopped", Phase::Stopped),
];

impl Record {
    fn encode(&self) -> Vec<u8> {
        let mut line = Vec::with_capacity(128);
        line.extend_from_slice(b"hydrant 1 pid ");
        line.extend_from_slice(format!("{:010} ", self.pid).as_bytes());
        let phase = PHASES.iter().find(|(_, phase)| *phase == self.phase).map_or(&b""[..], |(text, _)| text);
        line.extend_from_slice(phase);
        line.extend_from_slice(if self.preallocates { b" prealloc 1 inode " } else { b" prealloc 0 inode " });
        line.extend_from_slice(&wire::hex_digits::<16>(self.inode));
        line.extend_from_slice(b" print ");
        line.extend_from_slice(&wire::hex_digits::<8>(u64::from(self.print)));
        line.extend_from_slice(b" synced ");
        line.extend_from_slice(&wire::hex_digits::<12>(self.synced));
        line.extend_from_slice(b" check ");
        let check = crc32c::crc32c(&line);
        line.extend_from_slice(&wire::hex_digits::<8>(u64::from(check)));
        line.push(b'\n');
        line
    }

    /// `None` where there is no such line, or one that was being written while it was read.
    fn decode(line: &[u8]) -> Option<Self> {
        let rest = line.strip_prefix(b"hydrant 1 pid ")?;
        let pid = std::str::from_utf8(rest.get(..10)?).ok()?.parse().ok()?;
        let named = rest.get(11..)?;
        let (_, phase) = PHASES.iter().find(|(text, _)| named.starts_with(text))?;
        let field = |name: &str, width: usize| {
            let at = memchr::memmem::find(line, name.as_bytes())? + name.len();
            wire::hex(line.get(at..at + width)?)
        };
        let check_at = memchr::memmem::find(line, b" check ")? + 7;
        let check = field(" check ", 8)?;
        if check != u64::from(crc32c::crc32c(&line[..check_at])) {
            return None;
        }
        Some(Self {
            pid,
            phase: *phase,
            preallocates: field(" prealloc ", 1)? == 1,
            inode: field(" inode ", 16)?,
            print: u32::try_from(field(" print ", 8)?).ok()?,
            synced: field(" synced ", 12)?,
        })
    }

    /// Reads the record in a `lock` file.
    pub(crate) fn read(file: &dyn DiskFile) -> std::io::Result<Option<Self>> {
        let mut line = [0; 128];
        let read = file.read_at(&mut line, 0)?;
        Ok(Self::decode(&line[..read]))
    }

    /// Reads the record in the `lock` of a log.
    pub(crate) fn of(dir: &Directory) -> Result<Option<Self>> {
        let path = dir.file("lock");
        match dir.open(&path)? {
            Some((file, _)) => Self::read(&*file).map_err(|cause| dir.unread(&path, cause)),
            None => Ok(None),
        }
    }

    /// Returns the error for a missing `state` that was synced; `None` if it is there as one of the sealed files. A writer
    /// leaves no instant without `state`, so this is no empty log. hydra-node renames `state` before it creates the next.
    pub(crate) fn misses(&self, dir: &Directory, sealed: &[Sealed]) -> Result<Option<Error>> {
        if self.synced == 0 {
            return Ok(None);
        }
        if self.sealed_in(dir, sealed)?.is_some() {
            return Ok(None);
        }
        let missing = Error::corrupt(
            "`state` is missing, and was synced; put it back (to begin anew where it was, remove `lock` too)",
        );
        Ok(Some(missing.at_target(dir.state().display().to_string())))
    }

    /// Returns the sealed file that was `state` when the record was written: hydra-node renamed it.
    pub(crate) fn sealed_in(&self, dir: &Directory, sealed: &[Sealed]) -> Result<Option<Opened>> {
        for sealed in sealed.iter().rev() {
            // A writer compresses only files that its record no longer names.
            let path = dir.file(&Sealed { compressed: false, ..*sealed }.name());
            if dir.stat(&path)?.is_some_and(|stat| stat.identity.inode == self.inode)
                && let Some((file, stat)) = dir.open(&path)?
                && self.vouches_for(&*file, &stat).map_err(|cause| dir.unread(&path, cause))?.is_some()
            {
                return Ok(Some((path, file, stat)));
            }
        }
        Ok(None)
    }

    /// How much of this `state` the record vouches for, which is more than its length if it was cut; `None` if the
    /// record speaks of another file.
    pub(crate) fn vouches_for(&self, file: &dyn DiskFile, stat: &Stat) -> std::io::Result<Option<u64>> {
        if self.inode != stat.identity.inode {
            return Ok(None);
        }
        // Where the print is cut off too, the inode has to do.
        let is_cut_short = stat.len < self.synced.min(PRINT_BYTES as u64);
        Ok((is_cut_short || self.print == print(file, self.synced)?).then_some(self.synced))
    }
}

/// The print of a file of which `synced` bytes count.
pub(crate) fn print(file: &dyn DiskFile, synced: u64) -> std::io::Result<u32> {
    let mut start = [0; PRINT_BYTES];
    let len = usize::try_from(synced).unwrap_or(PRINT_BYTES).min(PRINT_BYTES);
    let read = file.read_at(&mut start[..len], 0)?;
    Ok(crc32c::crc32c(&start[..read]))
}

/// The held lock of a log. Released when it is dropped.
pub(crate) struct Lock {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock and returns the last holder's record; `None` if the lock is held.
    pub(crate) fn take(dir: &Directory) -> Result<Option<(Self, Option<Record>)>> {
        let path = dir.file("lock");
        let failed = |cause| io_error(&path, "locking", Retry::Safe, cause);
        let Some(file) = dir.disk.lock(&path).map_err(failed)? else {
            return Ok(None);
        };
        let last = Record::read(&*file).map_err(failed)?;
        let lock = Self { file, path };
        // A power cut may have reverted the record, but no synced bytes. Readers wait for a record of this writer.
        let is_open = |record: &Record| record.phase == Phase::Open && !mutant("stale-record");
        if let Some(record) = last.filter(is_open) {
            lock.publish(&Record { phase: Phase::Opening, ..record })?;
        }
        Ok(Some((lock, last)))
    }

    /// Returns the error for a lock that another writer holds, with advice.
    pub(crate) fn held(dir: &Directory) -> Error {
        let path = dir.file("lock");
        let record = dir.disk.open(&path, Mode::Read).and_then(|file| Record::read(&*file)).ok().flatten();
        let holder = match record {
            Some(record) if record.pid == std::process::id() => "another handle in this process".to_owned(),
            Some(record) => format!("process {}", record.pid),
            None => "another process".to_owned(),
        };
        Error::new(
            ErrorKind::Fenced,
            Retry::Safe,
            format!("{holder} has this log open for writing, and a log has one writer; end it first, or only read (`FileSource`)"),
        )
        .at_target(dir.path.display().to_string())
    }

    /// Keeps the lock held as long as it can be upgraded and is: for work that must end before another
    /// process writes.
    pub(crate) fn share(&self) -> Weak<dyn DiskFile> {
        Arc::downgrade(&self.file)
    }

    /// Shows other processes how far the log is synced.
    pub(crate) fn publish(&self, record: &Record) -> Result<()> {
        self.file
            .write_at(&record.encode(), 0)
            .map_err(|cause| io_error(&self.path, "publishing", Retry::AfterCheckpoint, cause))
    }

    /// Makes the record durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync().map_err(|cause| io_error(&self.path, "syncing", Retry::Safe, cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_a_torn_one_is_none() {
        for phase in [Phase::Open, Phase::Opening, Phase::Closed, Phase::Stopped] {
            let record = Record {
                pid: 4242,
                phase,
                preallocates: phase == Phase::Open,
                inode: u64::MAX,
                print: 0x89AB_CDEF,
                synced: (1 << 48) - 1,
            };
            let line = record.encode();
            assert!(line.len() <= 128);
            assert_eq!(Record::decode(&line), Some(record));
            for at in 0..line.len() - 1 {
                let mut torn = line.clone();
                torn[at] ^= 1;
                assert_eq!(Record::decode(&torn), None, "{}", String::from_utf8_lossy(&torn));
                assert_eq!(Record::decode(&line[..at]), None);
            }
        }
    }
}
