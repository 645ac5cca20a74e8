//! The writer: it owns `state`, takes appends in order, one at a time, and acknowledges what is durable.

mod durable;
mod prune;
mod rotate;
mod serve;

use std::sync::Arc;

use hydrant::{Batch, Checkpoint, Error, ErrorKind, Event, EventId, ReadFrom, Result, Retry};
use tokio::sync::watch;

use crate::directory::{Directory, Sealed};
use crate::disk::{DiskFile, Identity};
use crate::error::io_error;
use crate::lock::{self, Lock, Phase, Record};
use crate::options::{FileStoreOptions, Fsync};
use crate::recovery::Ready;
use crate::rotation;
use crate::walk::{Item, Next, View, Walk};
use crate::wire::{self, Flags, Marks, Opens, Place};

pub(crate) use serve::{
    Append, Command, Counters, Gate, LOOK_EVENTS_MAX, LOOK_FOR_MAX, LOOKS_MAX, LOOKS_PER_YIELD,
};

/// What the writer shows to all readers of its handle.
#[derive(Clone, Default)]
pub(crate) struct Published {
    pub(crate) view: View,
    /// The last event that is durable.
    pub(crate) head: Option<Event>,
    /// The error that ended the log, after which no event follows.
    pub(crate) stopped: Option<Error>,
}

pub(crate) struct Writer {
    dir: Arc<Directory>,
    options: FileStoreOptions,
    /// Dropped first thing when the log is closed.
    lock: Option<Lock>,
    record: Record,
    /// The directory that the log was found in.
    home: Option<Identity>,
    /// The record could not be written to the lock file.
    is_record_stale: bool,
    file: Arc<dyn DiskFile>,
    identity: Identity,
    /// Where the next commit goes.
    end: u64,
    /// The bytes up to here are on the disk.
    synced: u64,
    /// The length of the file, with the space that was written ahead.
    allocated: u64,
    head: Option<Event>,
    is_foreign: bool,
    sealed: Vec<Sealed>,
    published: watch::Sender<Published>,
    counters: Arc<Counters>,
    /// The lines that the next write will put at `end`.
    buffer: Vec<u8>,
    /// The head, and whether it is foreign, without the lines in the buffer.
    written: (Option<Event>, bool),
    stopped: Option<Error>,
}

impl Writer {
    /// Takes over a log that recovery has made ready, and says so to other processes.
    pub(crate) fn new(
        dir: Arc<Directory>,
        options: FileStoreOptions,
        lock: Lock,
        ready: Ready,
        counters: Arc<Counters>,
    ) -> Result<Self> {
        let print = lock::print(&*ready.file, ready.end).map_err(|cause| dir.unread(&dir.state(), cause))?;
        let record = Record {
            pid: std::process::id(),
            phase: Phase::Open,
            preallocates: options.preallocate_bytes > 0,
            inode: ready.identity.inode,
            print,
            synced: ready.end,
        };
        lock.publish(&record)?;
        lock.sync()?;
        // The lock file has a name before anything depends on it.
        rotation::sync_dir(&dir)?;
        let written = (ready.head.clone(), ready.is_foreign);
        let writer = Self {
            dir,
            options,
            lock: Some(lock),
            record,
            home: ready.home,
            is_record_stale: false,
            file: ready.file,
            identity: ready.identity,
            end: ready.end,
            synced: ready.end,
            allocated: ready.end,
            head: ready.head,
            is_foreign: ready.is_foreign,
            sealed: ready.sealed,
            published: watch::Sender::default(),
            counters,
            buffer: Vec::new(),
            written,
            stopped: None,
        };
        writer.show();
        Ok(writer)
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }

    /// Puts the lines of an append into the buffer, or answers it.
    fn append(&mut self, append: Append, pending: &mut Vec<Append>) {
        // A rotation first flushes the buffer. If that fails, the head is reset, and the batch finds its
        // predecessor missing.
        if append.events[0].is_snapshot() {
            self.flush(pending);
        }
        let fresh = match self.admit(&append, pending) {
            Ok(fresh) => fresh,
            Err(error) => return self.answer(append.reply, Err(error)),
        };
        let first = append.events.len() - fresh;
        if self.rotates_at(&append.events[first..]) {
            let rotated = self.rotate(&append.events[first..]);
            return self.answer(append.reply, rotated);
        }
        if fresh > 0 {
            let end = self.end + self.buffer.len() as u64;
            let before = self.head.as_ref().map(Event::id).or(append.after);
            self.encode(&append.events[first..], before, end);
            self.head = append.events.last().cloned();
        }
        // Events that are held already may be only in the buffer: they are acknowledged with it.
        pending.push(append);
    }

    /// How many of the events, at the end of the batch, are still to be written.
    fn admit(&mut self, append: &Append, pending: &mut Vec<Append>) -> Result<usize> {
        if let Some(stopped) = &self.stopped {
            return Err(stopped.clone());
        }
        let head = self.head.as_ref();
        if head.is_some() && head.map(Event::id) == append.after {
            return Ok(append.events.len());
        }
        let batch = Batch::new(append.after, &append.events)?;
        let checkpoint = head.map_or(Checkpoint::Empty, Checkpoint::at);
        let fresh = batch.fresh_after(&checkpoint)?.len();
        if !batch.held_by(&checkpoint).is_empty() {
            self.flush(pending);
            if let Some(stopped) = &self.stopped {
                return Err(stopped.clone());
            }
            // A flush that failed has taken the head back.
            let checkpoint = self.head.as_ref().map_or(Checkpoint::Empty, Checkpoint::at);
            let fresh = batch.fresh_after(&checkpoint)?.len();
            self.check_held(append.after, batch.held_by(&checkpoint))?;
            return Ok(fresh);
        }
        Ok(fresh)
    }

