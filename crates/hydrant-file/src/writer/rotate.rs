//! Rotation, as the writer does it: a batch that begins with a snapshot event opens a new segment.

use std::path::Path;
use std::sync::Arc;

use hydrant::{Event, EventId, Result, Retry};

use super::Writer;
use crate::disk::{DiskFile, Mode};
use crate::error::io_error;
use crate::lock;
use crate::rotation;

impl Writer {
    /// Returns whether an append of these events opens a new segment.
    pub(super) fn rotates_at(&self, events: &[Event]) -> bool {
        let is_empty = self.end + self.buffer.len() as u64 == 0;
        // True only if a snapshot of hydra-node reused an id, and no event followed.
        let is_sealed = self.sealed.last().map(|sealed| sealed.last) == self.head.as_ref().map(Event::id);
        events.first().is_some_and(Event::is_snapshot) && !is_empty && !is_sealed
    }

    /// Appends a batch that opens a new segment. The batch counts as a whole or not at all.
    pub(super) fn rotate(&mut self, events: &[Event]) -> Result<()> {
        let rotated = self.try_rotate(events);
        if rotated.is_err() {
            (self.head, self.is_foreign) = self.written.clone();
            self.buffer.clear();
        }
        rotated
    }

    fn try_rotate(&mut self, events: &[Event]) -> Result<()> {
        self.check_unchanged()?;
        if self.allocated > self.end {
            self.cut_back()?;
        }
        let last = self.head.as_ref().map(Event::id).expect("a file that is sealed holds an event");
        self.check_name_free(last)?;
        let path = self.dir.next(last);
        let file = match self.write_next(&path, events, last) {
            Ok(file) => file,
            Err(error) => {
                self.take_back(&path)?;
                return Err(error);
            }
        };
        // From here on the batch may count. What a failure leaves is settled when the log is opened again.
        let failed = |cause| io_error(&self.dir.state(), "rotating", Retry::AfterCheckpoint, cause);
        let synced = self.file.sync().map_err(failed);
        if let Err(error) = synced {
            return Err(self.stop(&error));
        }
        self.check_in_place()?;
        let sealed = rotation::finish(&self.dir, last).map_err(|error| self.stop(&error))?;
        self.sealed.push(sealed);
        let len = self.buffer.len() as u64;
        self.buffer.clear();
        self.begin(file, len, events)
    }

    /// Writes the new segment under a name that does not count yet.
    fn write_next(&mut self, path: &Path, events: &[Event], last: EventId) -> Result<Arc<dyn DiskFile>> {
        self.encode(events, Some(last), 0);
        let failed = |cause| io_error(path, "writing", Retry::Safe, cause);
        let file = self.dir.disk.open(path, Mode::New).map_err(failed)?;
        file.write_at(&self.buffer, 0).map_err(failed)?;
        if let Err(cause) = file.sync() {
            return Err(self.stop(&io_error(path, "syncing", Retry::AfterCheckpoint, cause)));
        }
        rotation::sync_dir(&self.dir).map_err(|error| self.stop(&error))?;
        Ok(file)
    }

    fn check_name_free(&self, last: EventId) -> Result<()> {
        let path = self.dir.file(&format!("state-{last}"));
        for path in [path.clone(), path.with_extension("zst")] {
            if self.dir.stat(&path)?.is_some() {
                return Err(rotation::taken(&path));
            }
        }
        Ok(())
    }

    /// Removes a segment that was not acknowledged and does not count, as far as it was written.
    fn take_back(&mut self, path: &Path) -> Result<()> {
        match self.dir.disk.remove(path) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                return Err(self.stop(&io_error(path, "taking back", Retry::AfterCheckpoint, cause)));
            }
            _ => {}
        }
        rotation::sync_dir(&self.dir).map_err(|error| self.stop(&error))
    }

    /// Continues in the new `state`, which has `len` bytes.
    fn begin(&mut self, file: Arc<dyn DiskFile>, len: u64, events: &[Event]) -> Result<()> {
        let path = self.dir.state();
        let stat = match file.stat() {
            Ok(stat) => stat,
            Err(cause) => return Err(self.stop(&io_error(&path, "opening", Retry::AfterCheckpoint, cause))),
        };
        self.file = file;
        self.identity = stat.identity;
        self.end = len;
        self.synced = len;
        self.allocated = len;
        self.head = events.last().cloned();
        self.is_foreign = false;
        self.written = (self.head.clone(), false);
        self.record.inode = stat.identity.inode;
        self.record.print = lock::print(&*self.file, self.synced).unwrap_or(0);
        // A failure from here on publishes the record, so each part of it must be that of the new file.
        self.record.synced = self.synced;
        self.check_in_place()?;
        self.publish();
        self.counters.sealed.notify_one();
        Ok(())
    }
}
