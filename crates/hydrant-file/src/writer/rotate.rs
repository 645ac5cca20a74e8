//! Rotation, as the writer does it: a batch with a snapshot event opens a new segment.

use std::sync::Arc;

use hydrant::{Event, EventId, Result, Retry};

use super::Writer;
use crate::disk::{DiskFile, Mode};
use crate::error::io_error;
use crate::lock;
use crate::rotation;
use crate::wire::Flags;

/// A segment that is written, and waits for its name.
struct Next {
    after: EventId,
    file: Arc<dyn DiskFile>,
    len: u64,
}

impl Writer {
    /// Where in a batch new segments begin.
    pub(super) fn rotates_at(&self, events: &[Event]) -> Vec<usize> {
        let mut cuts: Vec<_> = (0..events.len()).filter(|&at| events[at].is_snapshot()).collect();
        let is_empty = self.end + self.buffer.len() as u64 == 0;
        // Only where hydra-node's snapshot reused an id, and nothing came behind it.
        let is_sealed = self.sealed.last().map(|sealed| sealed.last) == self.head.as_ref().map(Event::id);
        if cuts.first() == Some(&0) && (is_empty || is_sealed) {
            cuts.remove(0);
        }
        cuts
    }

    /// Appends a batch that opens new segments at `cuts`: all of it counts at once, or nothing does.
    pub(super) fn rotate(&mut self, events: &[Event], cuts: &[usize], after: Option<EventId>) -> Result<()> {
        let rotated = self.try_rotate(events, cuts, after);
        if rotated.is_err() {
            (self.head, self.is_foreign) = self.written.clone();
            self.buffer.clear();
        }
        rotated
    }

    fn try_rotate(&mut self, events: &[Event], cuts: &[usize], after: Option<EventId>) -> Result<()> {
        self.check_unchanged()?;
        if self.allocated > self.end {
            self.cut_back()?;
        }
        let (part, rest) = events.split_at(cuts[0]);
        let before = self.head.as_ref().map(Event::id).or(after);
        self.encode(part, before, self.end, Flags::CONTINUES);
        let part_bytes = std::mem::take(&mut self.buffer);
        let last = part.last().map(Event::id).or(before).expect("a file that is sealed holds an event");

        let mut chain = Vec::new();
        self.check_name_free(last)?;
        if let Err(error) = self.write_next(rest, cuts, last, &mut chain) {
            self.take_back(&chain)?;
            return Err(error);
        }
        if !part_bytes.is_empty() {
            if let Err(cause) = self.file.write_at(&part_bytes, self.end) {
                self.cut_back()?;
                self.take_back(&chain)?;
                return Err(io_error(&self.dir.state(), "writing", Retry::Safe, cause));
            }
            self.end += part_bytes.len() as u64;
            self.allocated = self.end;
        }
        // From here on the batch may count: whatever fails now is settled by opening the log again.
        let unknown = |cause| io_error(&self.dir.state(), "rotating", Retry::AfterCheckpoint, cause);
        let names: Vec<_> = chain.iter().map(|next| next.after).collect();
        let finished =
            self.file.sync().map_err(unknown).and_then(|()| rotation::finish(&self.dir, last, &names));
        let sealed = finished.map_err(|error| self.stop(&error))?;
        self.sealed.extend(sealed);
        self.begin(chain.pop().expect("a rotation opens a segment"), events)
    }

    /// Writes the segments that the batch opens, under names that do not count yet.
    fn write_next(
        &mut self,
        rest: &[Event],
        cuts: &[usize],
        mut last: EventId,
        chain: &mut Vec<Next>,
    ) -> Result<()> {
        for (at, &cut) in cuts.iter().enumerate() {
            let end = cuts.get(at + 1).map_or(rest.len(), |next| next - cuts[0]);
            let events = &rest[cut - cuts[0]..end];
            let flags = if at + 1 == cuts.len() { Flags::ENDS } else { Flags::CONTINUES };
            self.buffer.clear();
            self.encode(events, Some(last), 0, flags);
            let path = self.dir.next(last);
            let failed = |cause| io_error(&path, "writing", Retry::Safe, cause);
            let file = self.dir.disk.open(&path, Mode::New).map_err(failed)?;
            chain.push(Next { after: last, file: file.clone(), len: self.buffer.len() as u64 });
            file.write_at(&self.buffer, 0).map_err(failed)?;
            if let Err(cause) = file.sync() {
                return Err(self.stop(&io_error(&path, "syncing", Retry::AfterCheckpoint, cause)));
            }
            last = events.last().map_or(last, Event::id);
            if at + 1 < cuts.len() {
                self.check_name_free(last)?;
            }
        }
        self.buffer.clear();
        rotation::sync_dir(&self.dir).map_err(|error| self.stop(&error))
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

    /// Removes segments that were not acknowledged and do not count.
    fn take_back(&mut self, chain: &[Next]) -> Result<()> {
        for next in chain {
            let path = self.dir.next(next.after);
            if let Err(cause) = self.dir.disk.remove(&path) {
                return Err(self.stop(&io_error(&path, "taking back", Retry::AfterCheckpoint, cause)));
            }
        }
        rotation::sync_dir(&self.dir).map_err(|error| self.stop(&error))
    }

    /// Goes on in the new `state`.
    fn begin(&mut self, next: Next, events: &[Event]) -> Result<()> {
        let path = self.dir.state();
        let stat = match next.file.stat() {
            Ok(stat) => stat,
            Err(cause) => return Err(self.stop(&io_error(&path, "opening", Retry::AfterCheckpoint, cause))),
        };
        self.file = next.file;
        self.identity = stat.identity;
        self.end = next.len;
        self.synced = next.len;
        self.allocated = next.len;
        self.head = events.last().cloned();
        self.is_foreign = false;
        self.written = (self.head.clone(), false);
        self.record.inode = stat.identity.inode;
        self.record.print = lock::print(&*self.file, self.synced).unwrap_or(0);
        // Whatever fails from here on publishes the record: it must speak of this file in every part.
        self.record.synced = self.synced;
        self.check_in_place()?;
        self.publish();
        self.counters.sealed.notify_one();
        Ok(())
    }
}