    /// Compares the events of a batch that should be held with those that are.
    fn check_held(&self, after: Option<EventId>, held: &[Event]) -> Result<()> {
        let view = self.view(self.end);
        let mut walk = Walk::new(self.dir.clone(), ReadFrom::from(after));
        let mut next = walk.next(&view);
        if let (Err(error), Some(event)) = (&next, held.first())
            && let ErrorKind::Pruned { oldest } = error.kind()
            && event.id() >= oldest
        {
            // Below the floor there is nothing to compare: the batch has no event there.
            walk = Walk::new(self.dir.clone(), ReadFrom::from(oldest.prev()));
            next = walk.next(&view);
        }
        let differs = |event: &Event| {
            let message = "another event is held where this one should be: end the other writer, or give this log \
                               a directory of its own";
            Error::fenced(message).at(event.id())
        };
        let mut held = held.iter();
        while let Next::Chunk(chunk) = next? {
            for item in chunk.items {
                let Some(event) = held.next() else {
                    return Ok(());
                };
                let stored = match item {
                    Item::Event(stored) => stored,
                    Item::Slice(at, layout) => Event::from_layout(chunk.data.slice(at as usize..), layout)?,
                };
                if stored != *event {
                    return Err(differs(event));
                }
            }
            if let Some(error) = chunk.error {
                return Err(error);
            }
            next = walk.next(&view);
        }
        held.next().map_or(Ok(()), |event| Err(differs(event)))
    }

    /// Puts the lines of one commit, which begins at `start` of its file behind the event `before`, into
    /// the buffer.
    fn encode(&mut self, events: &[Event], before: Option<EventId>, start: u64) {
        let marks = Some(Marks { start, synced: self.synced.min(start) });
        for (at, event) in events.iter().enumerate() {
            let mut place = Place::default();
            if at == 0 {
                place.marks = marks;
                if start == 0 {
                    place.opens = Some(Opens::behind(before));
                } else if self.is_foreign {
                    place.flags |= Flags::AFTER_FOREIGN;
                }
                self.is_foreign = false;
            }
            if at + 1 == events.len() {
                place.marks = marks;
                place.flags |= Flags::ENDS;
            }
            wire::encode(&mut self.buffer, event, place);
        }
    }

    /// Writes the buffer, and acknowledges the appends that are in it.
    fn flush(&mut self, pending: &mut Vec<Append>) {
        if pending.is_empty() {
            return;
        }
        let written = self.write_out();
        if written.is_err() && self.stopped.is_none() && pending.len() > 1 {
            // Perhaps only one of them is too large for the space that is left.
            for append in std::mem::take(pending) {
                let mut alone = Vec::new();
                self.append(append, &mut alone);
                self.flush(&mut alone);
            }
            return;
        }
        for append in pending.drain(..) {
            self.answer(append.reply, written.clone());
        }
    }

    fn write_out(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let buffer = std::mem::take(&mut self.buffer);
        let written = self.write_at_end(&buffer);
        self.put_back(buffer);
        if let Err(error) = written {
            (self.head, self.is_foreign) = self.written.clone();
            return Err(error);
        }
        self.written = (self.head.clone(), self.is_foreign);
        match self.options.fsync {
            Fsync::Always => self.sync(),
            Fsync::Interval(_) => {
                self.counters.unsynced.notify_one();
                Ok(())
            }
            Fsync::Never => Ok(()),
        }
    }

    /// Keeps the buffer for the next commit, unless it has become very large.
    fn put_back(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        buffer.shrink_to(self.options.commit_bytes_max.saturating_mul(2));
        self.buffer = buffer;
    }

    /// Writes whole commits at once: all of them, or none.
    fn write_at_end(&mut self, bytes: &[u8]) -> Result<()> {
        self.check_unchanged()?;
        self.write_ahead(bytes.len() as u64)?;
        if let Err(cause) = self.file.write_at(bytes, self.end) {
            self.cut_back()?;
            return Err(io_error(&self.dir.state(), "writing", Retry::Safe, cause));
        }
        self.check_joined(self.end)?;
        self.end += bytes.len() as u64;
        self.allocated = self.allocated.max(self.end);
        Ok(())
    }

    /// Cuts off the bytes behind the end.
    fn cut_back(&mut self) -> Result<()> {
        let cut = self.file.truncate(self.end).and_then(|()| self.file.sync());
        self.allocated = self.end;
        cut.map_err(|cause| {
            self.stop(&io_error(&self.dir.state(), "cutting back", Retry::AfterCheckpoint, cause))
        })
    }

    /// Writes space ahead, so that a sync of later writes has no metadata to flush.
    fn write_ahead(&mut self, len: u64) -> Result<()> {
        static PIECE: [u8; 64 << 10] = [0; 64 << 10];
        if self.options.preallocate_bytes == 0 || self.end + len <= self.allocated {
            return Ok(());
        }
        let to = (self.end + len + self.options.preallocate_bytes).next_multiple_of(4096);
        let mut at = self.allocated;
        while at < to {
            let part = usize::try_from(to - at).unwrap_or(PIECE.len()).min(PIECE.len());
            if let Err(cause) = self.file.write_at(&PIECE[..part], at) {
                tracing::warn!(%cause, "there is no space to write ahead; going on without");
                self.options.preallocate_bytes = 0;
                return self.cut_back();
            }
            at += part as u64;
        }
        if let Err(cause) = self.file.sync() {
            return Err(self.stop(&io_error(&self.dir.state(), "syncing", Retry::AfterCheckpoint, cause)));
        }
        self.allocated = to;
        Ok(())
    }
}
