//! What the writer does around a write: makes it durable, checks its place, and shows it to readers.

use hydrant::{Error, Result, Retry};

use super::{Published, Writer};
use crate::error::io_error;
use crate::lock::{self, Phase};
use crate::mutants::mutant;
use crate::walk::{Current, View};

impl Writer {
    /// Makes everything written durable, and shows it.
    pub(super) fn sync(&mut self) -> Result<()> {
        if let Some(stopped) = &self.stopped {
            return Err(stopped.clone());
        }
        if self.synced == self.end {
            return Ok(());
        }
        if !mutant("acknowledge-before-sync")
            && let Err(cause) = self.file.sync()
        {
            if mutant("sync-again") {
                return Err(io_error(&self.dir.state(), "syncing", Retry::AfterCheckpoint, cause));
            }
            return Err(self.stop(&io_error(&self.dir.state(), "syncing", Retry::AfterCheckpoint, cause)));
        }
        self.check_in_place()?;
        self.synced = self.end;
        self.publish();
        Ok(())
    }

    /// Checks that no other process has written: hydra-node, for one, takes no lock.
    pub(super) fn check_unchanged(&mut self) -> Result<()> {
        match self.file.stat() {
            Ok(stat) if stat.len == self.allocated => Ok(()),
            Ok(stat) => {
                let (was, is) = (self.allocated, stat.len);
                let other = Error::fenced(format!(
                    "another process wrote to the file: it had {was} bytes, and has {is}; end that writer and reopen the log"
                ));
                Err(self.stop(&other.at_target(self.dir.state().display().to_string())))
            }
            Err(cause) => Err(self.dir.unread(&self.dir.state(), cause)),
        }
    }

    /// Checks that what was just written at `start` is right behind a line. If another process cut the file after the look
    /// at its length, the write left a hole of NUL bytes before it, and the length is as expected.
    pub(super) fn check_joined(&mut self, start: u64) -> Result<()> {
        let Some(before) = start.checked_sub(1).filter(|_| !mutant("write-behind-a-hole")) else {
            return Ok(());
        };
        let path = self.dir.state();
        let mut byte = [0];
        match self.file.read_at(&mut byte, before) {
            Ok(_) if byte == *b"\n" => Ok(()),
            Ok(_) => {
                let cut = Error::outcome_unknown(
                    "the file was cut by another process while it was written; put the lost part back and reopen the log",
                );
                Err(self.stop(&cut.at_target(path.display().to_string())))
            }
            Err(cause) => Err(self.stop(&io_error(&path, "reading back", Retry::AfterCheckpoint, cause))),
        }
    }

    /// Checks that `state` is still this file, and that no other process has changed its length. A reader must find the
    /// acknowledged events under this name.
    pub(super) fn check_in_place(&mut self) -> Result<()> {
        let path = self.dir.state();
        match self.dir.disk.stat(&path) {
            Ok(Some(there)) if there.identity == self.identity && there.len == self.allocated => Ok(()),
            Ok(Some(_)) if mutant("sync-without-look") => Ok(()),
            Ok(_) => {
                let gone = Error::outcome_unknown(
                    "the file was deleted, moved, replaced, cut or written to by another process; put it back and reopen the log",
                );
                Err(self.stop(&gone.at_target(path.display().to_string())))
            }
            Err(cause) => Err(self.stop(&io_error(&path, "finding", Retry::AfterCheckpoint, cause))),
        }
    }

    /// Stops the handle: it writes no more, because the contents of the disk must be read again. So no error that stopped
    /// it says that nothing was applied.
    pub(super) fn stop(&mut self, cause: &Error) -> Error {
        let path = self.dir.path.display().to_string();
        tracing::error!(%cause, dir = %path, "the log stopped");
        let stopped = Error::closed(format!("an earlier failure stopped this log; reopen it ({cause})"))
            .at_target(path);
        self.stopped = Some(stopped.clone());
        self.record.phase = Phase::Stopped;
        self.publish_record();
        self.published.send_modify(|published| published.stopped = Some(stopped));
        match cause.retry() {
            Retry::Safe if !mutant("stopped-is-safe") => cause.clone().with_retry(Retry::AfterCheckpoint),
            _ => cause.clone(),
        }
    }

    /// Shows readers in this and other processes how far the log is durable.
    pub(super) fn publish(&mut self) {
        if self.record.synced < lock::PRINT_BYTES as u64 {
            self.record.print = lock::print(&*self.file, self.synced).unwrap_or(0);
        }
        self.record.synced = self.synced;
        self.publish_record();
        self.show();
    }

    /// Shows readers in other processes the record. A failure is logged once, until a record is written again.
    pub(super) fn publish_record(&mut self) {
        let Some(lock) = &self.lock else { return };
        let published = lock.publish(&self.record);
        if let (Err(error), false) = (&published, self.is_record_stale) {
            tracing::warn!(%error, "readers in other processes do not see what is new: the lock's record was not written");
        }
        self.is_record_stale = published.is_err();
    }

    pub(super) fn show(&self) {
        self.published.send_modify(|published| {
            let same = published.view.current.as_mut().filter(|current| current.identity == self.identity);
            match same {
                Some(current) => current.end = self.synced,
                None => published.view = self.view(self.synced),
            }
            published.head.clone_from(&self.head);
        });
    }

    pub(super) fn view(&self, end: u64) -> View {
        let current = Current { file: self.file.clone(), identity: self.identity, end };
        View { sealed: self.sealed.clone().into(), current: Some(current), home: self.home }
    }

    /// Makes all events durable, and records that no tail can be torn.
    pub(super) fn close(&mut self) -> Result<()> {
        let closed = self.sync().and_then(|()| self.leave());
        let why =
            Error::closed("the log was closed; open it again").at_target(self.dir.path.display().to_string());
        // Dropped before the answer, so that the caller can open the log again.
        self.lock = None;
        let stopped = self.stopped.get_or_insert(why).clone();
        self.published.send_replace(Published { view: View::default(), head: None, stopped: Some(stopped) });
        closed
    }

    /// Cuts off the space that was written ahead, and says that the log is closed.
    fn leave(&mut self) -> Result<()> {
        // Another process may have written behind that space since the last sync.
        self.check_in_place()?;
        let failed = |cause| io_error(&self.dir.state(), "closing", Retry::AfterCheckpoint, cause);
        if self.allocated > self.end {
            self.file.truncate(self.end).map_err(failed)?;
            self.file.sync().map_err(failed)?;
            self.allocated = self.end;
        }
        self.record.phase = Phase::Closed;
        self.record.preallocates = false;
        match &self.lock {
            Some(lock) => lock.publish(&self.record).and_then(|()| lock.sync()),
            None => Ok(()),
        }
    }
}
